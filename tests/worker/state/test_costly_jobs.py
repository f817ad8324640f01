"""The costly jobs of a worker: one is in hand at a time, and none is begun while they are held back."""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import pytest

from tests.kit import PATIENCE_S
from tests.worker import step_inputs
from worker.state import costly_jobs
from worker.state.costly_jobs import CostlyJobs
from worker.state.decode_queue import DecodeQueue, EncodedJob
from worker.state.jobs import ClaimedJob, Lease

T = TypeVar("T")
U = TypeVar("U")


def job(job_id: str, queue: str = "live") -> ClaimedJob:
    return step_inputs.claimed(job_id, lease=Lease(queue, job_id, f"execution-of-{job_id}", 0.0))


def jobs_of(*job_ids: str) -> CostlyJobs:
    jobs = CostlyJobs(["live", "bulk"], others_share=0.05)
    for job_id in job_ids:
        jobs.put(job(job_id))
    return jobs


def begin(jobs: CostlyJobs) -> str | None:
    """Begin a job without waiting for one; the id of the job that is in hand then."""
    claimed = jobs.begin(0.0)
    assert claimed == jobs.in_hand
    return None if claimed is None else claimed.lease.job_id


def test_the_most_urgent_queue_goes_first() -> None:
    jobs = CostlyJobs(["live", "bulk"], others_share=0.05)
    for each in (job("b1", "bulk"), job("l1"), job("l2")):
        jobs.put(each)
    begun = []
    while (job_id := begin(jobs)) is not None:
        begun.append(job_id)
        jobs.end()
    assert begun == ["l1", "l2", "b1"]


def test_the_job_in_hand_is_given_out_until_it_has_ended() -> None:
    """While Redis is unavailable, the decoding thread fails on the same job and asks again."""
    jobs = jobs_of("a", "b")
    assert [begin(jobs), begin(jobs)] == ["a", "a"]
    jobs.end()
    assert jobs.in_hand is None
    assert [begin(jobs), begin(jobs)] == ["b", "b"]
    jobs.end()
    assert begin(jobs) is None


def test_the_job_in_hand_does_not_wait() -> None:
    jobs = jobs_of("a", "b", "c")
    assert len(jobs) == 3
    begin(jobs)
    assert len(jobs) == 2
    assert [claimed.lease.job_id for claimed in jobs.take_all()] == ["b", "c"]
    assert (len(jobs), jobs.take_all()) == (0, [])
    assert begin(jobs) == "a"


def test_no_job_is_begun_while_they_are_held_back() -> None:
    jobs = jobs_of("a", "b")
    assert jobs.hold_back()
    assert [begin(jobs), begin(jobs), begin(jobs)] == [None, None, None]
    assert len(jobs) == 2
    jobs.go_on()
    assert begin(jobs) == "a", "they keep their order"


def test_holding_back_lets_the_job_in_hand_end() -> None:
    jobs = jobs_of("a", "b")
    begin(jobs)
    assert not jobs.hold_back()
    assert begin(jobs) == "a", "after Redis was unavailable, the same job again"
    jobs.end()
    assert jobs.hold_back()
    assert begin(jobs) is None


def test_jobs_that_are_held_back_can_be_taken_and_others_be_added() -> None:
    jobs = jobs_of("a")
    jobs.hold_back()
    jobs.put(job("b"))
    assert [claimed.lease.job_id for claimed in jobs.take_all()] == ["a", "b"]
    jobs.put(job("c"))
    jobs.go_on()
    assert begin(jobs) == "c"


# from two threads ───────────────────────────────────────────────────────────────────────────────────


def begin_on_a_thread(jobs: CostlyJobs, begun: list[ClaimedJob | None]) -> threading.Thread:
    """Begin a job on another thread, which waits for one."""
    thread = threading.Thread(target=lambda: begun.append(jobs.begin(PATIENCE_S)))
    thread.start()
    return thread


def test_a_thread_that_waits_gets_the_next_job() -> None:
    jobs, begun = jobs_of(), list[ClaimedJob | None]()
    thread = begin_on_a_thread(jobs, begun)
    jobs.put(job("a"))
    thread.join(PATIENCE_S)
    assert begun == [jobs.in_hand] == [job("a")]


def test_a_thread_that_waits_gets_no_job_that_comes_while_they_are_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was already waiting when they were held back. The job must not be lost either."""
    asked, take = threading.Event(), DecodeQueue.take

    def take_and_tell(queue: DecodeQueue, timeout_s: float) -> EncodedJob | None:
        asked.set()
        return take(queue, timeout_s)

    monkeypatch.setattr(DecodeQueue, "take", take_and_tell)
    jobs, begun = jobs_of(), list[ClaimedJob | None]()
    thread = begin_on_a_thread(jobs, begun)
    assert asked.wait(PATIENCE_S)
    assert jobs.hold_back()
    jobs.put(job("a"))
    thread.join(PATIENCE_S)
    assert begun == [None]
    assert jobs.in_hand is None
    assert len(jobs) == 1
    jobs.go_on()
    assert begin(jobs) == "a"


def interleaved(
    jobs: CostlyJobs, first: Callable[[], T], second: Callable[[], U], *, at_line: int
) -> tuple[T, U] | None:
    """Call `first`, and `second` before the line of CostlyJobs that runs as number `at_line`, counted from 0.

    It is as if another thread had its turn at that moment. Lines that hold the lock are not counted: there the other
    thread would wait. Returns both answers; None if fewer lines ran.
    """
    lines, before, answers = itertools.count(), sys.gettrace(), list[U]()

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != costly_jobs.__file__:
            return None
        if event == "line" and not jobs._lock.locked() and next(lines) == at_line:
            answers.append(second())
        return trace

    sys.settrace(trace)
    try:
        answer = first()
    finally:
        sys.settrace(before)
    return (answer, answers[0]) if answers else None


def test_jobs_can_be_held_back_at_any_moment_of_begin() -> None:
    """If `hold_back` says that none is in hand, then none is: a suspect is claimed next, and must be alone."""
    answers = set[tuple[str | None, bool]]()
    for at_line in itertools.count():
        jobs = jobs_of("a")
        both = interleaved(jobs, functools.partial(begin, jobs), jobs.hold_back, at_line=at_line)
        if both is None:
            break
        answers.add(both)
        assert len(jobs) == (1 if both[0] is None else 0), f"line {at_line}: the job is lost, or there twice"
    assert answers >= {(None, True), ("a", False)}
    assert ("a", True) not in answers


def test_a_job_can_be_begun_at_any_moment_of_hold_back() -> None:
    answers = set[tuple[bool, str | None]]()
    for at_line in itertools.count():
        jobs = jobs_of("a")
        both = interleaved(jobs, jobs.hold_back, functools.partial(begin, jobs), at_line=at_line)
        if both is None:
            break
        answers.add(both)
    assert (False, "a") in answers
    assert answers <= {(False, "a"), (True, None)}
