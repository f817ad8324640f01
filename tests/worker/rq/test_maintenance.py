"""Maintenance in a worker: it sweeps and measures the clock, and an error in it affects nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis

from shared import keys
from shared.clock import ServerClock
from shared.server.connection import connect
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame
from worker.observe.activity import ActivityLog
from worker.observe.metrics import Metrics
from worker.observe.queue_gauges import QueueGauges
from worker.rq.maintenance import Maintenance
from worker.rq.sweep import Sweeper, Swept
from worker.service import WorkerService


class Sweeping:
    """A sweeper whose steps return or raise the given outcomes."""

    def __init__(self, *outcomes: Swept | Exception) -> None:
        self._outcomes = list(outcomes)

    def step(self) -> Swept:
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class BrokenActivity:
    """An activity log whose steps raise."""

    def step(self) -> None:
        raise KeyError("a bug")


def maintenance(
    settings: Settings,
    metrics: Metrics,
    sweeper: Any,
    activity: Any = None,
    report_capacity: Callable[[], None] = lambda: None,
) -> Maintenance:
    server_clock = ServerClock(
        connect(settings.redis_url),
        tolerance_s=settings.clock_tolerance_s,
        on_offset=metrics.clock_offset.set,
        clock=lambda: time.time() + 1000,
    )
    return Maintenance(
        sweeper=cast(Sweeper, sweeper),
        server_clock=server_clock,
        activity=activity
        or ActivityLog(metrics, QueueGauges(connect(settings.redis_url), queues=settings.queue_names)),
        report_capacity=report_capacity,
        metrics=metrics,
    )


def recovered(metrics: Metrics) -> dict[str, float | None]:
    value = metrics.registry.get_sample_value
    return {result: value("sortline_recovered_total", {"result": result}) for result in ("requeued", "failed")}


def test_recovered_jobs_are_counted_and_the_clock_offset_is_shown(settings: Settings) -> None:
    metrics = Metrics()
    keeping = maintenance(settings, metrics, Sweeping(Swept(2, 0), Swept(1, 1)))
    assert recovered(metrics) == {"requeued": 0, "failed": 0}
    keeping.step()
    keeping.step()
    assert recovered(metrics) == {"requeued": 3, "failed": 1}
    offset_s = metrics.registry.get_sample_value("sortline_clock_offset_seconds")
    assert offset_s == pytest.approx(1000, abs=kit.PATIENCE_S)


def test_no_failure_ends_it(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    away, bug = redis.exceptions.ConnectionError("away"), KeyError("a bug")
    keeping = maintenance(settings, metrics, Sweeping(away, bug, Swept(1, 0)))
    for _ in range(3):
        keeping.step()
    assert recovered(metrics) == {"requeued": 1, "failed": 0}
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert record.exc_info is not None


def test_lost_jobs_come_back_although_the_activity_log_fails(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    keeping = maintenance(settings, metrics, Sweeping(Swept(1, 0)), BrokenActivity())
    keeping.start()
    kit.wait_until(lambda: recovered(metrics)["requeued"] == 1, "a lost job comes back")
    kit.wait_until(lambda: "the line about the worker's activity failed" in caplog.text, "the failure is logged")
    keeping.stop(kit.PATIENCE_S)


def test_lost_jobs_come_back_although_the_capacity_cannot_be_reported(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise KeyError("a bug")

    metrics = Metrics()
    maintenance(settings, metrics, Sweeping(Swept(1, 0)), report_capacity=fail).step()
    assert recovered(metrics)["requeued"] == 1
    assert "the report of the worker's capacity failed" in caplog.text


def test_the_last_report_comes_after_the_worker_has_ended(settings: Settings) -> None:
    """It takes the worker off the list, which a report before the end could not do."""
    reports: list[bool] = []
    keeping = maintenance(
        settings,
        Metrics(),
        Sweeping(*[Swept(0, 0)] * 100),
        report_capacity=lambda: reports.append(keeping._stopping.is_set()),
    )
    keeping.start()
    kit.wait_until(lambda: bool(reports), "the first report")
    keeping.stop(kit.PATIENCE_S)
    assert reports[0] is False and reports[-1] is True


@pytest.mark.usefixtures("own_signals")
def test_a_worker_starts_maintenance_and_stops_it_at_its_end(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame())
    service = WorkerService(settings, burst=True, load=lambda given: kit.loaded_model(given, ToneEngine()))
    service._metrics.clock_offset.set(1e6)
    assert service.run() == 0
    assert client.hget(keys.sweep(settings.queue_names), "cursor") is not None
    assert abs(service._metrics.clock_offset._value.get()) < kit.PATIENCE_S
    assert not service._maintenance._thread.is_alive()
    assert client.hgetall(keys.capacities("live")) == {}, "the others count on a worker that has ended"
