"""Whether a queue moves: its first job changes, however many jobs there are."""

from __future__ import annotations

import redis

from producer.queue_movement import QueueMovement
from producer.submit import LineProducer
from shared import keys
from shared.server.connection import connect
from shared.settings import Settings
from tests.producer.kit import jpeg

QUEUE = keys.rq_queue("bulk")


def test_a_queue_moves_when_its_first_job_is_taken(client: redis.Redis, settings: Settings) -> None:
    movement = QueueMovement(client, "bulk")
    assert not movement.has_moved()
    client.rpush(QUEUE, "a", "b")
    assert not movement.has_moved()  # others have filled it: nothing was taken
    client.rpush(QUEUE, "c")
    assert not movement.has_moved()
    client.lpop(QUEUE)
    client.rpush(QUEUE, "d")  # as many as before
    assert movement.has_moved()
    assert not movement.has_moved()
    client.delete(QUEUE)
    assert movement.has_moved()
    assert not movement.has_moved()


def test_a_server_that_does_not_answer_shows_no_movement(client: redis.Redis) -> None:
    client.set(QUEUE, "of another type")
    away = connect("redis://127.0.0.1:1/0")
    for movement in (QueueMovement(client, "bulk"), QueueMovement(away, "bulk")):
        assert not movement.has_moved()
    assert not QueueMovement(away, "bulk").is_waiting()


def test_a_job_waits_until_it_is_taken(client: redis.Redis, settings: Settings) -> None:
    movement = QueueMovement(client, "bulk")
    assert not movement.is_waiting()
    movement.last_sent = LineProducer(settings).submit(jpeg(), line="l", camera="c", queue="bulk")
    assert movement.is_waiting()
    client.hset(keys.rq_job(movement.last_sent), "status", "started")
    assert not movement.is_waiting()
