"""A bound on the bytes that wait for a step, so that a worker's memory is bounded whatever the images' size."""

from __future__ import annotations

import threading


class ByteBudget:
    """Counts the bytes that are held. Whoever takes the last free ones may exceed the limit."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._changed = threading.Condition()

    def wait_for_capacity(self, timeout_s: float) -> int:
        """Wait at most `timeout_s` until bytes are free. Returns how many are free; 0 if none."""
        with self._changed:
            self._changed.wait_for(lambda: self._held_bytes < self._limit_bytes, timeout_s)
            return max(0, self._limit_bytes - self._held_bytes)

    def take(self, count_bytes: int) -> None:
        """Hold these bytes from now on."""
        with self._changed:
            self._held_bytes += count_bytes

    def give_back(self, count_bytes: int) -> None:
        """Stop holding these bytes."""
        with self._changed:
            was_full = self._held_bytes >= self._limit_bytes
            self._held_bytes -= count_bytes
            if was_full:
                self._changed.notify_all()
