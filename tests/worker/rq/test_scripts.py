"""The server-side steps on a real server, each through the Python that calls it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from shared import keys
from shared.schemas import SortResult
from shared.server.connection import connect
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame, picture
from worker.models.decider import Decider
from worker.rq.claimer import Claim, Claimer
from worker.rq.leases import LeaseKeeper
from worker.state.inflight import Inflight
from worker.state.jobs import ClaimedJob, Disposition, FinishedJob, Lease, StageTimings
from worker.steps.admit import admit


def claim(settings: Settings, limit: int = 100, **fields: int) -> list[ClaimedJob]:
    return kit.claimer(settings, **fields).claim(limit).jobs


def ids(jobs: list[ClaimedJob]) -> list[str]:
    return [job.lease.job_id for job in jobs]


def queued(client: redis.Redis, queue: str = "live") -> list[str]:
    return [item.decode() for item in client.lrange(keys.rq_queue(queue), 0, -1)]


def leases(client: redis.Redis, queue: str = "live") -> dict[str, float]:
    """When each lease ends, by job id."""
    return {
        member.decode().split(":")[0]: score
        for member, score in client.zrange(keys.rq_wip(queue), 0, -1, withscores=True)
    }


def server_now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


def sorted_result(settings: Settings, job: ClaimedJob) -> SortResult:
    decider = Decider(kit.manifest(settings.cache_path.parent / "no-files"), engine="litert", worker="w1")
    admitted = admit(job, max_attempts=3)
    return decider.classified(admitted, [0.9, 0.1, 0.1], timings=StageTimings(), finished_at=time.time())


def finished_job(settings: Settings, job: ClaimedJob, disposition: Disposition = Disposition.SUCCESS) -> FinishedJob:
    return FinishedJob(
        job, disposition, None if disposition is Disposition.RETRY else sorted_result(settings, job), "because"
    )


def expire(client: redis.Redis, *jobs: ClaimedJob) -> None:
    """Let these jobs' leases run out a second ago, in the same order as before."""
    for job in jobs:
        lease = job.lease
        client.zincrby(keys.rq_wip(lease.queue), -1000, f"{lease.job_id}:{lease.execution_id}")


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    """Every key with its serialised value."""
    return {key: client.dump(key) for key in client.keys("*")}


# claim ──────────────────────────────────────────────────────────────────────────────────────────────


def test_claims_urgent_queues_first_and_each_in_order(settings: Settings, client: redis.Redis) -> None:
    bulk = kit.submit(settings, *[frame(queue="bulk") for _ in range(3)])
    live = kit.submit(settings, *[frame() for _ in range(3)])
    assert ids(claim(settings, limit=4)) == [*live, bulk[0]]
    assert queued(client, "bulk") == bulk[1:]


def test_claims_no_more_than_asked(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(5)])
    assert ids(claim(settings, limit=2)) == job_ids[:2]
    assert queued(client) == job_ids[2:]
    assert set(leases(client)) == set(job_ids[:2])


def test_claims_no_more_image_bytes_than_fit(settings: Settings, client: redis.Redis) -> None:
    image = picture()
    job_ids = kit.submit(settings, *[frame(image) for _ in range(6)], frame(image, queue="bulk"))
    claimed = kit.claimer(settings).claim(100, max_bytes=2 * len(image) + 1)
    assert ids(claimed.jobs) == job_ids[:3]
    assert queued(client) == job_ids[3:6]
    assert queued(client, "bulk") == job_ids[6:]
    assert set(leases(client)) == set(job_ids[:3])
    assert {kit.fetch(client, job_id).get_status() for job_id in job_ids[3:]} == {"queued"}


def test_a_single_image_over_the_bound_is_claimed_nevertheless(settings: Settings) -> None:
    (job_id,) = kit.submit(settings, frame())
    assert ids(kit.claimer(settings).claim(100, max_bytes=1).jobs) == [job_id]


def test_returns_the_image_and_the_jobs_fields(settings: Settings) -> None:
    image = picture(9)
    (job_id,) = kit.submit(settings, frame(image, frame_id="f9", deadline_ms=500))
    before = time.time()
    claimed = kit.claimer(settings).claim(100)
    assert kit.claimer(settings).images(claimed.jobs) == [image]
    (job,) = claimed.jobs
    assert job.retries_left == 2
    assert (job.result_ttl_s, job.failure_ttl_s) == (str(settings.result_ttl_s), str(settings.failure_ttl_s))
    assert job.extras == ""
    assert job.enqueued_at is not None and before - 60 < job.enqueued_at <= job.lease.started_at
    admitted = admit(job, max_attempts=3)
    assert (admitted.job.job_id, admitted.job.frame_id, admitted.attempt) == (job_id, "f9", 1)


def test_suspension_is_reported_and_nothing_is_claimed(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, frame())
    client.set(keys.RQ_SUSPENDED, 1)
    assert kit.claimer(settings).claim(10) == Claim([], suspended=True)
    assert queued(client) == job_ids


def test_deleted_jobs_are_skipped(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(4)])
    client.delete(keys.rq_job(job_ids[0]), keys.rq_job(job_ids[2]))
    assert ids(claim(settings, limit=2)) == [job_ids[1], job_ids[3]]
    assert queued(client) == []
    assert not client.exists(keys.rq_job(job_ids[0]))


def test_very_many_deleted_jobs_are_skipped_in_parts(settings: Settings, client: redis.Redis) -> None:
    """If one call skipped all of them, the server would serve nobody else meanwhile."""
    kit.submit(settings, frame())
    client.lpush(keys.rq_queue("live"), *(f"deleted-{number}" for number in range(25_000)))
    assert kit.claimer(settings).claim(10) == Claim([], suspended=False, cut_short=True)
    assert len(claim(settings)) == 1


def test_a_burst_does_not_end_at_deleted_jobs(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame())
    client.lpush(keys.rq_queue("live"), *(f"deleted-{number}" for number in range(25_000)))
    kit.run_burst(settings)
    assert list(kit.outcomes(client).values()) == ["sorted"]


def test_a_job_listed_twice_is_claimed_once(settings: Settings, client: redis.Redis) -> None:
    """RQ's own clean-up and ours may both put an abandoned job back."""
    (job_id,) = kit.submit(settings, frame())
    client.rpush(keys.rq_queue("live"), job_id)
    jobs = claim(settings)
    assert ids(jobs) == [job_id]
    assert kit.finisher(settings).finish([finished_job(settings, job) for job in jobs]) == [True]
    client.rpush(keys.rq_queue("live"), job_id)
    assert claim(settings) == []
    assert kit.outcomes(client) == {job_id: "sorted"}


def test_leases_count_from_the_servers_clock(settings: Settings, client: redis.Redis) -> None:
    """A worker whose clock is a day off neither keeps its leases for a day nor loses them at once."""
    (job_id,) = kit.submit(settings, frame())
    wrong = Claimer(client, worker="w1", queues=["live"], lease_s=10, clock=lambda: time.time() - 86400)
    before = server_now(client)
    (job,) = wrong.claim(1).jobs
    assert before + 10 <= leases(client)[job_id] <= server_now(client) + 10
    inflight = Inflight()
    inflight.add([job.lease])
    keeper = LeaseKeeper(
        client,
        worker="w1",
        queues=["live"],
        lease_s=30,
        max_losses=20,
        inflight=inflight,
        clock=lambda: time.time() + 86400,
    )
    assert keeper.reap() == (0, [])
    before = server_now(client)
    assert keeper.renew() == []
    assert before + 30 <= leases(client)[job_id] <= server_now(client) + 30


# wakeup ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def waiting(settings: Settings) -> Iterator[threading.Event]:
    """An event that is set when a waiting worker wakes. Without a token it wakes only after the test has given up."""
    woken = threading.Event()
    client = connect(settings.redis_url, socket_timeout_s=4 * kit.PATIENCE_S)

    def wait() -> None:
        Claimer(client, worker="w1", queues=settings.queue_names, lease_s=settings.lease_s).wait(2 * kit.PATIENCE_S)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    yield woken
    client.rpush(keys.wakeup("live"), "1")  # so that a failed test doesn't have to wait
    thread.join(kit.PATIENCE_S)
    assert not thread.is_alive()


def test_a_waiting_worker_wakes_on_submit(settings: Settings, client: redis.Redis, waiting: threading.Event) -> None:
    kit.wait_until(lambda: client.info("clients")["blocked_clients"] == 1, "the worker waits")
    assert not waiting.is_set()
    kit.submit(settings, frame())
    assert waiting.wait(kit.PATIENCE_S), "the worker slept through the submit"


def test_there_is_no_wakeup_token_when_queues_are_empty(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, *[frame() for _ in range(5)])
    assert client.llen(keys.wakeup("live")) == 5
    claim(settings)
    assert not client.exists(keys.wakeup("live"))


def test_a_wakeup_token_stays_while_work_is_left(settings: Settings, client: redis.Redis) -> None:
    """The token that woke this worker is used up; another worker must not have to wait for the next submit."""
    kit.submit(settings, *[frame() for _ in range(5)])
    client.delete(keys.wakeup("live"))
    claim(settings, limit=2)
    assert client.llen(keys.wakeup("live")) == 1


def test_a_job_that_goes_back_to_its_queue_adds_a_wakeup_token(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame())
    kit.finisher(settings).finish([finished_job(settings, job, Disposition.RETRY) for job in claim(settings)])
    assert client.llen(keys.wakeup("live")) == 1


# finish ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_lost_lease_is_refused_and_the_rest_of_the_batch_is_written(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, *[frame() for _ in range(3)])
    jobs = claim(settings)
    lost = jobs[1].lease
    client.zrem(keys.rq_wip("live"), f"{lost.job_id}:{lost.execution_id}")
    before = client.hgetall(keys.rq_job(lost.job_id))
    assert kit.finisher(settings).finish([finished_job(settings, job) for job in jobs]) == [True, False, True]
    assert client.hgetall(keys.rq_job(lost.job_id)) == before
    assert client.exists(keys.image(lost.job_id))
    assert not client.exists(keys.rq_results(lost.job_id))
    assert kit.outcomes(client) == {jobs[0].lease.job_id: "sorted", jobs[2].lease.job_id: "sorted"}


@pytest.mark.parametrize("disposition", list(Disposition))
def test_nothing_is_written_for_a_lost_lease(settings: Settings, client: redis.Redis, disposition: Disposition) -> None:
    """The job was taken back, and another worker holds it now: only that worker may finish it."""
    kit.submit(settings, frame())
    (old,) = claim(settings)
    expire(client, old)
    assert kit.keeper(settings, Inflight(), worker="w2").reap() == (1, [])
    (new,) = kit.claimer(settings, worker="w2").claim(1).jobs
    before = everything(client)
    assert kit.finisher(settings).finish([finished_job(settings, old, disposition)]) == [False]
    assert everything(client) == before
    assert kit.finisher(settings, worker="w2").finish([finished_job(settings, new)]) == [True]
    assert kit.outcomes(client) == {new.lease.job_id: "sorted"}


def test_finishing_again_changes_nothing(settings: Settings, client: redis.Redis) -> None:
    """A client does that if its connection broke before the answer came."""
    kit.submit(settings, *[frame() for _ in range(2)])
    batch = [finished_job(settings, job) for job in claim(settings)]
    assert kit.finisher(settings).finish(batch) == [True, True]
    before = everything(client)
    assert kit.finisher(settings).finish(batch) == [False, False]
    assert everything(client) == before


def test_retried_jobs_go_to_the_front_with_one_attempt_less(settings: Settings, client: redis.Redis) -> None:
    first, second = kit.submit(settings, frame(), frame())
    (job,) = claim(settings, limit=1)
    kit.finisher(settings).finish([finished_job(settings, job, Disposition.RETRY)])
    assert queued(client) == [first, second]
    assert kit.fetch(client, first).retries_left == 1
    assert kit.outcomes(client) == {}
    assert admit(claim(settings, limit=1)[0], max_attempts=3).attempt == 2


def test_the_lines_stream_is_trimmed(settings: Settings, client: redis.Redis) -> None:
    """Redis trims by whole nodes of its tree, of a hundred entries."""
    short = settings.model_copy(update={"results_maxlen": 10, "max_batch": 256})
    kit.submit(short, *[frame() for _ in range(256)])
    kit.finisher(short).finish([finished_job(short, job) for job in claim(short, limit=256)])
    assert 10 <= client.xlen(keys.results("l1")) < 256


def test_a_lines_stream_expires_after_its_last_result(settings: Settings, client: redis.Redis) -> None:
    """Otherwise streams of forged line names would stay for ever."""
    for _ in range(2):
        kit.submit(settings, frame())
        kit.finisher(settings).finish([finished_job(settings, job) for job in claim(settings)])
        assert keys.STREAM_TTL_S - kit.PATIENCE_S <= client.ttl(keys.results("l1")) <= keys.STREAM_TTL_S
        client.expire(keys.results("l1"), 100)  # as if days had passed


def test_names_of_lines_whose_streams_have_expired_are_forgotten(settings: Settings, client: redis.Redis) -> None:
    """Each batch checks one name, chosen at random."""
    client.sadd(keys.LINES, *[f"gone-{number}" for number in range(5)])
    client.xadd(keys.results("quiet"), {"result": "of a version that set no expiry"})
    client.sadd(keys.LINES, "quiet")

    def is_clean() -> bool:
        kit.submit(settings, frame())
        kit.finisher(settings).finish([finished_job(settings, job) for job in claim(settings)])
        return client.smembers(keys.LINES) == {b"l1", b"quiet"} and client.ttl(keys.results("quiet")) > 0

    kit.wait_until(is_clean, "only the names that have streams are left, and all streams expire")


# renew, release, reap ───────────────────────────────────────────────────────────────────────────────


def test_renewal_prolongs_every_key_of_a_lease(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame(), frame())
    jobs = kit.claimer(settings, lease_s=2).claim(10).jobs
    inflight = Inflight()
    inflight.add([job.lease for job in jobs])
    assert kit.keeper(settings, inflight).renew() == []
    for job in jobs:
        job_id, execution_id = job.lease.job_id, job.lease.execution_id
        assert leases(client)[job_id] == pytest.approx(server_now(client) + settings.lease_s, abs=2)
        assert client.ttl(f"rq:execution:{job_id}:{execution_id}") > settings.lease_s
        assert client.ttl(f"rq:executions:{job_id}") > settings.lease_s
    assert client.ttl("rq:worker:w1:executions") > settings.lease_s


def test_renewal_does_not_revive_a_lost_lease(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame(), frame())
    kept, lost = claim(settings)
    client.zrem(keys.rq_wip("live"), f"{lost.lease.job_id}:{lost.lease.execution_id}")
    inflight = Inflight()
    inflight.add([kept.lease, lost.lease])
    assert kit.keeper(settings, inflight).renew() == [lost.lease]
    assert list(leases(client)) == [kept.lease.job_id]
    assert inflight.held() == [kept.lease]


def test_released_jobs_go_to_the_front_in_order_with_all_their_attempts(
    settings: Settings, client: redis.Redis
) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(5)])
    jobs = claim(settings, limit=3)
    inflight = Inflight()
    inflight.add([job.lease for job in jobs])
    assert kit.keeper(settings, inflight).release() == 3
    assert queued(client) == job_ids
    assert leases(client) == {}
    assert not client.keys("rq:execution*")
    assert not client.exists("rq:worker:w1:executions")
    assert {kit.fetch(client, job_id).retries_left for job_id in job_ids} == {2}
    assert len(inflight) == 0
    assert kit.finisher(settings).finish([finished_job(settings, job) for job in jobs]) == [False] * 3


def test_a_lost_job_is_not_released(settings: Settings, client: redis.Redis) -> None:
    """And if the answer was lost and the call is repeated, no job is put into the queue twice."""
    kit.submit(settings, frame(), frame())
    kept, lost = claim(settings)
    client.zrem(keys.rq_wip("live"), f"{lost.lease.job_id}:{lost.lease.execution_id}")
    for released in (1, 0):
        inflight = Inflight()
        inflight.add([kept.lease, lost.lease])
        assert kit.keeper(settings, inflight).release() == released
        assert queued(client) == ids([kept])


def test_jobs_of_dead_workers_go_to_the_front_in_order(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(12)])
    first, second = claim(settings, limit=4), claim(settings, limit=4)
    expire(client, *first, *second)
    assert kit.keeper(settings, Inflight(), worker="w2").reap() == (8, [])
    assert queued(client) == job_ids
    assert {kit.fetch(client, job_id).retries_left for job_id in job_ids[:8]} == {2}, "a death used up an attempt"
    assert not client.keys("rq:execution*"), "the dead worker's executions are still registered"
    assert not client.exists("rq:worker:w1:executions")


def test_renewed_jobs_of_dead_workers_keep_their_order(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(8)])
    jobs = claim(settings)
    inflight = Inflight()
    inflight.add([job.lease for job in jobs])
    kit.keeper(settings, inflight).renew()
    expire(client, *jobs)
    kit.keeper(settings, Inflight(), worker="w2").reap()
    assert queued(client) == job_ids


def test_leases_that_have_not_run_out_are_left_alone(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame(), frame())
    dead, alive = claim(settings)
    expire(client, dead)
    assert kit.keeper(settings, Inflight(), worker="w2").reap() == (1, [])
    assert list(leases(client)) == [alive.lease.job_id]


def test_a_job_that_is_given_up_is_held_by_the_worker_that_finds_it(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    (dead,) = claim(settings)
    client.hset(keys.rq_job(job_id), keys.LOSSES, settings.max_losses - 1)
    expire(client, dead)
    inflight = Inflight()
    requeued, given_up = kit.keeper(settings, inflight, worker="w2").reap()
    assert requeued == 0
    assert ids(given_up) == [job_id]
    assert given_up[0].lease in inflight
    assert given_up[0].lease.execution_id != dead.lease.execution_id
    assert leases(client)[job_id] > server_now(client)
    assert queued(client) == []
    assert kit.keeper(settings, Inflight(), worker="w3").reap() == (0, [])


def test_leftovers_of_jobs_that_ended_otherwise_are_removed(settings: Settings, client: redis.Redis) -> None:
    canceled, deleted = kit.submit(settings, frame(), frame())
    jobs = claim(settings)
    client.hset(keys.rq_job(canceled), "status", "canceled")
    client.delete(keys.rq_job(deleted))
    client.zadd(keys.rq_wip("live"), {"a-member-of-an-older-rq": 1.0})
    expire(client, *jobs)
    assert kit.keeper(settings, Inflight(), worker="w2").reap() == (0, [])
    assert leases(client) == {}
    assert queued(client) == []
    assert not client.exists(keys.rq_job(deleted))


def test_nothing_is_written_for_an_unknown_lease(settings: Settings, client: redis.Redis) -> None:
    """A lease with another execution id gives no access to the job."""
    kit.submit(settings, frame())
    (job,) = claim(settings)
    other = replace(job, lease=Lease("live", job.lease.job_id, "f" * 32, time.time()))
    before = everything(client)
    assert kit.finisher(settings).finish([finished_job(settings, other)]) == [False]
    assert everything(client) == before
