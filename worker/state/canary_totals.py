"""The counts of one canary, over all workers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CanaryTotals:
    """How many images were compared, how many of them disagreed, and why the canary was stopped, if it was."""

    compared: int = 0
    disagreed: int = 0
    stopped: str | None = None

    @property
    def ratio(self) -> float:
        """Share of the compared images that disagreed; 0 before the first comparison."""
        return self.disagreed / self.compared if self.compared else 0.0
