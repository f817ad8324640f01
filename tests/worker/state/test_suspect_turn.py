"""When a worker may take suspects: at once when it is idle, else at a bounded share of its time."""

from __future__ import annotations

import pytest

from tests.kit import ManualClock
from worker.state.suspect_turn import SHARE, SuspectTurn


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def take_turn(turn: SuspectTurn, clock: ManualClock, *, drain_s: float, suspect_s: float) -> int:
    """Take one turn in which each suspect takes `suspect_s`; how many suspects it took."""
    turn.begin()
    clock.now += drain_s
    taken = 0
    while turn.may_claim():
        taken += 1
        clock.now += suspect_s
    turn.end()
    return taken


def test_a_worker_that_has_just_started_may_begin_a_turn(clock: ManualClock) -> None:
    turn = SuspectTurn(clock=clock)
    turn.observe(is_idle=False)
    assert turn.due_in_s() <= 0
    assert not turn.is_on
    turn.begin()
    assert turn.is_on


def test_a_busy_worker_rests_so_that_turns_take_only_their_share_of_time(clock: ManualClock) -> None:
    turn = SuspectTurn(clock=clock)
    began_at, spent_s = clock.now, 0.0
    for _ in range(10):
        before = clock.now
        take_turn(turn, clock, drain_s=0.25, suspect_s=0.5)
        spent_s += clock.now - before
        turn.observe(is_idle=False)
        clock.now += turn.due_in_s()
    assert spent_s / (clock.now - began_at) == pytest.approx(SHARE)


def test_a_turn_claims_suspects_for_as_long_as_the_other_jobs_took_to_finish(clock: ManualClock) -> None:
    assert take_turn(SuspectTurn(clock=clock), clock, drain_s=0.5, suspect_s=0.03125) == 16
    assert take_turn(SuspectTurn(clock=clock), clock, drain_s=0.5, suspect_s=60) == 1


def test_an_idle_worker_takes_one_suspect_a_turn(clock: ManualClock) -> None:
    """Between two suspects it claims other jobs."""
    assert take_turn(SuspectTurn(clock=clock), clock, drain_s=0, suspect_s=0.02) == 1


def test_an_idle_worker_rests_no_longer_than_the_last_turn_took(clock: ManualClock) -> None:
    turn = SuspectTurn(clock=clock)
    take_turn(turn, clock, drain_s=0, suspect_s=3)
    turn.observe(is_idle=True)
    assert turn.due_in_s() == pytest.approx(3)
    clock.now += 2
    turn.observe(is_idle=True)
    assert turn.due_in_s() == pytest.approx(1)


def test_a_worker_that_is_idle_only_between_two_frames_does_not_count_as_idle(clock: ManualClock) -> None:
    turn = SuspectTurn(clock=clock)
    take_turn(turn, clock, drain_s=0, suspect_s=3)
    for _ in range(100):  # ten frames a second
        turn.observe(is_idle=True)
        clock.now += 0.1
        assert turn.due_in_s() > 0
        turn.observe(is_idle=False)


def test_the_time_that_a_crash_has_cost_counts_as_a_turn(clock: ManualClock) -> None:
    turn = SuspectTurn(lost_s=3, clock=clock)
    turn.observe(is_idle=False)
    assert turn.due_in_s() == pytest.approx(3 / SHARE - 3)
    turn.observe(is_idle=True)
    assert turn.due_in_s() == pytest.approx(3)
