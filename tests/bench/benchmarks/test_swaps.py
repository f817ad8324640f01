"""Which images `bench swaps` counts as sorted during swaps, and which as sorted without."""

from __future__ import annotations

from bench.benchmarks.swaps import PAUSE_S, Interval, delays, run_intervals
from shared.schemas import Outcome, SortResult, Timings


def result(captured_at: float, *, took_s: float) -> SortResult:
    return SortResult(
        job_id=f"job-{captured_at}",
        line="l",
        camera="c",
        frame_id=0,
        captured_at=captured_at,
        finished_at=captured_at + 30 + took_s,  # by another clock
        outcome=Outcome.SORTED,
        labels=(),
        lane="good",
        timings_ms=Timings(total=took_s * 1000),
        worker="w",
    )


def test_swaps_come_first_and_then_as_much_time_without() -> None:
    now, swapped_at = 100.0, list[float]()

    def swap() -> None:
        swapped_at.append(now)
        sleep(2.0)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    with_swaps, without = run_intervals(swap, 3, on_progress=lambda text: None, clock=lambda: now, sleep=sleep)
    middle = 100.0 + 3 * (2.0 + PAUSE_S)
    assert with_swaps == Interval(swaps=True, began_at=100.0, ended_at=middle)
    assert without == Interval(swaps=False, began_at=middle, ended_at=2 * middle - 100.0)
    assert [with_swaps.began_at <= at < with_swaps.ended_at for at in swapped_at] == [True] * 3


def test_images_belong_to_the_interval_in_which_they_were_captured() -> None:
    """Also if they are sorted in the next one. Those before the first interval and after the last belong to none."""
    intervals = [
        Interval(swaps=True, began_at=10.0, ended_at=20.0),
        Interval(swaps=False, began_at=20.0, ended_at=30.0),
        Interval(swaps=True, began_at=30.0, ended_at=35.0),
    ]
    slow = [result(at, took_s=0.5) for at in (10.0, 19.75, 34.0)]
    fast = [result(at, took_s=0.25) for at in (20.0, 29.0)]
    outside = [result(at, took_s=9.0) for at in (9.0, 35.0)]
    found = delays([*slow, *fast, *outside], intervals)
    assert found == {
        "with_swaps_ms": {"images": 3, "p50": 500.0, "p95": 500.0, "p99": 500.0, "max": 500.0},
        "without_swaps_ms": {"images": 2, "p50": 250.0, "p95": 250.0, "p99": 250.0, "max": 250.0},
        "p99_ratio": 2.0,
    }
