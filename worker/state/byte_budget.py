"""How many bytes may wait for a step, so that a worker's memory is bounded whatever the images' size."""

from __future__ import annotations

import threading


class Budget:
    """Bytes held of those that may be; what takes the last may go over."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._changed = threading.Condition()

    def wait_for_room(self, timeout_s: float) -> int:
        """Wait until there is room, at most `timeout_s`; the bytes left, 0 when there are none."""
        with self._changed:
            self._changed.wait_for(lambda: self._held_bytes < self._limit_bytes, timeout_s)
            return max(0, self._limit_bytes - self._held_bytes)

    def take(self, count_bytes: int) -> None:
        """These are held from now on."""
        with self._changed:
            self._held_bytes += count_bytes

    def give_back(self, count_bytes: int) -> None:
        """These are held no more."""
        with self._changed:
            self._held_bytes -= count_bytes
            self._changed.notify_all()
