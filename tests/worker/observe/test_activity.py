"""A worker logs one line a minute about what it did, and nothing while it stays idle."""

from __future__ import annotations

import logging

import pytest
import redis

from shared.images.arrays import Pixels
from shared.schemas import Outcome
from shared.server.connection import connect
from shared.settings import Settings
from tests.producer.kit import sort_result
from tests.worker import kit
from worker.observe import activity
from worker.observe.activity import ActivityLog
from worker.observe.metrics import Metrics
from worker.observe.queue_gauges import QueueGauges
from worker.rq import maintenance

RED = 200


class Minutes:
    """A worker's activity log, with a clock that the test advances."""

    def __init__(self, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "sortline.activity")
        self._caplog = caplog
        self._now = 0.0
        self.metrics = Metrics()
        gauges = QueueGauges(connect(redis_url), queues=["live", "bulk"], clock=lambda: 10 * self._now)
        self._activity = ActivityLog(self.metrics, gauges, clock=lambda: self._now)
        self._now += 30.0  # the model is being loaded
        self._activity.step()

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
        "2.0 images/s answered in 60 s, 97.5% of them in time (2 expired, 1 late); waiting: 2 in live, 1 in bulk"
    ]
    assert minutes.after(60.0, *[Outcome.SORTED] * 30) == [
        "30 images answered in 60 s, 100.0% of them in time; waiting: 2 in live, 1 in bulk"
    ]
    assert minutes.after(60.0, Outcome.REJECTED) == [
        "1 image answered in 60 s (1 rejected); waiting: 2 in live, 1 in bulk"
    ]
    assert minutes.after(60.0) == ["no image answered in 60 s; waiting: 2 in live, 1 in bulk"], (
        "for example while it is suspended"
    )


def test_an_idle_worker_says_so_once(minutes: Minutes) -> None:
    assert minutes.after(60.0) == ["no image answered in 60 s; waiting: 0 in live, 0 in bulk"]
    assert minutes.after(60.0) == []
    assert minutes.after(60.0) == []
    assert minutes.after(60.0, Outcome.SORTED) == [
        "1 image answered in 60 s, 100.0% of them in time; waiting: 0 in live, 0 in bulk"
    ]
    assert minutes.after(60.0) == ["no image answered in 60 s; waiting: 0 in live, 0 in bulk"]
    assert minutes.after(60.0) == []


def test_the_line_says_that_the_server_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = Minutes("redis://127.0.0.1:1/0", caplog).after(60.0, Outcome.SORTED)
    assert line.endswith("number waiting unknown, because the Redis server does not answer")


@pytest.mark.usefixtures("own_signals")
def test_a_worker_logs_its_own_figures(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "INTERVAL_S", 0.0)
    monkeypatch.setattr(maintenance, "INTERVAL_S", 0.01)
    caplog.set_level(logging.INFO, "sortline.activity")

    def await_the_line(batch: Pixels) -> None:
        if batch.max() == RED:
            kit.wait_until(lambda: "100.0% of them in time; waiting: " in caplog.text, "the line about the first image")

    kit.submit(settings, kit.frame(), kit.frame(kit.picture(RED)))
    in_order = settings.model_copy(update={"max_batch": 1, "decode_threads": 1})
    assert kit.run_service(in_order, kit.ToneEngine(await_the_line)) == 0
    assert set(kit.outcomes(client).values()) == {"sorted"}, "the second image waited for the line in vain"
