"""Which images are archived. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shared.schemas import UNCERTAIN, SortResult
from worker.models.routing import hash_fraction


@dataclass(frozen=True, slots=True)
class Selection:
    """A share of all images, whatever becomes of them, and all images with one of these outcomes (or UNCERTAIN)."""

    share: float
    outcomes: frozenset[str]

    def __str__(self) -> str:
        share = f"{self.share * 100:g} % of the images"
        return f"{share}, and all that are {' or '.join(sorted(self.outcomes))}," if self.outcomes else share

    @property
    def is_empty(self) -> bool:
        """Whether no image is ever wanted."""
        return not self.outcomes and self.share <= 0

    def wants(self, result: SortResult) -> bool:
        """Whether the image with this result is wanted."""
        if result.outcome.value in self.outcomes or (result.uncertain and UNCERTAIN in self.outcomes):
            return True
        return self._is_in_share(result.job_id)

    def _is_in_share(self, job_id: str) -> bool:
        return hash_fraction(job_id, purpose=b"archive") < self.share
