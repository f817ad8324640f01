"""What a scrape reads from the server: depth and age of the queues, its memory, and whether it answers."""

from __future__ import annotations

import time

import pytest
import redis
from prometheus_client import CollectorRegistry

from shared import keys
from shared.arrivals import DECAY_S
from shared.server.connection import connect
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.observe.exposition import samples
from worker.observe.queue_gauges import QueueGauges


def queue_samples(gauges: QueueGauges) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(gauges)
    return samples(registry)


LIVE, BULK = (("queue", "live"),), (("queue", "bulk"),)


def test_an_empty_queue_has_depth_and_age_zero(client: redis.Redis, gauges: QueueGauges) -> None:
    found = queue_samples(gauges)
    assert {key: value for key, value in found.items() if not key[0].startswith("sortline_redis_memory_")} == {
        ("sortline_redis_up", ()): 1,
        ("sortline_queue_depth", LIVE): 0,
        ("sortline_queue_depth", BULK): 0,
        ("sortline_queue_oldest_seconds", LIVE): 0,
        ("sortline_queue_oldest_seconds", BULK): 0,
        ("sortline_queue_bytes", LIVE): 0,
        ("sortline_queue_bytes", BULK): 0,
        ("sortline_queue_capacity_images_per_second", LIVE): 0,
        ("sortline_queue_capacity_images_per_second", BULK): 0,
        ("sortline_queue_drain_seconds", LIVE): 0,
        ("sortline_queue_drain_seconds", BULK): 0,
        ("sortline_queue_load_ratio", LIVE): 0,
        ("sortline_queue_load_ratio", BULK): 0,
    }


def test_depth_and_age_of_the_job_at_the_front(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, *[frame() for _ in range(3)])
    later = QueueGauges(connect(settings.redis_url), queues=["live", "bulk"], clock=lambda: time.time() + 100)
    found = queue_samples(later)
    assert found["sortline_queue_depth", LIVE] == 3
    assert found["sortline_queue_oldest_seconds", LIVE] == pytest.approx(100, abs=kit.PATIENCE_S)
    assert found["sortline_queue_depth", BULK] == 0


def test_suspects_wait_too(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame())
    client.rename(keys.rq_queue("live"), keys.suspects("live"))
    later = QueueGauges(connect(settings.redis_url), queues=["live"], clock=lambda: time.time() + 100)
    found = queue_samples(later)
    assert found["sortline_queue_depth", LIVE] == 1
    assert found["sortline_queue_oldest_seconds", LIVE] == pytest.approx(100, abs=kit.PATIENCE_S)


def test_a_deleted_job_at_the_front_has_no_age(settings: Settings, client: redis.Redis, gauges: QueueGauges) -> None:
    (job_id,) = kit.submit(settings, frame())
    client.delete(keys.rq_job(job_id))
    found = queue_samples(gauges)
    assert found["sortline_queue_depth", LIVE] == 1
    assert found["sortline_queue_oldest_seconds", LIVE] == 0


@pytest.mark.parametrize("key", [keys.rq_queue("bulk"), keys.rq_job("j1")])
def test_a_key_of_another_type_hides_only_its_own_queue(client: redis.Redis, gauges: QueueGauges, key: str) -> None:
    """It must not make the whole server count as away."""
    client.rpush(keys.rq_queue("bulk"), "j1")
    client.delete(key)
    client.set(key, "text")
    found = queue_samples(gauges)
    assert found["sortline_redis_up", ()] == 1
    assert found["sortline_queue_depth", LIVE] == 0
    assert ("sortline_queue_depth", BULK) not in found
    assert found["sortline_redis_memory_used_bytes", ()] > 0


def test_the_servers_memory_and_its_bound(client: redis.Redis, gauges: QueueGauges) -> None:
    client.config_set("maxmemory", "64mb")
    try:
        found = queue_samples(gauges)
    finally:
        client.config_set("maxmemory", 0)
    assert found["sortline_redis_memory_max_bytes", ()] == 64 * 1024 * 1024
    assert 0 < found["sortline_redis_memory_used_bytes", ()] < 64 * 1024 * 1024


def test_a_user_who_may_not_ask_for_memory_still_sees_the_queues(client: redis.Redis, gauges: QueueGauges) -> None:
    client.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        found = queue_samples(gauges)
    finally:
        client.execute_command("ACL", "SETUSER", "default", "+info")
    assert found["sortline_redis_up", ()] == 1
    assert found["sortline_queue_depth", LIVE] == 0
    assert not [name for name, _ in found if name.startswith("sortline_redis_memory_")]


def test_a_server_without_maxmemory_shows_what_it_uses(
    client: redis.Redis, gauges: QueueGauges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis.Redis, "info", lambda self, section: {"used_memory": 1})
    found = queue_samples(gauges)
    assert found["sortline_redis_memory_used_bytes", ()] == 1
    assert ("sortline_redis_memory_max_bytes", ()) not in found
    assert found["sortline_queue_depth", LIVE] == 0


def test_with_the_server_away_the_scrape_still_answers() -> None:
    found = queue_samples(QueueGauges(connect("redis://127.0.0.1:1/0"), queues=["live"]))
    assert found == {("sortline_redis_up", ()): 0}


def test_scrapes_within_a_second_share_a_reading(settings: Settings, client: redis.Redis) -> None:
    now = [time.time()]
    gauges = QueueGauges(connect(settings.redis_url), queues=["live"], clock=lambda: now[0])
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 0
    kit.submit(settings, frame())
    now[0] += 0.5
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 0
    now[0] += 0.6
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 1


def test_a_clock_that_is_set_back_does_not_freeze_the_reading(settings: Settings, client: redis.Redis) -> None:
    now = [time.time()]
    gauges = QueueGauges(connect(settings.redis_url), queues=["live"], clock=lambda: now[0])
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 0
    kit.submit(settings, frame())
    now[0] -= 3600
    assert queue_samples(gauges)["sortline_queue_depth", LIVE] == 1


def test_the_forecast_of_each_queue(settings: Settings, client: redis.Redis, gauges: QueueGauges) -> None:
    """By the server's clock: this machine's may be wrong."""
    kit.submit(settings, *[frame() for _ in range(3)])
    seconds, _ = client.time()
    client.hset(
        keys.flow("live"),
        mapping={
            "capacity": 200,
            "needs_s": 0.1,
            "capacity_at": seconds,
            "arrived": 300 * DECAY_S,
            "arrived_for": DECAY_S,
            "arrived_at": seconds + 60,  # counts as now
        },
    )
    client.hset(keys.load("live"), mapping={"items": 3, "bytes": 90_000})
    found = queue_samples(gauges)
    assert found["sortline_queue_capacity_images_per_second", LIVE] == 200
    assert found["sortline_queue_drain_seconds", LIVE] == pytest.approx(3 / 200)
    assert found["sortline_queue_load_ratio", LIVE] == pytest.approx(1.5)
    assert found["sortline_queue_bytes", LIVE] == 90_000
    assert found["sortline_queue_load_ratio", BULK] == found["sortline_queue_bytes", BULK] == 0


def test_jobs_that_wait_for_nobody(settings: Settings, gauges: QueueGauges) -> None:
    kit.submit(settings, frame())
    found = queue_samples(gauges)
    assert found["sortline_queue_drain_seconds", LIVE] == 3600
    assert found["sortline_queue_drain_seconds", BULK] == 0


@pytest.mark.parametrize("text", ["", "-5", "many", "9" * 400, "1e9"])
def test_nonsense_in_place_of_the_bytes_counts_as_zero(client: redis.Redis, gauges: QueueGauges, text: str) -> None:
    client.hset(keys.load("live"), "bytes", text)
    assert queue_samples(gauges)["sortline_queue_bytes", LIVE] == 0


def test_a_broken_forecast_hides_neither_depth_nor_age(client: redis.Redis, gauges: QueueGauges) -> None:
    client.set(keys.flow("live"), "text")
    client.set(keys.load("bulk"), "text")
    found = queue_samples(gauges)
    assert found["sortline_redis_up", ()] == 1
    assert found["sortline_queue_depth", LIVE] == found["sortline_queue_depth", BULK] == 0
    assert ("sortline_queue_load_ratio", LIVE) not in found
    assert ("sortline_queue_bytes", BULK) not in found
    assert found["sortline_queue_bytes", LIVE] == found["sortline_queue_load_ratio", BULK] == 0


def test_all_workers_show_the_same_and_say_how_to_read_it(gauges: QueueGauges) -> None:
    for family in gauges.describe():
        if family.name.startswith("sortline_queue_"):
            assert "take max by (queue), never the sum" in family.documentation


@pytest.mark.parametrize(
    ("job_id", "enqueued_at"), [("I" * 300_000, "2026-11-28T05:41:14.000000Z"), ("x", "2" * 10**6)]
)
def test_a_job_at_the_front_that_is_too_large_has_no_age(
    client: redis.Redis, gauges: QueueGauges, job_id: str, enqueued_at: str
) -> None:
    client.hset(keys.rq_job(job_id), "enqueued_at", enqueued_at)
    client.rpush(keys.rq_queue("live"), job_id)
    client.config_resetstat()
    found = queue_samples(gauges)
    assert (found["sortline_queue_depth", LIVE], found["sortline_queue_oldest_seconds", LIVE]) == (1, 0)
    assert client.info("commandstats")["cmdstat_hget"]["calls"] == 2, "more than the bytes of each queue is read"
