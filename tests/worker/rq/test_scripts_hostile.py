"""The server-side steps under bad conditions: odd numbers in a job, a server without memory."""

from __future__ import annotations

import pytest
import redis
from rq.registry import FailedJobRegistry

from shared import keys
from shared.jobs import MAX_ATTEMPTS, MAX_ATTEMPTS_FIELD
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.kit import claim, expire, finished_job, ids, leases, queued
from worker.state.inflight import Inflight
from worker.state.jobs import Disposition
from worker.steps.admit import admit


@pytest.mark.parametrize("ttl", ["soon", "3.5", "9" * 17, "1e400"])
def test_a_nonsensical_time_to_live_does_not_stop_the_batch(settings: Settings, client: redis.Redis, ttl: str) -> None:
    failed, odd, good = kit.submit(settings, frame(), frame(), frame())
    for job_id in (failed, odd):
        client.hset(keys.rq_job(job_id), mapping={"failure_ttl": ttl, "result_ttl": ttl})
    jobs = claim(settings)
    batch = [finished_job(settings, jobs[0], Disposition.FAILURE), *(finished_job(settings, job) for job in jobs[1:])]
    assert kit.finisher(settings).finish(batch) == [True, True, True]
    assert set(kit.outcomes(client)) == {failed, odd, good}
    assert FailedJobRegistry("live", connection=client).get_job_ids() == [failed]
    assert 0 < client.ttl(keys.rq_job(odd)) <= settings.result_ttl_s


@pytest.mark.parametrize("retries_left", ["many", "1.5", "9" * 30, "9" * 5000])
def test_a_nonsensical_number_of_retries_counts_as_zero(
    settings: Settings, client: redis.Redis, retries_left: str
) -> None:
    (odd,) = kit.submit(settings, frame())
    client.hset(keys.rq_job(odd), "retries_left", retries_left)
    (job,) = claim(settings)
    assert job.retries_left == 0


def test_only_the_beginning_of_an_endless_field_is_fetched(settings: Settings, client: redis.Redis) -> None:
    """A batch of such jobs would fill the worker's memory."""
    (odd,) = kit.submit(settings, frame())
    client.hset(keys.rq_job(odd), mapping={"webhooks": "w" * 1_000_000, "enqueued_at": "2" * 1_000_000})
    (job,) = claim(settings)
    assert len(job.extras) < 2_000
    assert job.enqueued_at is None


def test_a_full_server_lets_a_worker_finish_what_it_holds(settings: Settings, client: redis.Redis) -> None:
    """Only finishing frees memory there, and a script that is refused halfway would lose its jobs."""
    job_ids = kit.submit(settings, *[frame() for _ in range(4)])
    held = claim(settings, limit=2)
    inflight = Inflight()
    inflight.add([job.lease for job in held])
    before = leases(client)
    client.config_set("maxmemory", "1mb")
    try:
        assert kit.keeper(settings, inflight).renew() == []
        assert all(leases(client)[job_id] > ends_at for job_id, ends_at in before.items())
        held += claim(settings)
        assert kit.finisher(settings).finish([finished_job(settings, job) for job in held]) == [True] * 4
    finally:
        client.config_set("maxmemory", "0")
    assert set(kit.outcomes(client)) == set(job_ids)


def test_a_full_server_lets_jobs_go_back(settings: Settings, client: redis.Redis) -> None:
    """Released jobs, jobs of a dead worker, and a job that will be answered as failed."""
    kit.submit(settings, *[frame() for _ in range(3)])
    released, requeued, given_up = claim(settings)
    client.hset(keys.rq_job(given_up.lease.job_id), keys.LOSSES, settings.max_losses - 1)
    expire(client, requeued, given_up)
    inflight = Inflight()
    inflight.add([released.lease])
    client.config_set("maxmemory", "1mb")
    try:
        assert kit.keeper(settings, inflight).release() == 1
        count, jobs = kit.keeper(settings, Inflight(), worker="w2").reap()
    finally:
        client.config_set("maxmemory", "0")
    assert (count, ids(jobs)) == (1, ids([given_up]))
    assert set(queued(client)) == set(ids([released, requeued]))


def test_no_number_in_a_jobs_hash_outlives_the_bound_on_attempts(settings: Settings, client: redis.Redis) -> None:
    """Otherwise a job that fails in every worker would be tried for years."""
    (job_id,) = kit.submit(settings, frame())
    client.hset(keys.rq_job(job_id), "retries_left", 10**9)
    (job,) = claim(settings)
    assert job.retries_left == MAX_ATTEMPTS - 1
    kit.finisher(settings).finish([finished_job(settings, job, Disposition.RETRY)])
    assert kit.fetch(client, job_id).retries_left == MAX_ATTEMPTS - 2
    assert claim(settings)[0].retries_left == MAX_ATTEMPTS - 2


@pytest.mark.parametrize(("producers", "workers"), [(3, 5), (5, 3), (1, 3), (MAX_ATTEMPTS, 1)])
def test_attempts_are_numbered_by_the_producers_setting(
    settings: Settings, client: redis.Redis, producers: int, workers: int
) -> None:
    kit.submit(settings.model_copy(update={"max_attempts": producers}), frame())
    for attempt in range(1, min(producers, 4) + 1):
        (job,) = claim(settings)
        assert admit(job, max_attempts=workers).attempt == attempt
        kit.finisher(settings).finish([finished_job(settings, job, Disposition.RETRY)])


def test_attempts_are_numbered_by_the_workers_setting_if_the_producer_gives_none(
    settings: Settings, client: redis.Redis
) -> None:
    """Older producers and RQ's own enqueue give none."""
    (job_id,) = kit.submit(settings, frame())
    client.hdel(keys.rq_job(job_id), MAX_ATTEMPTS_FIELD)
    (job,) = claim(settings)
    assert (job.retries_left, admit(job, max_attempts=4).attempt) == (2, 2)


@pytest.mark.parametrize("losses", [0, 1000])
@pytest.mark.parametrize("registry", ["live", "bulk"])
def test_a_forged_lease_does_not_take_a_job_from_the_worker_that_holds_it(
    settings: Settings, client: redis.Redis, registry: str, losses: int
) -> None:
    """Otherwise the job would get two results."""
    (job_id,) = kit.submit(settings, frame())
    (job,) = claim(settings)
    client.hset(keys.rq_job(job_id), keys.LOSSES, losses)
    client.zadd(keys.rq_wip(registry), {f"{job_id}:forged": 1})
    assert kit.keeper(settings, Inflight(), worker="w2").reap() == (0, [])
    assert kit.claimer(settings, worker="w2").claim(10).jobs == []
    assert kit.finisher(settings).finish([finished_job(settings, job)]) == [True]
    assert kit.outcomes(client) == {job_id: "sorted"}
    assert client.zcard(keys.rq_wip(registry)) == 0


def test_a_job_with_two_expired_leases_goes_back_once(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    (job,) = claim(settings)
    client.zadd(keys.rq_wip("live"), {f"{job_id}:forged": 1})
    expire(client, job)
    assert kit.keeper(settings, Inflight(), worker="w2").reap() == (1, [])
    assert queued(client) == [job_id]
