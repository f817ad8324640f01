"""The report of what workers can do, on a real server: who counts, what is added up, and what bad keys do."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from shared import keys
from shared.arrivals import DECAY_S
from shared.server.connection import connect
from shared.settings import Settings
from tests.kit import ManualClock
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.kit import everything, server_now
from worker.rq.capacity_report import CapacityReport, Workload
from worker.state.batch_cost import BatchCost
from worker.state.capacity import CapacityEstimator

MAX_BATCH = 16
PLACES = 5  # of a worker with a slow engine


class Reporting:
    """One worker that reports. It can sort 100 images per second until `workload` or the estimator says otherwise."""

    def __init__(self, settings: Settings, worker: str = "w1", *, images_per_s: float = 100.0) -> None:
        cost = BatchCost()
        cost.observe(MAX_BATCH, MAX_BATCH / images_per_s)
        self.workload = Workload(
            cost=cost, decode_s=0.0, needs_s=0.25, taken=0, places=PLACES, is_suspended=False, is_leaving=False
        )
        self.clock = ManualClock()
        self.estimator = CapacityEstimator(
            queues=settings.queue_names, max_batch=MAX_BATCH, decode_threads=2, bulk_share=0.05, clock=self.clock
        )
        self.report = CapacityReport(
            connect(settings.redis_url),
            worker=worker,
            queues=settings.queue_names,
            max_batch=MAX_BATCH,
            estimator=self.estimator,
            workload=lambda: self.workload,
        )

    def step(self, **changes: object) -> None:
        """Report, a second after the last time."""
        self.workload = replace(self.workload, **changes)  # type: ignore[arg-type]
        self.clock.now += 1.0
        self.report.step()


def flow(client: redis.Redis, queue: str = "live") -> dict[str, float]:
    fields = client.hgetall(keys.flow(queue))
    fields.pop(b"line", None)  # a name: the producers' own
    return {name.decode(): float(value) for name, value in fields.items()}


def workers(client: redis.Redis, queue: str = "live") -> set[str]:
    return {name.decode() for name in client.hkeys(keys.capacities(queue))}


def age(client: redis.Redis, worker: str, seconds: float) -> None:
    """Make a worker's last report older."""
    for queue in ("live", "bulk"):
        rate, needs_s, at = client.hget(keys.capacities(queue), worker).decode().split()
        client.hset(keys.capacities(queue), worker, f"{rate} {needs_s} {float(at) - seconds:.6f}")


def test_the_workers_of_a_queue_are_added_up(settings: Settings, client: redis.Redis) -> None:
    one, two = Reporting(settings), Reporting(settings, "w2", images_per_s=50.0)
    one.step()
    two.step(needs_s=0.125)
    for queue in ("live", "bulk"):
        found = flow(client, queue)
        assert found["capacity"] == pytest.approx(150)
        assert found["needs_s"] == 0.125, "a producer may count on the fastest worker"
        assert found["capacity_at"] == pytest.approx(server_now(client), abs=kit.PATIENCE_S)
        assert workers(client, queue) == {"w1", "w2"}
        assert 0 < client.ttl(keys.capacities(queue)) <= 60
        assert 0 < client.ttl(keys.flow(queue)) <= 3600


def test_the_part_of_a_worker_that_died_is_gone_after_ten_seconds(settings: Settings, client: redis.Redis) -> None:
    one, two = Reporting(settings), Reporting(settings, "w2", images_per_s=50.0)
    one.step()
    two.step()
    age(client, "w2", 8.0)
    one.step()
    assert flow(client)["capacity"] == pytest.approx(150)
    age(client, "w2", 2.5)
    one.step()
    assert flow(client)["capacity"] == pytest.approx(100)
    assert workers(client) == {"w1"}


def test_entries_from_before_the_servers_clock_was_set_back_are_dropped(
    settings: Settings, client: redis.Redis
) -> None:
    one, two = Reporting(settings), Reporting(settings, "w2")
    two.step()
    age(client, "w2", -3600.0)
    one.step()
    assert workers(client) == {"w1"}


def test_a_worker_that_leaves_is_removed_and_the_last_one_leaves_nothing(
    settings: Settings, client: redis.Redis
) -> None:
    one, two = Reporting(settings), Reporting(settings, "w2", images_per_s=50.0)
    one.step()
    two.step()
    one.step(is_leaving=True)
    assert flow(client)["capacity"] == pytest.approx(50)
    client.hset(keys.flow("live"), "arrived", "7")
    two.step(is_leaving=True)
    assert flow(client) == {"arrived": 7}, "the arrivals are the producers'"
    assert workers(client) == set()


def test_a_suspended_worker_can_do_nothing(settings: Settings, client: redis.Redis) -> None:
    one = Reporting(settings)
    one.step(is_suspended=True)
    assert flow(client)["capacity"] == 0
    one.step(is_suspended=False)
    assert flow(client)["capacity"] == pytest.approx(100)


@pytest.mark.parametrize(
    "other", [{"is_suspended": True, "needs_s": 0.001}, {"needs_s": 0.0}], ids=["suspended", "just started"]
)
def test_a_worker_that_cannot_say_how_long_it_needs_is_no_fast_one(
    settings: Settings, client: redis.Redis, other: dict[str, object]
) -> None:
    one, two = Reporting(settings), Reporting(settings, "w2")
    two.step(**other)
    assert flow(client)["needs_s"] == 0, "nobody can say"
    one.step()
    two.step()
    assert flow(client)["needs_s"] == 0.25


def saturated(reporting: Reporting, *, images: int, taken: int, expired: int = 0) -> float:
    """What a worker that sorts so many images in each second reports in the end."""
    for _ in range(60):
        reporting.estimator.count_sorted("live", images)
        reporting.estimator.count_expired(expired)
        reporting.step(taken=taken)
    return reporting.estimator.images_per_s(reporting.workload.cost, decode_s=0.0)


@pytest.mark.parametrize(
    ("waiting", "taken", "is_saturated"),
    [
        (MAX_BATCH, 3, True),  # something else than decoding and model limits it
        (1, PLACES - 1, True),  # tight deadlines: few wait
        (MAX_BATCH - 1, PLACES - 2, False),  # on their way
        (0, PLACES, False),
    ],
)
def test_a_worker_is_saturated_while_jobs_wait_that_it_cannot_take(
    settings: Settings, client: redis.Redis, waiting: int, taken: int, is_saturated: bool
) -> None:
    kit.submit(settings, *[frame() for _ in range(waiting)])
    found = saturated(Reporting(settings), images=30, taken=taken)
    assert found == pytest.approx(30 if is_saturated else 100, rel=0.1)


@pytest.mark.parametrize("taken", [0, PLACES])
def test_a_full_worker_is_saturated_while_images_expire_in_it(
    settings: Settings, client: redis.Redis, taken: int
) -> None:
    """They left the queue before the report could see them there. One that is not full got them too late."""
    found = saturated(Reporting(settings), images=30, taken=taken, expired=1)
    assert found == pytest.approx(30 if taken else 100, rel=0.1)


@pytest.mark.parametrize(("arrival_rate", "is_saturated"), [(150, True), (105, False)])
def test_a_full_worker_is_saturated_while_images_are_refused_at_the_door(
    settings: Settings, client: redis.Redis, arrival_rate: float, is_saturated: bool
) -> None:
    now = server_now(client)
    arrived = {"arrived": arrival_rate * DECAY_S, "arrived_for": DECAY_S, "arrived_at": now}
    client.hset(keys.flow("live"), mapping={name: f"{value:.6f}" for name, value in arrived.items()})
    one = Reporting(settings)
    found = saturated(one, images=60, taken=PLACES)
    assert found == pytest.approx(60 if is_saturated else 100, rel=0.1)


def test_a_suspended_worker_learns_nothing_from_jobs_that_wait(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, *[frame() for _ in range(MAX_BATCH)])
    one = Reporting(settings)
    for _ in range(60):
        one.step(is_suspended=True)
    one.step(is_suspended=False)
    assert flow(client)["capacity"] == pytest.approx(100)


@pytest.mark.parametrize("key", [keys.capacities("live"), keys.flow("live")])
def test_a_key_of_the_wrong_type_is_replaced(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    client.rpush(key, "text")
    Reporting(settings).step()
    assert flow(client)["capacity"] == pytest.approx(100)
    assert flow(client, "bulk")["capacity"] == pytest.approx(100)
    assert repr(key) in caplog.text


def test_a_queue_of_the_wrong_type_does_not_stop_the_report(settings: Settings, client: redis.Redis) -> None:
    client.set(keys.rq_queue("live"), "text")
    Reporting(settings).step()
    assert flow(client)["capacity"] == flow(client, "bulk")["capacity"] == pytest.approx(100)


@pytest.mark.parametrize(
    "entry", ["", "text", "1.0", "inf 1.0 {now}", "nan 1.0 {now}", "-5.0 1.0 {now}", "{many}.0 1.0 {now}", "1.0 1.0 x"]
)
def test_an_entry_that_no_worker_wrote_is_dropped(settings: Settings, client: redis.Redis, entry: str) -> None:
    text = entry.format(now=f"{server_now(client):.6f}", many="9" * 400)
    client.hset(keys.capacities("live"), "forged", text)
    Reporting(settings).step()
    assert flow(client)["capacity"] == pytest.approx(100)
    assert workers(client) == {"w1"}


def test_a_hash_that_somebody_filled_is_begun_anew(settings: Settings, client: redis.Redis) -> None:
    """It would be read in every second."""
    client.hset(keys.capacities("live"), mapping={str(number): "x" for number in range(10_001)})
    Reporting(settings).step()
    assert workers(client) == {"w1"}


def test_a_full_server_takes_the_report(settings: Settings, client: redis.Redis) -> None:
    one = Reporting(settings)
    client.config_set("maxmemory", "1mb")
    try:
        one.step()
    finally:
        client.config_set("maxmemory", "0")
    assert flow(client)["capacity"] == pytest.approx(100)


@pytest.mark.parametrize("rule", ["~* -hset", "~* -hgetall", "~* -llen", "~rq:*", "~* -evalsha"])
def test_without_permission_it_warns_once_and_goes_on(
    settings: Settings,
    client: redis.Redis,
    restricted: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
    rule: str,
) -> None:
    url = settings.redis_url.replace("redis://", "redis://w:secret@")
    one = Reporting(settings.model_copy(update={"redis_url": url}))
    restricted(rule)
    for _ in range(3):
        one.step()
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.name for record in warnings] == ["sortline.capacity"]
    restricted("~* +@all")
    one.step()
    assert flow(client)["capacity"] == pytest.approx(100)


def test_a_replica_gets_no_report(settings: Settings, client: redis.Redis) -> None:
    one = Reporting(settings)
    one.step()
    client.replicaof("127.0.0.1", "1")  # never in sync
    try:
        before = everything(client)
        with pytest.raises(redis.exceptions.ReadOnlyError):
            one.step()
        assert everything(client) == before
    finally:
        client.replicaof("NO", "ONE")
