"""The plant notes what goes wrong with its processes, and what a loss of the server's data may cost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from shared import keys
from shared.errors import BadSetting
from shared.server.connection import connect
from shared.settings import Settings
from tests.kit import wait_until
from torture.plant import plant as plant_module
from torture.plant.feeder import FeederOptions
from torture.plant.plant import ENDS_WHEN_TOLD, GIVES_METRICS, Plant, PlantOptions
from torture.plant.processes import WorkerProcess


@pytest.fixture
def plant(settings: Settings, tmp_path: Path) -> Iterator[Plant]:
    options = PlantOptions(settings=settings, server=None, folder=tmp_path, engine="null", seed=1, on_progress=print)
    with Plant(options) as plant:
        yield plant


def test_a_loss_may_cost_every_job_on_the_server(plant: Plant, client: redis.Redis) -> None:
    """Also jobs that have ended: the follower may not have read their results yet."""
    client.rpush(keys.rq_queue("live"), "queued")
    client.zadd(keys.rq_wip("live"), {"held:execution": 1})
    client.zadd(keys.rq_finished("bulk"), {"finished": 1})
    client.zadd(keys.rq_failed("live"), {"failed": 1})
    plant.lose_data(client.flushall)
    (loss,) = plant.losses
    assert loss.job_ids == {"queued", "held", "finished", "failed"}
    assert loss.since <= loss.until


def test_a_job_that_moves_back_and_forth_is_outstanding_at_any_time(plant: Plant, settings: Settings) -> None:
    """If its two places were read one after the other, it might be in neither: a campaign would not wait for it."""
    is_over = threading.Event()

    def move() -> None:
        client = connect(settings.redis_url)
        while not is_over.is_set():
            for by, to in ((keys.suspects("live"), keys.rq_wip("live")), (keys.rq_wip("live"), keys.suspects("live"))):
                pipeline = client.pipeline(transaction=True)
                pipeline.delete(by)
                pipeline.rpush(to, "job") if to == keys.suspects("live") else pipeline.zadd(to, {"job:execution": 1})
                pipeline.execute()

    plant.client.rpush(keys.suspects("live"), "job")
    mover = threading.Thread(target=move)
    mover.start()
    try:
        assert {plant.outstanding() for _ in range(3000)} == {1}
    finally:
        is_over.set()
        mover.join()


@pytest.mark.slow
def test_a_worker_that_ends_by_itself_is_noted_whatever_its_exit_code(plant: Plant) -> None:
    plant.start_workers(1)
    (worker,) = plant.workers
    worker.signal(signal.SIGTERM)  # the plant has not told it
    assert worker.wait() == 0
    plant.settle()
    assert [len(cases) for cases in plant.broken.values()] == [1]
    assert "ended by itself: exit code 0" in plant.broken[ENDS_WHEN_TOLD][0]


def test_a_worker_that_does_not_end_in_time_is_noted_and_killed(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant.start_workers(1)
    (worker,) = plant.workers
    worker.signal(signal.SIGSTOP)
    monkeypatch.setattr(plant_module, "DRAIN_S", 0.1)
    assert plant.drain_worker(worker) == -signal.SIGKILL
    assert "did not end within" in plant.broken[ENDS_WHEN_TOLD][0]
    assert worker.exit_code == -signal.SIGKILL


@pytest.mark.slow
def test_a_worker_that_does_not_give_its_metrics_is_noted(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(worker: WorkerProcess, name: str) -> int:
        raise TimeoutError("no answer")

    plant.start_workers(1)
    monkeypatch.setattr(WorkerProcess, "counter", no_answer)
    plant.settle()
    assert [len(cases) for cases in plant.broken.values()] == [1]
    assert "no answer" in plant.broken[GIVES_METRICS][0]


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_as_it_starts_ends_in_good_order(plant: Plant) -> None:
    plant.start_worker()
    plant.settle()
    assert not plant.broken
    assert [count.is_final for count in plant.counts] == [True, True]


def test_a_producer_that_ends_by_itself_is_noted(plant: Plant) -> None:
    feeder = plant.start_feeder(FeederOptions(queue="no queue's name"))
    wait_until(lambda: feeder.exit_code is not None, "the producer has failed")
    plant.stop_feeders()
    assert [len(cases) for cases in plant.broken.values()] == [1]
    assert "a producer ended by itself: exit code 1" in plant.broken[ENDS_WHEN_TOLD][0]


def test_a_campaign_whose_workers_do_not_start_says_why_at_once(settings: Settings, tmp_path: Path) -> None:
    options = PlantOptions(settings=settings, server=None, folder=tmp_path, engine="real", seed=1, on_progress=print)
    with Plant(options) as plant, pytest.raises(BadSetting, match=r"exit code 1: .*model"):
        plant.start_workers(1)
