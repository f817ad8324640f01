"""The shortest time from capture to deadline that was seen lately."""

from __future__ import annotations

import math

# A budget counts for at least so many seconds, and at most for twice as many. By time, not by count: the images of a
# busy line must not make the worker forget a line that sends one a second.
REMEMBER_S = 10.0


class ShortestBudget:
    """The least of the budgets of the last seconds. Not for several threads at once."""

    def __init__(self) -> None:
        self._latest = self._before = math.inf  # in the latest period of REMEMBER_S, and in the one before it
        self._began = -math.inf

    def observe(self, seconds: float, *, now: float) -> None:
        """Note a job's budget, at the monotonic time `now`. One that is not above 0 says nothing."""
        if now - self._began >= REMEMBER_S:
            self._before = self._latest if now - self._began < 2 * REMEMBER_S else math.inf
            self._latest, self._began = math.inf, now
        if 0 < seconds < self._latest:
            self._latest = seconds

    @property
    def seconds(self) -> float:
        """The shortest budget; 0 if none was seen. It stays while no job comes."""
        shortest = min(self._latest, self._before)
        return 0.0 if math.isinf(shortest) else shortest
