"""The worker in RQ's own registry: arrives, beats, comes back after a restart of the server, leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis
from rq import Queue, Worker
from rq.command import send_shutdown_command, send_stop_job_command
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame
from worker.presence import WORKER_TTL_S, Presence, worker_name


@pytest.fixture
def presence(settings: Settings) -> Iterator[Presence]:
    with redis.Redis.from_url(settings.redis_url) as own:
        presence = Presence(own, name="w1", queues=["live", "bulk"])
        presence.arrive()
        yield presence
        presence.leave()


def only_worker(client: redis.Redis) -> Worker:
    (worker,) = Worker.all(connection=client)
    return worker


def test_names_are_unique() -> None:
    assert len({worker_name() for _ in range(50)}) == 50


def test_arrives_for_its_queues(presence: Presence, client: redis.Redis) -> None:
    assert only_worker(client).name == "w1"
    assert only_worker(client).get_state() == "started"
    for queue in ("live", "bulk"):
        assert Worker.count(queue=Queue(queue, connection=client)) == 1
    assert Worker.count(queue=Queue("other", connection=client)) == 0


def test_beats(presence: Presence, client: redis.Redis) -> None:
    client.expire(keys.rq_worker("w1"), 5)
    presence.beat(state=WorkerStatus.BUSY)
    assert only_worker(client).get_state() == "busy"
    assert client.ttl(keys.rq_worker("w1")) > WORKER_TTL_S
    presence.beat(state=WorkerStatus.IDLE)
    assert only_worker(client).get_state() == "idle"


def test_is_back_after_the_server_lost_everything(presence: Presence, client: redis.Redis) -> None:
    presence.beat(state=WorkerStatus.IDLE)
    born = client.hget(keys.rq_worker("w1"), "queues")
    client.flushall()
    client.hincrby(keys.rq_worker("w1"), "successful_job_count", 3)  # by a finish step that was faster
    presence.beat(state=WorkerStatus.IDLE)
    worker = only_worker(client)
    assert worker.get_state() == "idle"
    assert worker.queue_names() == ["live", "bulk"]
    assert client.hget(keys.rq_worker("w1"), "queues") == born
    assert client.ttl(keys.rq_worker("w1")) > WORKER_TTL_S


def test_leaves(settings: Settings, client: redis.Redis) -> None:
    with redis.Redis.from_url(settings.redis_url) as own:
        presence = Presence(own, name="w1", queues=["live"])
        presence.arrive()
        presence.leave()
    assert Worker.all(connection=client) == []
    assert 0 < client.ttl(keys.rq_worker("w1")) <= 60


def test_upkeep_forgets_the_old_and_leaves_the_started(
    presence: Presence, settings: Settings, client: redis.Redis
) -> None:
    """RQ's own clean-up would fail abandoned jobs without a SortResult."""
    (job_id,) = kit.submit(settings, frame())
    (job,) = kit.claimer(settings).claim(1).jobs
    client.zincrby(keys.rq_wip("live"), -1000, f"{job_id}:{job.lease.execution_id}")
    client.zadd("rq:finished:live", {"old": time.time() - 1, "new": time.time() + 1000})
    client.zadd("rq:failed:live", {"old": time.time() - 1, "new": time.time() + 1000})
    client.sadd("rq:workers", keys.rq_worker("long-dead"))
    client.sadd("rq:workers:live", keys.rq_worker("long-dead"))
    for _, clean in presence.upkeep():
        clean()
    assert client.zrange("rq:finished:live", 0, -1) == client.zrange("rq:failed:live", 0, -1) == [b"new"]
    assert client.zcard(keys.rq_wip("live")) == 1
    assert client.hget(keys.rq_job(job_id), "status") == b"started"
    assert keys.rq_worker("long-dead").encode() not in client.smembers("rq:workers:live")


@pytest.mark.usefixtures("own_signals")
def test_rqs_commands(settings: Settings, client: redis.Redis) -> None:
    """`stop-job` is refused, `shutdown` drains."""
    gate, problems = Gate(), []
    (job_id,) = kit.submit(settings, frame())

    def command() -> None:
        try:
            assert gate.entered.wait(kit.PATIENCE_S)
            kit.wait_until(lambda: client.pubsub_numsub("rq:pubsub:w1")[0][1], "the worker listens")
            send_stop_job_command(client, job_id, serializer=JSONSerializer)
            send_shutdown_command(client, "w1")
        except BaseException as error:
            problems.append(error)
        finally:
            gate.opened.set()

    commander = threading.Thread(target=command)
    commander.start()
    service = kit.WorkerService(settings, load=lambda given: kit.served(given, ToneEngine(gate)))
    service.name = "w1"
    assert service.run() == 0
    commander.join()
    assert problems == []
    assert kit.outcomes(client) == {job_id: "sorted"}
