"""The finish script on a real server, through the Python that calls it. It writes nothing for a lost lease."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.kit import claim, everything, expire, finished_job, queued
from worker.state.inflight import Inflight
from worker.state.jobs import Disposition, Lease
from worker.steps.admit import admit


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


def test_an_image_that_is_to_be_read_is_kept_for_a_while(settings: Settings, client: redis.Redis) -> None:
    """Only that of a job whose lease is still held. A failed job's image stays where it is, for as long as it would.

    A kept image has a key of its own: otherwise it would be deleted with the image of a job that is sent again.
    """
    kit.submit(settings, *[frame() for _ in range(4)])
    jobs = claim(settings)
    lost = jobs[1].lease
    client.zrem(keys.rq_wip("live"), f"{lost.job_id}:{lost.execution_id}")
    ends = [Disposition.SUCCESS, Disposition.SUCCESS, Disposition.SUCCESS, Disposition.FAILURE]
    batch = [finished_job(settings, job, end) for job, end in zip(jobs, ends, strict=True)]
    batch = [batch[0], *[replace(job, keeps_image=True) for job in batch[1:]]]
    assert kit.finisher(settings).finish(batch) == [True, False, True, True]
    own, gone = pytest.approx(settings.image_ttl_s, abs=kit.PATIENCE_S), -2
    assert [client.ttl(keys.image(job.lease.job_id)) for job in jobs] == [gone, own, gone, own]
    kept_image = keys.kept_image(jobs[2].lease.job_id, jobs[2].lease.execution_id)
    assert client.keys(keys.kept_image("*", "*")) == [kept_image.encode()]
    assert client.ttl(kept_image) == pytest.approx(keys.KEPT_IMAGE_S, abs=kit.PATIENCE_S)
    assert client.get(kept_image) == frame().data


def test_an_image_that_is_gone_is_not_kept(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    (job,) = claim(settings)
    client.delete(keys.image(job_id))
    assert kit.finisher(settings).finish([replace(finished_job(settings, job), keeps_image=True)]) == [True]
    assert client.keys(keys.kept_image("*", "*")) == []


def test_without_permission_to_keep_an_image_it_is_deleted_and_the_result_stands(
    settings: Settings, client: redis.Redis, restricted: Callable[[str], None]
) -> None:
    """Left under the job's key it would stay for an hour, and nothing would bound how many do."""
    job_ids = kit.submit(settings, frame(), frame())
    url = settings.redis_url.replace("redis://", "redis://w:secret@")
    finisher = kit.finisher(settings.model_copy(update={"redis_url": url}))
    batch = [replace(finished_job(settings, job), keeps_image=True) for job in claim(settings)]
    restricted("~* -rename")
    assert finisher.finish(batch) == [True, True]
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")
    assert client.keys("sortline:*image:*") == []
    assert client.zcard(keys.rq_wip("live")) == 0


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


def test_nothing_is_written_for_an_unknown_lease(settings: Settings, client: redis.Redis) -> None:
    """A lease with another execution id gives no access to the job."""
    kit.submit(settings, frame())
    (job,) = claim(settings)
    other = replace(job, lease=Lease("live", job.lease.job_id, "f" * 32, time.time()))
    before = everything(client)
    assert kit.finisher(settings).finish([finished_job(settings, other)]) == [False]
    assert everything(client) == before
