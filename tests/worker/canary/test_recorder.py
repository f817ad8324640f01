"""The tally of a canary on a real server, and the verdict."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from model_store.registry.canary import Canary
from model_store.registry.canary_totals import CanaryTotals
from shared import keys
from shared.errors import EngineFailed, StoreUnavailable
from shared.server.connection import connect
from shared.settings import Settings
from tests.worker import kit
from tests.worker.canary.kit import comparison, comparisons
from worker.canary.recorder import MAX_QUEUED, Recorder
from worker.canary.tally import CanaryTally, Comparison, exceeds_disagreement
from worker.models.routing import ActiveCanary, ActiveModels, Serving
from worker.observe.metrics import Metrics

CANARY = Canary(version=4, share=0.5, max_disagreement=0.1, min_images=20, started_at=1700000000.123456)
KEY = "sortline:canary:tone:4:1700000000.123456"


class Store:
    """A model store that only notes which canaries are cleared, or raises `error` instead."""

    def __init__(self, error: Exception | None = None) -> None:
        self.cleared: list[tuple[str, Canary | None]] = []
        self._error = error

    def clear_canary(self, name: str, *, only: Canary | None = None) -> bool:
        if self._error is not None:
            raise self._error
        self.cleared.append((name, only))
        return True


class Desk:
    """A recorder as one worker has it; its thread is not started: the tests call `step`."""

    def __init__(self, settings: Settings, store: Store | None = None, *, canary: Canary = CANARY) -> None:
        self.metrics, self.store = Metrics(), store or Store()
        self.canary = ActiveCanary(canary, kit.model(version=4))
        self.active_models = ActiveModels(Serving(kit.model(version=3), self.canary), metrics=self.metrics)
        self.tally = CanaryTally(connect(settings.redis_url), name="tone", maxlen=100)
        self.recorder = Recorder(self.active_models, tally=self.tally, store=self.store, metrics=self.metrics)

    def record(self, *records: Comparison) -> None:
        for record in records:
            self.recorder.compared(self.canary, record)
        while not self.recorder._queue.empty():
            self.recorder.step(0.0)

    def sample(self, metric: str, /, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(metric, labels)


# the verdict ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("compared", "disagreed", "stops"),
    [
        (0, 0, False),
        (19, 2, False),  # 2 of 20 would be at the bound, not above it
        (3, 3, True),  # 3 of 20 is above the bound, whatever the other 17 answers are
        (20, 2, False),
        (20, 3, True),
        (1000, 100, False),
        (1000, 101, True),
        (1000, 50, False),  # 50 would be too many of the first 20 images, but not of 1,000
    ],
)
def test_disagreement_is_exceeded_when_the_bound_is_crossed_for_certain(
    compared: int, disagreed: int, stops: bool
) -> None:
    assert exceeds_disagreement(CANARY, CanaryTotals(compared, disagreed)) is stops


def test_a_bound_of_zero_stops_at_the_first_difference() -> None:
    strict = CANARY.model_copy(update={"max_disagreement": 0.0})
    assert not exceeds_disagreement(strict, CanaryTotals(500, 0))
    assert exceeds_disagreement(strict, CanaryTotals(1, 1))


# tally ──────────────────────────────────────────────────────────────────────────────────────────────


def test_every_comparison_is_in_its_lines_stream(settings: Settings, client: redis.Redis) -> None:
    Desk(settings).record(comparison(1), comparison(2, agree=False), comparison(3, line="l2"))
    entries = [json.loads(fields[b"comparison"]) for _, fields in client.xrange(keys.shadow("l1"))]
    assert [entry["job_id"] for entry in entries] == ["j1", "j2"]
    assert [entry["agree"] for entry in entries] == [True, False]
    assert entries[1]["acting"] == {
        "model": {"name": "tone", "version": 3, "engine": "litert"},
        "labels": [],
        "lane": "good",
    }
    assert client.xlen(keys.shadow("l2")) == 1


def test_the_stream_is_trimmed(settings: Settings, client: redis.Redis) -> None:
    canary = CANARY.model_copy(update={"min_images": 10_000})
    for _ in range(8):
        Desk(settings, canary=canary).record(*comparisons(100))
    assert 100 <= client.xlen(keys.shadow("l1")) < 400


def test_the_streams_expire_after_their_last_comparison(settings: Settings, client: redis.Redis) -> None:
    tally = CanaryTally(client, name="tone", maxlen=settings.results_maxlen)
    tally.add(Canary(version=4, share=1.0), [comparison(1), comparison(2, line="l2")])
    for line in ("l1", "l2"):
        assert keys.STREAM_TTL_S - kit.PATIENCE_S <= client.ttl(keys.shadow(line)) <= keys.STREAM_TTL_S


@pytest.mark.parametrize("last_id", [None, "18446744073709551615-18446744073709551615"])
def test_a_broken_stream_of_one_line_does_not_hide_the_verdict(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture, last_id: str | None
) -> None:
    """Otherwise the server counts, but no worker reads the counts, and the canary goes on for all lines."""
    if last_id is None:
        client.set(keys.shadow("evil"), "text")
    else:
        client.xadd(keys.shadow("evil"), {"a": "b"}, id=last_id)
    desk = Desk(settings)
    for number in range(10):
        desk.record(comparison(number, agree=False), comparison(number, line="evil", agree=False))
    assert desk.active_models.current.canary is None, "the canary should have ended"
    assert client.xlen(keys.shadow("l1")) > 0
    assert desk.sample("sortline_canary_skipped_total") == 0
    logged = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(logged) == 1 and keys.shadow("evil") in logged[0]


def test_counts_are_summed_over_workers_and_expire(settings: Settings, client: redis.Redis) -> None:
    one, other = Desk(settings), Desk(settings)
    one.record(*comparisons(10, 1))
    other.record(*comparisons(10, 1))
    assert client.hgetall(KEY) == {b"compared": b"20", b"disagreed": b"2"}
    assert 0 < client.ttl(KEY) <= 30 * 86_400
    assert other.sample("sortline_canary_compared_total", version="4") == 10
    assert other.sample("sortline_canary_disagreed_total", version="4") == 1
    assert other.sample("sortline_canary_disagreement_ratio", version="4") == 0.1
    assert one.active_models.current.canary is not None and other.active_models.current.canary is not None


def test_the_bound_is_crossed_by_all_workers_together(settings: Settings, client: redis.Redis) -> None:
    one, other = Desk(settings), Desk(settings)
    one.record(*comparisons(10, 2))
    assert one.active_models.current.canary is not None
    other.record(*comparisons(10, 1))
    assert other.active_models.current.canary is None
    assert client.hget(KEY, "stopped") == (
        b"disagreement: 3 of 20 compared images (15.0%) were answered differently, more than 10.0%"
    )
    assert other.store.cleared == [("tone", CANARY)]
    assert other.sample("sortline_canary_stopped_total", reason="disagreement") == 1


def test_the_reason_for_a_stop_before_the_minimum_gives_the_number_that_was_allowed(
    settings: Settings, client: redis.Redis
) -> None:
    Desk(settings).record(*comparisons(10, 3))
    assert client.hget(KEY, "stopped") == (
        b"disagreement: 3 of 10 compared images (30.0%) were answered differently, "
        b"more than the 2 that 10.0% of 20 images (the minimum) allow"
    )


def test_a_verdict_is_counted_once(settings: Settings) -> None:
    one, other = Desk(settings), Desk(settings)
    one.record(*comparisons(20, 3))
    other.record(*comparisons(20, 3))
    assert one.store.cleared == [("tone", CANARY)]
    assert other.store.cleared == []
    assert other.sample("sortline_canary_stopped_total", reason="disagreement") == 0


def test_a_failing_engine_ends_the_canary_at_once(settings: Settings, client: redis.Redis) -> None:
    desk = Desk(settings)
    desk.recorder.failed(desk.canary, EngineFailed("out of order"))
    assert desk.active_models.current.canary is None, "it must not get another batch before the server was asked"
    desk.recorder.failed(desk.canary, EngineFailed("out of order"))
    desk.recorder.step(0.0)
    assert b"out of order" in (client.hget(KEY, "stopped") or b"")
    assert desk.store.cleared == [("tone", CANARY)]
    assert desk.sample("sortline_canary_stopped_total", reason="engine") == 1


def test_a_store_that_can_not_be_written_is_reported_and_survived(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(settings, Store(StoreUnavailable("read-only file system")))
    desk.record(*comparisons(20, 3))
    assert client.hexists(KEY, "stopped")
    assert "sortline models canary tone --stop" in caplog.text
    assert desk.sample("sortline_canary_stopped_total", reason="disagreement") == 1


def test_comparisons_after_the_canarys_end_are_dropped(settings: Settings, client: redis.Redis) -> None:
    desk = Desk(settings)
    desk.active_models.end_canary(desk.canary)
    desk.record(*comparisons(5))
    assert client.keys("sortline:*") == []


# without the server ─────────────────────────────────────────────────────────────────────────────────


def test_a_verdict_waits_for_the_server(settings: Settings, client: redis.Redis) -> None:
    desk = Desk(settings)
    stop, calls = desk.tally.stop, [0]

    def away_once(*args: Any) -> bool:
        calls[0] += 1
        if calls[0] == 1:
            raise redis.exceptions.ConnectionError("away")
        return stop(*args)

    desk.tally.stop = away_once  # type: ignore[method-assign]
    desk.recorder.failed(desk.canary, EngineFailed("out of order"))
    with pytest.raises(redis.exceptions.ConnectionError):
        desk.recorder.step(0.0)
    assert desk.active_models.current.canary is None
    desk.recorder.step(0.0)
    assert client.hexists(KEY, "stopped")


def test_comparisons_that_can_not_be_recorded_are_counted_as_skipped(settings: Settings) -> None:
    desk = Desk(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    desk.recorder.start()
    for record in comparisons(5):
        desk.recorder.compared(desk.canary, record)
    kit.wait_until(lambda: desk.sample("sortline_canary_skipped_total") == 5, "they are given up")
    kit.wait_until(lambda: desk.sample("sortline_server_errors_total", step="canary"), "it is counted")
    desk.recorder.stop(kit.PATIENCE_S)
    assert not desk.recorder._thread.is_alive()


def test_the_comparisons_that_wait_for_the_server_are_bounded(settings: Settings) -> None:
    desk = Desk(settings)
    record = comparison(1)
    for _ in range(MAX_QUEUED + 7):
        desk.recorder.compared(desk.canary, record)
    assert desk.sample("sortline_canary_skipped_total") == 7


def test_stopping_writes_the_last_verdict(settings: Settings, client: redis.Redis) -> None:
    desk = Desk(settings)
    desk.recorder.failed(desk.canary, EngineFailed("out of order"))
    desk.recorder._stopping.set()  # between the failure and the thread's next turn
    desk.recorder.start()
    kit.wait_until(lambda: not desk.recorder._thread.is_alive(), "it ends")
    assert client.hexists(KEY, "stopped")


def test_stopping_records_the_comparisons_that_wait(settings: Settings, client: redis.Redis) -> None:
    desk = Desk(settings, canary=CANARY.model_copy(update={"min_images": 10_000}))
    for record in comparisons(300):
        desk.recorder.compared(desk.canary, record)
    desk.recorder.start()
    desk.recorder.stop(kit.PATIENCE_S)
    assert client.hget(KEY, "compared") == b"300"
