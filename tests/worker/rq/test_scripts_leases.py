"""The scripts that renew, release and reap leases, on a real server, through the Python that calls them."""

from __future__ import annotations

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.kit import claim, expire, finished_job, ids, leases, queued, server_now
from worker.state.inflight import Inflight


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
