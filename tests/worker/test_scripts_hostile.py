"""The server-side steps where things are not as they should be: odd numbers in a job, a server without memory."""

from __future__ import annotations

import pytest
import redis
from rq.registry import FailedJobRegistry

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.test_scripts import claim, done, leases
from worker.items import Ending
from worker.leases import Inflight


@pytest.mark.parametrize("ttl", ["soon", "3.5", "9" * 17, "1e400"])
def test_a_nonsensical_time_to_live_does_not_stop_the_batch(settings: Settings, client: redis.Redis, ttl: str) -> None:
    failed, odd, good = kit.submit(settings, frame(), frame(), frame())
    for job_id in (failed, odd):
        client.hset(keys.rq_job(job_id), mapping={"failure_ttl": ttl, "result_ttl": ttl})
    jobs = claim(settings)
    batch = [done(settings, jobs[0], Ending.FAILURE), *(done(settings, job) for job in jobs[1:])]
    assert kit.finisher(settings).finish(batch) == [True, True, True]
    assert set(kit.outcomes(client)) == {failed, odd, good}
    assert FailedJobRegistry("live", connection=client).get_job_ids() == [failed]
    assert 0 < client.ttl(keys.rq_job(odd)) <= settings.result_ttl_s


@pytest.mark.parametrize("retries_left", ["many", "1.5", "9" * 30, "9" * 5000])
def test_a_nonsensical_number_of_retries_is_none(settings: Settings, client: redis.Redis, retries_left: str) -> None:
    (odd,) = kit.submit(settings, frame())
    client.hset(keys.rq_job(odd), "retries_left", retries_left)
    (job,) = claim(settings)
    assert job.retries_left == 0


def test_a_full_server_lets_a_worker_finish_what_it_holds(settings: Settings, client: redis.Redis) -> None:
    """Only finishing frees memory there; a script that is refused in the middle would lose its jobs."""
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
        assert kit.finisher(settings).finish([done(settings, job) for job in held]) == [True] * 4
    finally:
        client.config_set("maxmemory", "0")
    assert set(kit.outcomes(client)) == set(job_ids)
