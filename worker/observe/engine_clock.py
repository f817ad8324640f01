"""Counts how long the model is busy, waits for jobs that the worker holds, or is idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from prometheus_client import Counter


class EngineClock:
    """Counts the model's time by state. Several threads may run batches at once."""

    def __init__(self, seconds: Counter, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._inside = 0
        self._state_between = "idle"  # the state while no batch is in the model
        self._since = clock()
        self._lock = threading.Lock()

    def entered(self) -> None:
        """A batch enters the model."""
        self._add_elapsed(1)

    def left(self) -> None:
        """A batch leaves the model."""
        self._add_elapsed(-1)

    def observe_queue(self, *, is_idle: bool) -> None:
        """Note whether the worker holds no job for the model: then the time between batches counts as idle."""
        self._add_elapsed(0)
        self._state_between = "idle" if is_idle else "waiting"

    def _add_elapsed(self, change: int) -> None:
        with self._lock:
            now = self._clock()
            self._seconds.labels("busy" if self._inside else self._state_between).inc(now - self._since)
            self._since = now
            self._inside += change
