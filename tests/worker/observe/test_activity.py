"""A worker logs one line a minute about what it did, and nothing while it stays idle."""

from __future__ import annotations

import logging

import pytest
import redis

from shared.schemas import Outcome
from shared.server.connection import connect
from shared.settings import Settings
from tests.producer.kit import sort_result
from tests.worker import kit
from worker.observe import activity
from worker.observe.activity import ActivityLog
from worker.observe.metrics import Metrics
from worker.observe.queue_gauges import QueueGauges
from worker.service import WorkerService


class Minutes:
    """A worker's activity log, with a clock that the test advances."""

    def __init__(self, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "sortline.activity")
        self._caplog = caplog
        self._now = 0.0
        self.metrics = Metrics()
        gauges = QueueGauges(connect(redis_url), queues=["live", "bulk"], clock=lambda: 10 * self._now)
        self._activity = ActivityLog(self.metrics, gauges, clock=lambda: self._now)

    def after(self, seconds: float, *outcomes: Outcome) -> list[str]:
        """Advance the clock, after these jobs have ended. Returns what is logged then."""
        self.metrics.observe_results([sort_result("j", outcome) for outcome in outcomes])
        self._now += seconds
        self._caplog.clear()
        self._activity.step()
        return [record.getMessage() for record in self._caplog.records]


@pytest.fixture
def minutes(redis_url: str, caplog: pytest.LogCaptureFixture) -> Minutes:
    return Minutes(redis_url, caplog)


def test_one_line_a_minute_about_the_jobs_that_ended_since_the_last_line(minutes: Minutes, settings: Settings) -> None:
    kit.submit(settings, kit.frame(), kit.frame(), kit.frame(queue="bulk"))
    assert minutes.after(59.0, *[Outcome.SORTED] * 117) == []
    assert minutes.after(1.0, Outcome.LATE, Outcome.EXPIRED, Outcome.EXPIRED) == [
        "2.0 images/s in 60 s, 97.5% in time (2 expired, 1 late); waiting: 2 in live, 1 in bulk"
    ]
    assert minutes.after(60.0, *[Outcome.SORTED] * 30) == [
        "0.50 images/s in 60 s, 100.0% in time; waiting: 2 in live, 1 in bulk"
    ]
    assert minutes.after(60.0, Outcome.REJECTED) == [
        "0.02 images/s in 60 s (1 rejected); waiting: 2 in live, 1 in bulk"
    ]
    assert minutes.after(60.0) == ["no image in 60 s; waiting: 2 in live, 1 in bulk"], (
        "for example while it is suspended"
    )


def test_an_idle_worker_says_so_once(minutes: Minutes) -> None:
    assert minutes.after(60.0) == ["no image in 60 s; waiting: 0 in live, 0 in bulk"]
    assert minutes.after(60.0) == []
    assert minutes.after(60.0) == []
    assert minutes.after(60.0, Outcome.SORTED) == [
        "0.02 images/s in 60 s, 100.0% in time; waiting: 0 in live, 0 in bulk"
    ]
    assert minutes.after(60.0) == ["no image in 60 s; waiting: 0 in live, 0 in bulk"]
    assert minutes.after(60.0) == []


def test_the_line_says_that_the_server_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = Minutes("redis://127.0.0.1:1/0", caplog).after(60.0, Outcome.SORTED)
    assert line.endswith("number waiting unknown, because the Redis server does not answer")


def test_a_worker_logs_its_own_figures(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "INTERVAL_S", 0.0)
    caplog.set_level(logging.INFO, "sortline.activity")
    service = WorkerService(settings, load=lambda given: kit.loaded_model(given, kit.ToneEngine()))
    service._metrics.observe_results([sort_result("j")])
    service._maintenance.step()
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith("100.0% in time; waiting: 0 in live, 0 in bulk")
