"""How many jobs may be held, and how many the next claim may take."""

from __future__ import annotations

import pytest

from worker.steps.claim_limits import ClaimBounds, ClaimLimits, claim_bounds, claim_limits, max_answered


def test_a_worker_holds_what_keeps_it_busy_and_room_for_urgent_jobs() -> None:
    assert claim_bounds(enough=None, max_batch=16, has_others=True) == ClaimBounds(48, 16, takes_others=True)
    assert claim_bounds(enough=5, max_batch=16, has_others=True) == ClaimBounds(5, 5, takes_others=True)
    assert claim_bounds(enough=99, max_batch=16, has_others=False) == ClaimBounds(48, 0, takes_others=True)


def test_costly_jobs_that_wait_take_no_place_up_to_a_bound() -> None:
    assert claim_bounds(enough=None, max_batch=2, has_others=True, costly=7) == ClaimBounds(13, 2, takes_others=True)
    assert claim_bounds(enough=None, max_batch=2, has_others=True, costly=90) == ClaimBounds(20, 2, takes_others=False)


@pytest.mark.parametrize(
    ("held", "urgent_held", "expected"),
    [
        (0, 0, ClaimLimits(2, 6)),
        (6, 0, ClaimLimits(2, 0)),  # full of others: the room is left
        (7, 1, ClaimLimits(1, 0)),
        (6, 6, ClaimLimits(0, 0)),
        (20, 0, ClaimLimits(2, 0)),  # it may hold less than before, but urgent jobs still have their room
        (20, 2, ClaimLimits(0, 0)),
    ],
)
def test_what_a_claim_may_take(held: int, urgent_held: int, expected: ClaimLimits) -> None:
    bounds = ClaimBounds(capacity=6, room=2, takes_others=True)
    assert claim_limits(bounds, held=held, urgent_held=urgent_held, max_batch=2) == expected


def test_more_results_may_wait_to_be_written_where_batches_are_large() -> None:
    assert [max_answered(size) for size in (1, 16, 64, 256, 1024)] == [256, 256, 256, 640, 2176]
