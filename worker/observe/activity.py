"""Logs once a minute what the worker did: images per second, how many of them in time, and how many wait.

The numbers are read from the metrics when the line is due, so the pipeline's threads do no work for them.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

from shared.schemas import Outcome
from worker.observe.metrics import Metrics
from worker.observe.queue_gauges import QueueGauges

log = logging.getLogger("sortline.activity")

INTERVAL_S = 60.0
_TIMED = (Outcome.SORTED, Outcome.LATE, Outcome.EXPIRED)


class ActivityLog:
    """Logs the line. Call `step` about once a second, from one thread."""

    def __init__(self, metrics: Metrics, gauges: QueueGauges, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`gauges` reads the depths of the worker's queues. The first minute begins with the first `step`."""
        self._metrics = metrics
        self._gauges = gauges
        self._clock = clock
        self._since: float | None = None
        self._before: Counter[str] = Counter()
        self._is_idle = False

    def step(self) -> None:
        """Log the line if a minute has passed. A worker that stays idle logs it once."""
        now = self._clock()
        if self._since is None:
            self._since = now
        seconds = now - self._since
        if not seconds or seconds < INTERVAL_S:
            return
        self._since = now
        ended = self._metrics.ended_by_outcome()
        counts, self._before = ended - self._before, ended
        waiting = self._gauges.depths()
        was_idle = self._is_idle
        self._is_idle = not counts.total() and waiting is not None and not any(waiting.values())
        if not (self._is_idle and was_idle):
            log.info("%s; %s", _describe_ended(counts, seconds), _describe_waiting(waiting))


def _describe_ended(counts: Counter[str], seconds: float) -> str:
    total = counts.total()
    if total > seconds:
        text = f"{total / seconds:.1f} images/s answered in {seconds:.0f} s"
    else:  # a rate would round them away
        text = f"{total or 'no'} image{'s' if total > 1 else ''} answered in {seconds:.0f} s"
    if timed := sum(counts[outcome] for outcome in _TIMED):
        text += f", {counts[Outcome.SORTED] / timed:.1%} of them in time"
    others = [f"{count:,} {outcome}" for outcome, count in sorted(counts.items()) if outcome != Outcome.SORTED]
    return f"{text} ({', '.join(others)})" if others else text


def _describe_waiting(waiting: dict[str, int] | None) -> str:
    if waiting is None:
        return "number waiting unknown, because the Redis server does not answer"
    return "waiting: " + ", ".join(f"{count:,} in {queue}" for queue, count in waiting.items())
