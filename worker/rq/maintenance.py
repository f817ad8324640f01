"""Maintenance: measures the worker's clock, sweeps for lost jobs and logs its activity, on a thread of its own.

No renewal and no probe waits for it. An error in one of its parts neither stops the others, nor ends the worker, nor
makes it look unhealthy: the pipeline's threads report that the server can't be reached.
"""

from __future__ import annotations

import logging
import threading

import redis

from shared.clock import ServerClock
from shared.server.error_translation import explain
from worker.observe.activity import ActivityLog
from worker.observe.metrics import Metrics
from worker.rq.sweep import Sweeper

log = logging.getLogger("sortline.upkeep")

INTERVAL_S = 1.0


class Maintenance:
    """Runs the periodic work of one worker, from `start` to `stop`."""

    def __init__(self, *, sweeper: Sweeper, server_clock: ServerClock, activity: ActivityLog, metrics: Metrics) -> None:
        self._sweeper = sweeper
        self._activity = activity
        self._server_clock = server_clock
        self._metrics = metrics
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="maintenance", daemon=True)

    def start(self) -> None:
        """Run until `stop`."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the current step."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def step(self) -> None:
        """Measure the clock, sweep, and log what was done. Never raises."""
        for what, work in (
            ("measuring the clock", self._server_clock.measure),
            ("the sweep for lost jobs", self._sweep),
            ("the line about the worker's activity", self._activity.step),
        ):
            try:
                work()
            except redis.exceptions.RedisError as error:
                log.debug("%s is not possible: %s", what, explain(error))
            except Exception:  # a bug in here must not end the thread: lost jobs would stay lost
                log.exception("%s failed", what)

    def _sweep(self) -> None:
        swept = self._sweeper.step()
        self._metrics.recovered.labels("requeued").inc(swept.requeued)
        self._metrics.recovered.labels("failed").inc(swept.failed)

    def _loop(self) -> None:
        self.step()
        while not self._stopping.wait(INTERVAL_S):
            self.step()
