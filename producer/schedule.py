"""When a camera's frames are due. Called by producer/camera.py."""

from __future__ import annotations

from producer.queue_writer import CHUNK_JOBS

# A camera that falls further behind than this skips the frames it missed: a burst of stale frames helps nobody.
_MAX_BEHIND_S = 1.0


class Schedule:
    """Says when frames are due: frame n at start + n / rate, however long earlier frames took, so nothing drifts."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._start_at = 0.0
        self._taken = 0

    def start(self, now: float) -> None:
        """Make the next frame due now; later frames are counted from it."""
        self._start_at, self._taken = now, 0

    def consumed(self, frames: int) -> None:
        """Count frames that were due and are being sent."""
        self._taken += frames

    def skip_missed(self, now: float) -> int:
        """Skip the frames that were due too long ago, and return their number. Keeps the frame that is due now."""
        behind_s = now - self._next_at() if self._rate_hz else 0.0
        if behind_s <= _MAX_BEHIND_S:
            return 0
        missed = int(behind_s * self._rate_hz)
        self._taken += missed
        return missed

    def due(self, now: float) -> tuple[int, float]:
        """The number of frames that are due and, if it is 0, the seconds until the next one is."""
        if not self._rate_hz:
            return CHUNK_JOBS, 0.0
        next_at = self._next_at()
        if now < next_at:
            return 0, next_at - now
        return int((now - next_at) * self._rate_hz) + 1, 0.0

    def _next_at(self) -> float:
        return self._start_at + self._taken / self._rate_hz
