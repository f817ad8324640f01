"""The counts of one canary over all workers of a Redis server, as its hash on that server has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

FIELDS = ("compared", "disagreed", "stopped")


@dataclass(frozen=True, slots=True)
class CanaryTotals:
    """How many images were compared, how many of them disagreed, and why the canary was stopped, if it was."""

    compared: int = 0
    disagreed: int = 0
    stopped: str | None = None

    @classmethod
    def parse(cls, values: Sequence[bytes | None]) -> CanaryTotals:
        """Parse the values of FIELDS in the hash. A value is None if the hash lacks the field."""
        compared, disagreed, stopped = values
        return cls(int(compared or 0), int(disagreed or 0), stopped.decode() if stopped else None)

    @property
    def ratio(self) -> float:
        """Share of the compared images that disagreed; 0 before the first comparison."""
        return self.disagreed / self.compared if self.compared else 0.0

    def __str__(self) -> str:
        if not self.compared:
            return "no images were compared"
        return f"{self.disagreed:,} of {self.compared:,} compared images ({self.ratio:.1%}) were answered differently"
