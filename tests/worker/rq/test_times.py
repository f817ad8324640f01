"""Impossible times in a running worker: that job alone is rejected, with a result, and good jobs never are."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
import redis

from producer.submit import LineProducer
from shared.clock import ServerClock
from shared.server.connection import connect
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame

HOUR_S = 3600.0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"captured_at": time.time() * 1000}, "looks like milliseconds: divide by 1,000"),
        ({"captured_at": 1e300}, "captured_at = 1e+300"),
        ({"captured_at": -1.0}, "captured_at = -1.0"),
        ({"captured_at": 0.0}, "captured_at = 0.0"),
        ({"captured_at": time.time() + HOUR_S}, "s in the future"),
        ({"deadline_at": time.time() - HOUR_S}, "deadline_at"),
        ({"deadline_at": 1e308}, "deadline_at = 1e+308"),
        ({"deadline_at": -1e308}, "deadline_at = -1e+308"),
    ],
    ids=["ms", "1e300", "negative", "zero", "ahead", "past-deadline", "far-deadline", "negative-deadline"],
)
def test_impossible_times_are_rejected_alone(
    settings: Settings, client: redis.Redis, fields: dict[str, Any], says: str
) -> None:
    odd, good = kit.submit(settings, frame(), frame())
    kit.forge(client, odd, **fields)
    kit.run_burst(settings)
    assert kit.outcomes(client) == {odd: "rejected", good: "sorted"}
    (result,) = (each for each in kit.stream(client) if each.job_id == odd)
    assert result.error is not None and says in result.error
    assert result.timings_ms.total is None and result.deadline_margin_ms is None
    json.loads(result.model_dump_json(), parse_constant=pytest.fail)
    assert kit.fetch(client, odd).get_status() == "finished"
    assert not client.exists(f"sortline:image:{odd}")


@pytest.mark.parametrize("age_s", [24 * HOUR_S, 365 * 24 * HOUR_S])
def test_a_backlog_is_sorted_however_old(settings: Settings, client: redis.Redis, age_s: float) -> None:
    (job_id,) = kit.submit(settings, frame(captured_at=time.time() - age_s))
    kit.run_burst(settings)
    assert kit.outcomes(client) == {job_id: "sorted"}


@pytest.mark.parametrize("own_offset_s", [-HOUR_S, HOUR_S])
def test_a_worker_with_a_wrong_clock_rejects_no_good_job_and_keeps_deadlines(
    settings: Settings, client: redis.Redis, own_offset_s: float
) -> None:
    (job_id,) = kit.submit(settings, frame(deadline_ms=600_000))
    (too_late,) = kit.submit(settings, frame(captured_at=time.time() - 600, deadline_ms=1000))
    wrong = ServerClock(
        connect(settings.redis_url),
        tolerance_s=settings.clock_tolerance_s,
        clock=lambda: time.time() + own_offset_s,
    )
    run = kit.pipeline(
        settings, replace(kit.pipeline_components(settings, ToneEngine()), server_clock=wrong), burst=True
    )
    run.start()
    kit.finish(run)
    assert kit.outcomes(client) == {job_id: "sorted", too_late: "expired"}
    for result in kit.stream(client):
        assert result.finished_at == pytest.approx(time.time(), abs=kit.PATIENCE_S)


@pytest.mark.parametrize("camera_s", [-HOUR_S, HOUR_S])
def test_a_camera_with_a_wrong_clock_has_its_deadlines_kept(
    settings: Settings, client: redis.Redis, camera_s: float
) -> None:
    def clock() -> float:
        return time.time() + camera_s

    producer = LineProducer(settings, clock=clock)
    in_time, too_late = producer.submit_many(
        [frame(deadline_ms=600_000), frame(captured_at=clock() - 600, deadline_ms=1000)]
    )
    kit.run_burst(settings)
    assert kit.outcomes(client) == {in_time: "sorted", too_late: "expired"}
    margins_ms = {result.job_id: result.deadline_margin_ms for result in kit.stream(client)}
    assert margins_ms[in_time] == pytest.approx(600_000, abs=kit.PATIENCE_S * 1000)
    assert margins_ms[too_late] == pytest.approx(-599_000, abs=kit.PATIENCE_S * 1000)
