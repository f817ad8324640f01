"""How much of the model's time is busy, waiting or idle."""

from __future__ import annotations

from worker.observe.engine_clock import EngineClock
from worker.observe.metrics import Metrics


def test_the_engines_time_is_counted_once_however_many_batches_run_at_once() -> None:
    now = [10.0]
    metrics = Metrics()
    engine_clock = EngineClock(metrics.engine_seconds, clock=lambda: now[0])
    for step, seconds in (
        (lambda: engine_clock.observe_queue(is_idle=False), 1.0),  # idle until now
        (engine_clock.entered, 2.0),  # waiting until now
        (engine_clock.entered, 4.0),  # busy from here on
        (engine_clock.left, 8.0),
        (engine_clock.left, 16.0),
        (lambda: engine_clock.observe_queue(is_idle=True), 32.0),
        (lambda: engine_clock.observe_queue(is_idle=False), 64.0),
    ):
        now[0] += seconds
        step()
    counted = {
        state: metrics.registry.get_sample_value("sortline_engine_seconds_total", {"state": state})
        for state in ("idle", "waiting", "busy")
    }
    assert counted == {"idle": 1.0 + 64.0, "waiting": 2.0 + 32.0, "busy": 4.0 + 8.0 + 16.0}
