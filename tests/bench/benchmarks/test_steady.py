"""Which misses `bench steady` attributes to the machine."""

from __future__ import annotations

import pytest

from bench.benchmarks.steady import Answer, answers_of, misses
from bench.measuring.stalls import Stall
from bench.measuring.traffic import TrafficResult, TrafficSpec
from shared.errors import Transient
from shared.schemas import Outcome, SortResult, Timings


def answer(captured_at: float, total_ms: float = 50.0, *, deadline_ms: float = 150.0) -> Answer:
    outcome = Outcome.SORTED if total_ms <= deadline_ms else Outcome.LATE
    return Answer(captured_at, captured_at + total_ms / 1000, total_ms, outcome)


def usual() -> list[Answer]:
    """Images that are in time, so that the margin is 100 ms."""
    return [answer(number / 10) for number in range(100)]


def found(answers: list[Answer], *stalls: Stall, refused: int = 0) -> dict[str, float]:
    return misses(sorted(answers), stalls, refused=refused, deadline_ms=150.0, load=0.8)


def test_a_miss_during_a_stall_that_uses_the_margin_up_is_the_machines() -> None:
    record = found([*usual(), answer(20.0, 260.0)], Stall(20.01, 20.21))
    assert (record["margin_ms"], record["misses"]) == (100.0, 1)
    assert (record["control_misses"], record["misses_beyond_control"]) == (1, 0)


def test_a_miss_beside_a_stall_that_leaves_enough_is_the_workers() -> None:
    record = found([*usual(), answer(20.0, 260.0)], Stall(20.01, 20.10))
    assert (record["misses"], record["control_misses"], record["misses_beyond_control"]) == (1, 0, 1)
    assert record["misses_beyond_control_share"] == pytest.approx(1 / 101, abs=1e-6)
    (described,) = record["first_misses_beyond_control"]  # type: ignore[misc]
    assert described["total_ms"] == 260.0
    assert described["delayed_by_stalls_ms"] == 90.0


def test_what_waits_behind_a_stall_is_the_machines_until_a_worker_could_have_caught_up() -> None:
    """A stall of 300 ms at a load of 0.8 delays by more than 100 ms for (300 - 100) / 0.2 = 1000 ms."""
    stall = Stall(20.0, 20.3)
    soon, late = answer(20.9, 200.0), answer(21.1, 200.0)
    record = found([*usual(), soon, late], stall)
    assert (record["misses"], record["misses_beyond_control"]) == (2, 1)


def test_an_image_that_the_worker_made_despite_a_stall_counts_for_the_control_only() -> None:
    record = found([*usual(), answer(20.0, 140.0)], Stall(20.01, 20.13))
    assert (record["misses"], record["control_misses"], record["misses_beyond_control"]) == (0, 1, 0)


def test_what_was_refused_is_a_miss_of_the_workers() -> None:
    record = found(usual(), Stall(0.0, 50.0), refused=3)
    assert (record["frames"], record["misses"], record["misses_beyond_control"]) == (103, 3, 3)


def test_without_an_image_in_time_there_is_no_usual_time() -> None:
    with pytest.raises(Transient, match="not one image was in time"):
        found([answer(1.0, 200.0)])


def test_each_accepted_image_has_one_answer_or_the_run_is_void() -> None:
    spec = TrafficSpec(line="l", count=2)
    sent = TrafficResult(2, 2, {}, 0, 10.0, 1.0, 1, {})
    one, two = (
        SortResult(
            job_id=name,
            line="l",
            camera="c",
            captured_at=1.0,
            finished_at=2.0,
            outcome=Outcome.LATE,
            timings_ms=Timings(total=1000.0),
            lane="good",
            worker="w",
        )
        for name in ("one", "two")
    )
    assert len(answers_of([one, two], spec=spec, sent=sent)) == 2
    for wrong in ([one], [one, one], [one, two, two]):
        with pytest.raises(Transient, match="the run is void"):
            answers_of(wrong, spec=spec, sent=sent)
