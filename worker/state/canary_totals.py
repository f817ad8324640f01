"""What a canary has shown so far: plain counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Totals:
    """Compared images of one canary, over all workers; why it was stopped, if it was."""

    compared: int = 0
    disagreed: int = 0
    stopped: str | None = None

    @property
    def ratio(self) -> float:
        """Share of the compared images that disagreed; 0 before the first."""
        return self.disagreed / self.compared if self.compared else 0.0
