"""In which order the decode threads get the jobs."""

from __future__ import annotations

import threading

from tests.worker import kit
from worker.state.decode_queue import DecodeQueue, EncodedJob
from worker.state.jobs import Lease


def job(job_id: str, queue: str = "live") -> EncodedJob:
    return EncodedJob(kit.claimed(job_id, lease=Lease(queue, job_id, f"execution-of-{job_id}", 0.0)), b"image")


def taken(jobs: DecodeQueue) -> list[str]:
    found = []
    while (each := jobs.take(0.0)) is not None:
        found.append(each.claimed.lease.job_id)
    return found


def test_the_most_urgent_queue_goes_first_and_each_in_its_order() -> None:
    jobs = DecodeQueue(["live", "bulk"], others_share=0.05)
    jobs.put([job("b1", "bulk"), job("l1"), job("b2", "bulk")])
    jobs.put([job("l2")])
    assert len(jobs) == 4
    assert taken(jobs) == ["l1", "l2", "b1", "b2"]
    assert len(jobs) == 0


def test_the_others_keep_their_share_while_the_most_urgent_queue_never_runs_empty() -> None:
    jobs = DecodeQueue(["live", "bulk", "later"], others_share=0.25)
    jobs.put([*(job(f"l{number}") for number in range(12)), job("b1", "bulk"), job("t1", "later")])
    assert taken(jobs) == ["l0", "l1", "l2", "l3", "b1", "l4", "l5", "l6", "l7", "t1", "l8", "l9", "l10", "l11"]


def test_no_share_is_saved_up_while_none_of_the_others_waits() -> None:
    jobs = DecodeQueue(["live", "bulk"], others_share=0.25)
    jobs.put([job(f"l{number}") for number in range(20)])
    assert len(taken(jobs)) == 20
    jobs.put([job("b1", "bulk"), job("l1"), job("l2")])
    assert taken(jobs) == ["l1", "l2", "b1"]


def test_what_waits_is_still_handed_out_after_it_was_closed() -> None:
    jobs = DecodeQueue(["live"], others_share=0.05)
    jobs.put([job("a")])
    jobs.close()
    assert not jobs.is_finished
    assert taken(jobs) == ["a"]
    assert jobs.is_finished


def test_a_thread_that_waits_gets_a_job_that_comes_and_is_told_of_the_end() -> None:
    jobs = DecodeQueue(["live"], others_share=0.05)
    got: list[EncodedJob | None] = []
    thread = threading.Thread(target=lambda: got.extend([jobs.take(kit.PATIENCE_S), jobs.take(kit.PATIENCE_S)]))
    thread.start()
    jobs.put([job("a")])
    kit.wait_until(lambda: len(jobs) == 0, "it is taken")
    jobs.close()
    thread.join(kit.PATIENCE_S)
    assert got == [job("a"), None]
