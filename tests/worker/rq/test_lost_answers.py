"""A script whose answer was lost: a second call returns what the first run did, and does nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame, picture
from tests.worker.rq.kit import claim, everything, expire, finished_job, ids, leases, queued
from torture.server.proxy import Proxy, proxy_to
from worker.state.inflight import Inflight
from worker.state.jobs import Disposition


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with proxy_to(redis_url) as proxy:
        yield proxy


@pytest.fixture
def through(settings: Settings, proxy: Proxy) -> Settings:
    """Settings of a worker behind the proxy. The scripts are loaded already, so that each call is one EVALSHA."""
    settings = settings.model_copy(update={"redis_url": proxy.url})
    kit.claimer(settings).claim(1)
    kit.finisher(settings).finish([])
    kit.keeper(settings, Inflight()).reap()
    return settings


def test_a_resent_claim_gives_the_same_jobs(through: Settings, proxy: Proxy, client: redis.Redis) -> None:
    """Within one call of `claim`, the client connects again and sends the command a second time."""
    job_ids = kit.submit(through, *[frame(queue=queue) for queue in ("live", "live", "bulk", "live")])
    claimer = kit.claimer(through)
    proxy.drop_answers(1)
    assert ids(claimer.claim(4).jobs) == [job_ids[0], job_ids[1], job_ids[3], job_ids[2]]
    assert len(leases(client)) == 3
    assert claimer.claim(4).jobs == []


def test_what_an_unanswered_claim_has_set_apart_comes_apart_again(through: Settings, proxy: Proxy) -> None:
    """These jobs count against no limit. If they came as ordinary jobs, their images could fill the memory."""
    hopeless = kit.submit(through, *[frame(deadline_ms=0.001) for _ in range(20)])
    others = kit.submit(through, frame(), frame())
    claimer = kit.claimer(through)
    proxy.drop_answers(2)
    with pytest.raises(redis.exceptions.ConnectionError):
        claimer.claim(1)
    again = claimer.claim(1)
    assert ids(again.expired) == hopeless and ids(again.jobs) == others[:1]
    assert {job.image_bytes for job in again.expired} == {len(picture())}


@pytest.mark.parametrize("losses", [2, 4])
def test_the_next_claim_returns_the_jobs_of_a_claim_that_was_not_answered(
    through: Settings, proxy: Proxy, client: redis.Redis, losses: int
) -> None:
    """If these jobs waited for their leases to run out, that would count as a loss."""
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


def suspects_of_a_crash(settings: Settings, count: int) -> list[str]:
    job_ids = kit.submit(settings, *[frame() for _ in range(count)])
    kit.claimer(settings, worker="dead").claim(count)
    keeper = kit.keeper(settings, Inflight(), worker="w9")
    keeper.take_back_from("dead", crash="SIGSEGV")
    assert keeper.reap() == (count, [])
    return job_ids[::-1]


@pytest.mark.parametrize("losses", [1, 2])
@pytest.mark.parametrize("then", ["claim_suspect", "claim"])
def test_a_suspect_whose_claim_was_not_answered_comes_with_the_next_claim_alone(
    through: Settings, proxy: Proxy, client: redis.Redis, losses: int, then: str
) -> None:
    first, second = suspects_of_a_crash(through, 2)
    (other,) = kit.submit(through, frame())
    claimer = kit.claimer(through)
    proxy.drop_answers(losses)
    if losses == 1:  # the client sends the command again within the call
        jobs = claimer.claim_suspect().jobs
    else:
        with pytest.raises(redis.exceptions.ConnectionError):
            claimer.claim_suspect()
        jobs = (claimer.claim_suspect() if then == "claim_suspect" else claimer.claim(10)).jobs
    assert ids(jobs) == [first]
    assert jobs[0].deaths.suspicion == "SIGSEGV"
    assert client.lrange(keys.suspects("live"), 0, -1) == [second.encode()]
    assert queued(client) == [other]


def test_a_crash_counts_once_although_the_first_reap_was_not_answered(
    through: Settings, proxy: Proxy, client: redis.Redis
) -> None:
    (job_id,) = kit.submit(through, frame())
    claim(through)
    keeper = kit.keeper(through, Inflight(), worker="w2")
    keeper.take_back_from("w1", crash="SIGSEGV")
    proxy.drop_answers(2)
    with pytest.raises(redis.exceptions.ConnectionError):
        keeper.reap()
    assert keeper.reap() == (0, [])
    assert client.hmget(keys.rq_job(job_id), keys.CRASHES, keys.LOSSES) == [b"1", b"0"]
    assert client.lrange(keys.suspects("live"), 0, -1) == [job_id.encode()]


def test_a_claim_that_never_arrived_is_made(through: Settings, proxy: Proxy, client: redis.Redis) -> None:
    job_ids = kit.submit(through, frame(), frame())
    claimer = kit.claimer(through)
    client.rename(keys.rq_queue("live"), "hidden")
    proxy.drop_answers(2)
    with pytest.raises(redis.exceptions.ConnectionError):
        claimer.claim(2)
    client.rename("hidden", keys.rq_queue("live"))
    assert ids(claimer.claim(2).jobs) == job_ids


def test_jobs_whose_leases_ran_out_meanwhile_are_not_returned_again(
    through: Settings, proxy: Proxy, client: redis.Redis
) -> None:
    kit.submit(through, frame(), frame())
    claimer = kit.claimer(through)
    proxy.drop_answers(2)
    with pytest.raises(redis.exceptions.ConnectionError):
        claimer.claim(2)
    client.zremrangebyrank(keys.rq_wip("live"), 0, 0)
    assert len(claimer.claim(2).jobs) == 1


def test_a_job_that_is_given_up_is_returned_to_the_worker_that_took_it(
    through: Settings, proxy: Proxy, client: redis.Redis
) -> None:
    (job_id,) = kit.submit(through, frame())
    expire(client, *claim(through))
    client.hset(keys.rq_job(job_id), keys.LOSSES, through.max_losses - 1)
    keeper = kit.keeper(through, Inflight(), worker="w2")
    proxy.drop_answers(2)
    with pytest.raises(redis.exceptions.ConnectionError):
        keeper.reap()
    _, given_up = keeper.reap()
    assert ids(given_up) == [job_id]
    assert given_up[0].deaths.losses == through.max_losses
    assert keeper.reap() == (0, [])


def test_a_finish_sent_twice_answers_what_the_first_one_did(
    through: Settings, proxy: Proxy, client: redis.Redis
) -> None:
    """That includes a job of which Redis keeps nothing (result_ttl 0), and one that is in the queue again (a retry)."""
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
    """They count in `sortline_jobs_total`, and none of their leases counts as lost."""
    job_ids = kit.submit(through, frame(), frame())
    proxy.drop_answers(3, to=b"success")
    registry = kit.run_burst(through).registry
    assert registry.get_sample_value("sortline_jobs_total", {"line": "l1", "outcome": "sorted"}) == len(job_ids)
    assert registry.get_sample_value("sortline_leases_lost_total") == 0
    assert set(kit.outcomes(client)) == set(job_ids)
