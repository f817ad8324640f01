"""Whether workers listen to a queue: what producers, and programs that wait for results, are told."""

from __future__ import annotations

import logging

import pytest
import redis

from producer.listeners import CHECK_INTERVAL_S, ListenerWatch, explain_wait, read_listeners
from producer.results import wait_for
from producer.submit import LineProducer
from shared import keys
from shared.errors import QueueFull, ResultTimeout
from shared.settings import Settings
from tests.producer.kit import jpeg, register_worker

NOBODY = "no worker listens to queue 'blk'; workers listen to bulk, live. Did you mean bulk?"


def submit(producer: LineProducer, queue: str = "blk") -> str:
    return producer.submit(jpeg(), line="line-1", camera="camera-1", queue=queue)


def test_workers_are_counted_by_queue(client: redis.Redis) -> None:
    assert read_listeners(client, "live").problem == (
        "no worker listens to queue 'live': none is running. Its jobs wait until you start one: sortline worker."
    )
    nobody = "no worker listens to queue '{0}': none is running. Its jobs wait until you start one: {1}"
    assert read_listeners(client, "lvie").problem == nobody.format(
        "lvie", "sortline worker --queues lvie. Or did you mean live?"
    )
    assert read_listeners(client, "night").problem == nobody.format("night", "sortline worker --queues night.")
    register_worker(client, "w1", "live", "bulk")
    register_worker(client, "w2", "bulk")
    assert [read_listeners(client, queue).count for queue in ("live", "bulk", "blk")] == [1, 2, 0]
    assert read_listeners(client, "blk").problem == NOBODY
    assert read_listeners(client, "night").problem == (
        "no worker listens to queue 'night'; workers listen to bulk, live. Start one: sortline worker --queues night."
    )
    assert read_listeners(client, "bulk").problem is None


def test_a_worker_that_has_expired_is_not_counted(client: redis.Redis) -> None:
    register_worker(client, "w1", "live")
    client.delete(keys.rq_worker("w1"))
    assert read_listeners(client, "live").served == ()


def test_a_member_that_is_no_worker_is_not_read(client: redis.Redis) -> None:
    """Anybody with the rights of a worker can put the name of another key there."""
    client.hset("another:key", "queues", "live")
    client.sadd(keys.RQ_WORKERS, "another:key", b"\xff", "")
    assert read_listeners(client, "live").count == 0


def test_a_broken_key_of_one_worker_does_not_hide_the_others(client: redis.Redis) -> None:
    register_worker(client, "w1", "live")
    client.sadd(keys.RQ_WORKERS, "rq:worker:odd")
    client.set("rq:worker:odd", "text")
    assert read_listeners(client, "live").count == 1


def test_a_producer_logs_a_misspelled_queue_once(
    client: redis.Redis, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "producer.submit")
    register_worker(client, "w1", "live", "bulk")
    producer = LineProducer(settings)
    for queue in ("live", "blk", "blk"):
        submit(producer, queue)
    assert [record.getMessage() for record in caplog.records] == [NOBODY]


def test_a_change_is_reported_and_the_server_is_asked_rarely(client: redis.Redis) -> None:
    now, told = 0.0, []
    register_worker(client, "w1", "live")
    watch = ListenerWatch(client, told.append, clock=lambda: now)
    assert watch.check("live") is None
    client.set(keys.RQ_SUSPENDED, 1)
    assert watch.check("live") is None, "the server is not asked again yet"
    now = CHECK_INTERVAL_S
    suspended = "the workers of queue 'live' are suspended: its jobs wait until `rq resume`."
    assert watch.check("live") == suspended
    now = 2 * CHECK_INTERVAL_S
    assert watch.check("live") == suspended
    assert told == [suspended]
    client.delete(keys.RQ_SUSPENDED)
    now = 3 * CHECK_INTERVAL_S
    assert watch.check("live") is None


def test_the_error_of_a_full_queue_says_that_no_worker_listens(client: redis.Redis, settings: Settings) -> None:
    register_worker(client, "w1", "live", "bulk")
    producer = LineProducer(settings.model_copy(update={"queue_max_items": 1}))
    submit(producer)
    with pytest.raises(QueueFull, match=r"no room for 1 more\. No worker listens to queue 'blk'; workers listen to"):
        submit(producer)
    submit(producer, "live")
    with pytest.raises(QueueFull, match=r"no room for 1 more\. Add workers, slow down, or raise the limit\."):
        submit(producer, "live")


def test_a_user_without_the_right_to_read_the_registry_can_submit(client: redis.Redis, settings: Settings) -> None:
    client.execute_command("ACL", "SETUSER", "camera", "reset", "on", "nopass", "~*", "+@all", "-smembers")
    try:
        theirs = settings.model_copy(update={"redis_url": settings.redis_url.replace("://", "://camera:x@")})
        submit(LineProducer(theirs))
    finally:
        client.acl_deluser("camera")
    assert client.llen(keys.rq_queue("blk")) == 1


def test_a_timeout_says_why_the_job_waits(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(settings)
    job_id = submit(producer)
    with pytest.raises(ResultTimeout, match="no worker listens to queue 'blk': none is running"):
        wait_for([job_id], 0.0, settings)
    register_worker(client, "w1", "blk")
    assert explain_wait(client, job_id) == (
        "1 worker listens to queue 'blk' (jobs waiting there: 1), and none has taken this job yet."
    )
    client.hset(keys.rq_job(job_id), "status", "started")
    register_worker(client, "w2", "blk")
    assert explain_wait(client, job_id) == "2 workers listen to queue 'blk'; the job is started."
    client.set(keys.RQ_SUSPENDED, 1)
    assert "are suspended: its jobs wait until `rq resume`" in explain_wait(client, job_id)


@pytest.mark.parametrize("broken", [False, True])
def test_a_job_that_does_not_exist(client: redis.Redis, broken: bool) -> None:
    if broken:
        client.set(keys.rq_job("j1"), "text")
    assert explain_wait(client, "j1") == "the server does not have this job, or no longer has it."
