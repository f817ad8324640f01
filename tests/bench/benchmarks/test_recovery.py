"""When `bench recovery` says that a worker has recovered."""

from __future__ import annotations

import math

import pytest

from bench.benchmarks.recovery import Frame, frames_of, recovered, windows_of
from shared.errors import Transient
from shared.schemas import Outcome, SortResult, Timings


def result(number: int, *, total_ms: float = 10.0, outcome: Outcome = Outcome.SORTED) -> SortResult:
    return SortResult(
        job_id=f"job-{number}",
        line="steady",
        camera="c",
        frame_id=number,
        captured_at=100 + number / 10,
        finished_at=100 + number / 10 + total_ms / 1000,
        outcome=outcome,
        timings_ms=Timings(total=total_ms),
        lane="good",
        worker="w",
    )


def story(*, slow_until: float) -> list[Frame]:
    """50 a second for 40 s: the overload lasts from second 10 to second 20, and its traces until `slow_until`."""
    times = [number / 50 for number in range(2000)]
    return [Frame(at, math.inf if 10 <= at < 20 else 80.0 if 20 <= at < slow_until else 10.0) for at in times]


def test_a_frame_that_is_not_in_time_or_was_refused_is_infinitely_late() -> None:
    found = [result(3), result(0), result(1, outcome=Outcome.LATE), result(5, outcome=Outcome.EXPIRED)]
    frames = frames_of(found, rate_hz=10.0)
    assert [frame.total_ms for frame in frames] == [10.0, math.inf, math.inf, 10.0, math.inf, math.inf]
    assert [frame.captured_at for frame in frames] == pytest.approx([100.0, 100.1, 100.2, 100.3, 100.4, 100.5])
    assert frames_of([], rate_hz=10.0) == []
    assert windows_of([]) == []


def test_recovered_is_the_first_second_that_is_no_slower_than_any_before() -> None:
    for slow_until, seconds in ((20.0, 0.0), (22.5, 2.5)):
        windows = windows_of(story(slow_until=slow_until))
        found = recovered(windows, began_at=1.0, overload_from=10.0, overload_until=20.0)
        assert found["before_p99_ms"] == 10.0
        assert found["during_p99_ms"] is None
        assert found["recovery_s"] == pytest.approx(seconds, abs=0.11)


def test_one_that_does_not_recover_is_told_from_one_that_has_at_once() -> None:
    windows = windows_of(story(slow_until=40.0))
    assert recovered(windows, began_at=1.0, overload_from=10.0, overload_until=20.0)["recovery_s"] is None


def test_without_a_time_before_to_compare_with_the_run_is_void() -> None:
    windows = windows_of(story(slow_until=20.0))
    for began_at, overload_from in ((9.5, 10.0), (1.0, 15.0)):
        with pytest.raises(Transient, match="the run is void"):
            recovered(windows, began_at=began_at, overload_from=overload_from, overload_until=20.0)
