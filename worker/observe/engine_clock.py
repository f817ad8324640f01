"""What the model's time goes to: busy, waiting for jobs, or idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from prometheus_client import Counter


class EngineClock:
    """Counts what the model's time goes to, by whichever threads bring it batches."""

    def __init__(self, seconds: Counter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._inside = 0
        self._without = "idle"  # the state while nothing is inside
        self._since = clock()
        self._turning = threading.Lock()

    def entered(self) -> None:
        """One more batch is in the model."""
        self._turn(1)

    def left(self) -> None:
        """One less."""
        self._turn(-1)

    def observe_queue(self, *, is_idle: bool) -> None:
        """Whether there is nothing that will come to the model, while nothing is in it."""
        self._turn(0)
        self._without = "idle" if is_idle else "waiting"

    def _turn(self, change: int) -> None:
        with self._turning:
            now = self._clock()
            self._seconds.labels("busy" if self._inside else self._without).inc(now - self._since)
            self._since = now
            self._inside += change
