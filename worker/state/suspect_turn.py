"""Suspect turn: when a worker may take suspects, jobs that may crash it. Pure except for its clock, which is passed in.

A suspect is claimed alone: the worker claims nothing more, finishes what it holds, and then takes suspects one by one.
All of that is one turn. Turns may not take more than a share of a busy worker's time, so that a hundred suspects don't
stop a line.
"""

from __future__ import annotations

import time
from collections.abc import Callable

# The share of a busy worker's time that its turns take.
SHARE = 0.05


class SuspectTurn:
    """The turns of one worker. For one thread."""

    def __init__(self, *, lost_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """`lost_s` is the time that a crash has cost, if this worker replaces one that crashed. It counts as a turn."""
        self._clock = clock
        self._last_s = lost_s
        self._rests_until = clock() + _rest_s(lost_s)
        self._idle_since: float | None = None
        self._began_at: float | None = None
        self._drained_at: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether a turn has begun: then nothing but suspects may be claimed."""
        return self._began_at is not None

    @property
    def is_draining(self) -> bool:
        """Whether a turn has begun and the worker still holds other jobs."""
        return self.is_on and self._drained_at is None

    def observe(self, *, is_idle: bool) -> None:
        """Note whether there is anything to do, after each attempt to claim other jobs."""
        if not is_idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = self._clock()

    def due_in_s(self) -> float:
        """How long until a turn may begin if nothing else comes; 0 or less if it may begin now.

        An idle worker need not rest for long. But it must have been idle for as long as the last turn took: a line that
        sends ten frames a second leaves it idle between two frames, and a crash would cost many of them.
        """
        now = self._clock()
        rests_s = self._rests_until - now
        return rests_s if self._idle_since is None else min(rests_s, self._idle_since + self._last_s - now)

    def begin(self) -> None:
        """Begin a turn: from now on nothing else is claimed."""
        self._began_at, self._drained_at = self._clock(), None

    def may_claim(self) -> bool:
        """Whether the turn goes on. Ask while the worker holds nothing.

        A turn takes suspects for as long as it took the worker to finish the other jobs, and at least one.
        """
        assert self._began_at is not None, "there is no turn"
        now = self._clock()
        if self._drained_at is None:
            self._drained_at = now
            return True
        return now - self._drained_at < self._drained_at - self._began_at

    def end(self) -> None:
        """End the turn. The next one may begin after a rest."""
        assert self._began_at is not None, "there is no turn"
        now = self._clock()
        self._last_s = now - self._began_at
        self._rests_until = now + _rest_s(self._last_s)
        self._began_at = self._idle_since = None


def _rest_s(turn_s: float) -> float:
    """How long the worker does other work, if there is any, after a turn of this length."""
    return turn_s * (1 / SHARE - 1)
