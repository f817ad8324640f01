"""Maintenance: measures the worker's clock, reports its capacity, sweeps for lost jobs and logs its activity.

It has a thread of its own: no renewal and no probe waits for it. An error in one of its parts neither stops the others,
nor ends the worker, nor makes it look unhealthy: the pipeline's threads report that the server can't be reached.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

from shared.clock import ServerClock
from shared.server.error_translation import explain
from worker.observe.activity import ActivityLog
from worker.observe.metrics import Metrics
from worker.rq.sweep import Sweeper

log = logging.getLogger("sortline.upkeep")

INTERVAL_S = 1.0
_REPORT = "the report of the worker's capacity"


class Maintenance:
    """Runs the periodic work of one worker, from `start` to `stop`."""

    def __init__(
        self,
        *,
        sweeper: Sweeper,
        server_clock: ServerClock,
        activity: ActivityLog,
        report_capacity: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        """Starts no thread. `report_capacity` tells the server what the worker can do, or that the worker leaves."""
        self._sweeper = sweeper
        self._report_capacity = report_capacity
        self._activity = activity
        self._server_clock = server_clock
        self._metrics = metrics
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="maintenance", daemon=True)

    def start(self) -> None:
        """Run until `stop`."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End after the current step, and after a last report of the capacity."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def step(self) -> None:
        """Measure the clock, report, sweep, and log what was done. Never raises."""
        self._try("measuring the clock", self._server_clock.measure)
        self._try(_REPORT, self._report_capacity)
        self._try("the sweep for lost jobs", self._sweep)
        self._try("the line about the worker's activity", self._activity.step)

    def _try(self, what: str, work: Callable[[], None]) -> None:
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
        self._try(_REPORT, self._report_capacity)  # the worker has ended: nobody must count on it any longer
