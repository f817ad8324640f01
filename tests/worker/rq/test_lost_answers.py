"""A script whose answer was lost: called again, it returns what the first run did, and does nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.test_scripts import claim, everything, expire, finished_job, ids, leases, queued
from torture.server.proxy import Proxy, proxy_to
from worker.state.inflight import Inflight
from worker.state.jobs import Disposition


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with proxy_to(redis_url) as proxy:
        yield proxy


@pytest.fixture
def through(settings: Settings, proxy: Proxy) -> Settings:
    """Settings of a worker behind the proxy. The scripts are known to the server, so that each call is one EVALSHA."""
    settings = settings.model_copy(update={"redis_url": proxy.url})
    kit.claimer(settings).claim(1)
    kit.finisher(settings).finish([])
    kit.keeper(settings, Inflight()).reap()
    return settings


def test_a_resent_claim_gives_the_same_jobs(through: Settings, proxy: Proxy, client: redis.Redis) -> None:
    """The connection is made anew within the call, which is sent twice."""
    job_ids = kit.submit(through, *[frame(queue=queue) for queue in ("live", "live", "bulk", "live")])
    claimer = kit.claimer(through)
    proxy.drop_answers(1)
    assert ids(claimer.claim(4).jobs) == [job_ids[0], job_ids[1], job_ids[3], job_ids[2]]
    assert len(leases(client)) == 3
    assert claimer.claim(4).jobs == []


@pytest.mark.parametrize("losses", [2, 4])
def test_the_next_claim_gives_what_the_last_one_took(
    through: Settings, proxy: Proxy, client: redis.Redis, losses: int
) -> None:
    """Instead of leaving it to its lease, which would burn an attempt."""
    job_ids = kit.submit(through, *[frame() for _ in range(4)])
    claimer = kit.claimer(through)
    proxy.drop_answers(losses)
    for _ in range(losses // 2):
        with pytest.raises(redis.exceptions.ConnectionError):
            claimer.claim(3)
    jobs = claimer.claim(3).jobs
    assert ids(jobs) == job_ids[:3]
    assert queued(client) == job_ids[3:]
    assert set(leases(client)) == set(job_ids[:3])
    assert [job.retries_left for job in jobs] == [2, 2, 2]
    more = claimer.claim(3).jobs
    assert ids(more) == job_ids[3:]
    assert kit.finisher(through).finish([finished_job(through, job) for job in (*jobs, *more)]) == [True] * 4
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")


def test_a_claim_that_never_arrived_is_made(through: Settings, proxy: Proxy, client: redis.Redis) -> None:
    job_ids = kit.submit(through, frame(), frame())
    claimer = kit.claimer(through)
    client.rename(keys.rq_queue("live"), "hidden")
    proxy.drop_answers(2)
    with pytest.raises(redis.exceptions.ConnectionError):
        claimer.claim(2)
    client.rename("hidden", keys.rq_queue("live"))
    assert ids(claimer.claim(2).jobs) == job_ids


def test_jobs_whose_leases_ran_out_meanwhile_are_not_given_again(
    through: Settings, proxy: Proxy, client: redis.Redis
) -> None:
    kit.submit(through, frame(), frame())
    claimer = kit.claimer(through)
    proxy.drop_answers(2)
    with pytest.raises(redis.exceptions.ConnectionError):
        claimer.claim(2)
    client.zremrangebyrank(keys.rq_wip("live"), 0, 0)
    assert len(claimer.claim(2).jobs) == 1


def test_a_job_without_attempts_left_is_answered_by_who_took_it(
    through: Settings, proxy: Proxy, client: redis.Redis
) -> None:
    (job_id,) = kit.submit(through, frame())
    client.hset(keys.rq_job(job_id), "retries_left", 0)
    expire(client, *claim(through))
    keeper = kit.keeper(through, Inflight(), worker="w2")
    proxy.drop_answers(2)
    with pytest.raises(redis.exceptions.ConnectionError):
        keeper.reap()
    _, exhausted = keeper.reap()
    assert ids(exhausted) == [job_id]
    assert keeper.reap() == (0, [])


def test_a_finish_sent_twice_answers_what_the_first_one_did(
    through: Settings, proxy: Proxy, client: redis.Redis
) -> None:
    """Also where Redis keeps nothing of the job (result_ttl 0), or has it in the queue again (a retry)."""
    kit.submit(through, *[frame() for _ in range(5)])
    jobs = claim(through)
    client.zrem(keys.rq_wip("live"), f"{jobs[1].lease.job_id}:{jobs[1].lease.execution_id}")
    batch = [
        finished_job(through, jobs[0]),
        finished_job(through, jobs[1]),
        finished_job(through, replace(jobs[2], result_ttl_s="0")),
        finished_job(through, jobs[3], Disposition.RETRY),
        finished_job(through, jobs[4], Disposition.FAILURE),
    ]
    finisher = kit.finisher(through)
    proxy.drop_answers(2)
    with pytest.raises(redis.exceptions.ConnectionError):
        finisher.finish(batch)
    before = everything(client)
    assert finisher.finish(batch) == [True, False, True, True, True]
    assert everything(client) == before
    assert len(kit.outcomes(client)) == 3


def test_jobs_whose_finish_was_sent_twice_are_counted_once(
    through: Settings, proxy: Proxy, client: redis.Redis
) -> None:
    """They are in `sortline_jobs_total`, and none of their leases is told lost."""
    job_ids = kit.submit(through, frame(), frame())
    proxy.drop_answers(3, to=b"success")
    registry = kit.run_burst(through).registry
    assert registry.get_sample_value("sortline_jobs_total", {"line": "l1", "outcome": "sorted"}) == len(job_ids)
    assert registry.get_sample_value("sortline_leases_lost_total") == 0
    assert set(kit.outcomes(client)) == set(job_ids)
