"""How many jobs of the other queues are due."""

from __future__ import annotations

from worker.state.claim_share import ClaimShare


def test_others_are_due_after_enough_urgent_jobs() -> None:
    share = ClaimShare(0.25, most=8)
    for _ in range(3):
        share.count(urgent=2, others=0, ran_empty=False, others_allowed=False)
    assert share.due(8) == 1
    assert share.due(0) == 0
    share.count(urgent=2, others=1, ran_empty=False, others_allowed=True)
    assert share.due(8) == 1, "half a job was left over"


def test_nothing_stays_due_if_the_urgent_queue_ran_empty_or_no_other_job_waits() -> None:
    share = ClaimShare(1.0, most=8)
    share.count(urgent=3, others=0, ran_empty=False, others_allowed=True)
    share.count(urgent=1, others=0, ran_empty=True, others_allowed=True)
    assert share.due(8) == 0
    share.count(urgent=3, others=0, ran_empty=False, others_allowed=True)
    share.count(urgent=3, others=0, ran_empty=False, others_allowed=False)
    assert share.due(8) == 6, "there was no room for them"
    share.count(urgent=3, others=0, ran_empty=False, others_allowed=True)
    assert share.due(8) == 0


def test_no_more_is_due_than_a_batch_however_long_there_is_no_room() -> None:
    share = ClaimShare(0.5, most=4)
    for _ in range(1000):
        share.count(urgent=4, others=0, ran_empty=False, others_allowed=False)
    share.count(urgent=0, others=4, ran_empty=False, others_allowed=True)
    assert share.due(16) == 0
