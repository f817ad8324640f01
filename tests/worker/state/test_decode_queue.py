"""In which order the decode threads get the jobs."""

from __future__ import annotations

import threading

from tests.worker import kit, step_inputs
from worker.state.decode_queue import DecodeQueue, EncodedJob
from worker.state.jobs import Lease


def job(job_id: str, queue: str = "live") -> EncodedJob:
    return EncodedJob(step_inputs.claimed(job_id, lease=Lease(queue, job_id, f"execution-of-{job_id}", 0.0)), b"image")


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


def test_the_share_is_of_the_time_that_the_jobs_take() -> None:
    jobs = DecodeQueue(["live", "bulk"], others_share=0.25)
    for queue, seconds in {"live": 0.002, "bulk": 0.008}.items():
        jobs.observe(step_inputs.claimed(lease=Lease(queue, "j", "e", 0.0)), seconds)
    jobs.put([*(job(f"l{number}") for number in range(36)), *(job(f"b{number}", "bulk") for number in range(9))])
    assert taken(jobs).index("b0") == 16, "after 0.032 s of live jobs, of which a fourth is due to bulk"


def test_no_share_is_saved_up_while_none_of_the_others_waits() -> None:
    jobs = DecodeQueue(["live", "bulk"], others_share=0.25)
    jobs.put([job(f"l{number}") for number in range(20)])
    assert len(taken(jobs)) == 20
    jobs.put([job("b1", "bulk"), job("l1"), job("l2")])
    assert taken(jobs) == ["l1", "l2", "b1"]


def test_waiting_jobs_are_still_handed_out_after_the_queue_was_closed() -> None:
    jobs = DecodeQueue(["live"], others_share=0.05)
    jobs.put([job("a")])
    jobs.close()
    assert not jobs.is_finished
    assert taken(jobs) == ["a"]
    assert jobs.is_finished


def test_a_waiting_thread_gets_the_next_job_and_wakes_when_the_queue_closes() -> None:
    jobs = DecodeQueue(["live"], others_share=0.05)
    got: list[EncodedJob | None] = []
    thread = threading.Thread(target=lambda: got.extend([jobs.take(kit.PATIENCE_S), jobs.take(kit.PATIENCE_S)]))
    thread.start()
    jobs.put([job("a")])
    kit.wait_until(lambda: len(jobs) == 0, "it is taken")
    jobs.close()
    thread.join(kit.PATIENCE_S)
    assert got == [job("a"), None]


def test_threads_that_share_the_queue_get_each_job_once_and_all_end() -> None:
    jobs = DecodeQueue(["live", "bulk"], others_share=0.25)
    got: list[str] = []

    def work() -> None:
        while not jobs.is_finished:
            job = jobs.take(100 * kit.PATIENCE_S)
            if job is not None:
                got.append(job.claimed.lease.job_id)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    names = [f"{queue}-{number}" for number in range(500) for queue in ("live", "bulk")]
    for name in names:
        jobs.put([job(name, name.partition("-")[0])])
    jobs.close()
    for thread in threads:
        thread.join(kit.PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(got) == sorted(names)


def test_all_waiting_jobs_can_be_taken_at_once_even_after_the_queue_was_closed() -> None:
    jobs = DecodeQueue(["live", "bulk"], others_share=0.25)
    jobs.put([job("b", "bulk"), job("l")])
    assert [each.claimed.lease.job_id for each in jobs.take_all()] == ["l", "b"]
    jobs.put([job("a")])
    jobs.close()
    assert [each.claimed.lease.job_id for each in jobs.take_all()] == ["a"]
    assert jobs.take_all() == []
    assert jobs.is_finished
