"""Admission where things are not as they should be: keys of a wrong type, logins without rights, wrong clocks."""

from __future__ import annotations

import time

import pytest
import redis

from producer.metrics import CLOCK_OFFSET
from producer.submit import LineProducer
from shared import keys
from shared.errors import BadJob, BadSetting, CommandRefused
from shared.settings import Settings
from tests.producer.kit import jpeg
from tests.producer.test_submit import frames


@pytest.mark.parametrize(
    ("key", "says"), [("rq:queue:live", "rq:queue:live is not a list"), ("rq:queues", "rq:queues is not a set")]
)
def test_a_shared_key_of_a_wrong_type_refuses_the_call_and_leaves_nothing(
    client: redis.Redis, settings: Settings, key: str, says: str
) -> None:
    """The images were written before the script: none of them may stay, and no half of a job."""
    producer = LineProducer(settings)
    client.set(key, "x")
    with pytest.raises(CommandRefused, match=says):
        producer.submit_many(frames(3))
    assert {name.decode() for name in client.scan_iter()} <= {key, "rq:queues", keys.flow("live")}
    client.delete(key)
    producer.submit_many(frames(3))
    assert client.llen(keys.rq_queue("live")) == 3


def test_jobs_that_were_there_keep_their_images_when_the_call_is_refused(
    client: redis.Redis, settings: Settings
) -> None:
    producer = LineProducer(settings)
    job, new = (producer.prepare(frame) for frame in frames(2))
    producer.send([job])
    client.delete(keys.rq_queue("live"))
    client.set(keys.rq_queue("live"), "x")
    with pytest.raises(CommandRefused):
        producer.send([job, new])
    assert 0 < client.ttl(keys.image(job.job_id)) <= settings.image_ttl_s
    assert not client.exists(keys.image(new.job_id), keys.rq_job(new.job_id))


@pytest.mark.parametrize("kind", ["string", "list"])
def test_what_is_in_the_way_of_a_job_or_the_wakeup_list_is_replaced(
    client: redis.Redis, settings: Settings, kind: str
) -> None:
    """A job's id is new, so nobody else can need what its key holds. The other jobs are enqueued as usual."""
    producer = LineProducer(settings)
    jobs = [producer.prepare(frame) for frame in frames(3)]
    in_the_way = [keys.rq_job(jobs[1].job_id), keys.image(jobs[1].job_id), keys.wakeup("live")]
    for key in in_the_way[: 3 if kind == "string" else 2]:
        client.set(key, "x") if kind == "string" else client.rpush(key, "x")
    producer.send(jobs)
    assert client.lrange(keys.rq_queue("live"), 0, -1) == [job.job_id.encode() for job in jobs]
    for job in jobs:
        assert client.hget(keys.rq_job(job.job_id), "data") == job.payload
        assert 0 < client.ttl(keys.image(job.job_id)) <= settings.image_ttl_s
    assert client.lrange(keys.wakeup("live"), 0, -1) == [b"1"] * 3


@pytest.mark.parametrize("right", ["sadd", "hset", "rpush", "lpush", "ltrim", "llen", "hget"])
def test_a_login_that_lacks_a_right_leaves_no_image_for_ever_and_no_job_outside_the_queue(
    client: redis.Redis, settings: Settings, right: str
) -> None:
    client.acl_setuser("camera", enabled=True, nopass=True, keys="*", commands=["+@all", f"-{right}"])
    limited = settings.model_copy(update={"redis_url": settings.redis_url.replace("://", "://camera:x@")})
    try:
        with pytest.raises(BadSetting):
            LineProducer(limited).submit(jpeg(), line="line-1", camera="c")
    finally:
        client.acl_deluser("camera")
    assert all(client.ttl(image) > 0 for image in client.scan_iter(keys.image("*")))
    queued = {keys.rq_job(job_id.decode()).encode() for job_id in client.lrange(keys.rq_queue("live"), 0, -1)}
    assert set(client.keys("rq:job:*")) <= queued


def test_a_capture_is_judged_by_the_servers_clock_too(client: redis.Redis, settings: Settings) -> None:
    """A producer that is an hour behind must not refuse the frames of cameras whose clocks are right."""
    now = time.time()
    producer = LineProducer(settings, clock=lambda: now - 3600)
    producer.submit(jpeg(), line="line-1", camera="c", captured_at=now)
    with pytest.raises(BadJob, match="in the future"):
        producer.submit(jpeg(), line="line-1", camera="c", captured_at=now + 3600)


def test_a_producer_shows_its_clocks_offset(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(settings, clock=lambda: time.time() - 1000)
    producer.submit(jpeg(), line="line-1", camera="c")
    assert CLOCK_OFFSET._value.get() == pytest.approx(-1000, abs=60)


def test_a_login_that_may_not_read_the_time_submits_all_the_same(client: redis.Redis, settings: Settings) -> None:
    client.acl_setuser("camera", enabled=True, nopass=True, keys="*", commands=["+@all", "-time"])
    limited = settings.model_copy(update={"redis_url": settings.redis_url.replace("://", "://camera:x@")})
    try:
        LineProducer(limited).submit(jpeg(), line="line-1", camera="c")
    finally:
        client.acl_deluser("camera")
    assert client.llen(keys.rq_queue("live")) == 1
