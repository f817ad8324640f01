"""The records of a job that has its model: decoded items, batches of them, and what a canary is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from shared.images.arrays import Pixels
from worker.models.model import Model
from worker.models.result_cache import CacheKey
from worker.models.routing import ActiveCanary
from worker.state.jobs import AdmittedJob
from worker.state.pixel_buffer import PixelSlot


@dataclass(slots=True)
class ComparisonInput:
    """What the other model needs to see an image too, while a canary is tried.

    `pixels` are in that model's own size. They stay None where there is no time to decode twice: then nothing is
    compared. `is_decoding` is true while they are decoded after the job itself has gone on.
    """

    canary: ActiveCanary
    model: Model
    pixels: Pixels | None = None
    is_decoding: bool = False

    @property
    def is_missing(self) -> bool:
        """Whether there are no pixels and none will come."""
        # Read in this order: the decode thread writes `pixels` first and `is_decoding` last.
        return not self.is_decoding and self.pixels is None


@dataclass(frozen=True, slots=True)
class Decoded:
    """An admitted job with its pixels, which lie in a slot of its model's buffer."""

    admitted: AdmittedJob
    slot: PixelSlot
    decode_ms: float
    ready_at: float  # monotonic seconds
    model: Model
    comparison: ComparisonInput | None = None
    cache_key: CacheKey | None = None  # None: the answer is not cached

    @property
    def by_canary(self) -> bool:
        """Whether the canary's answer sorts the image."""
        return self.comparison is not None and self.comparison.canary.model is self.model


@dataclass(frozen=True, slots=True)
class Batch:
    """Items for one call of one model, earliest deadline first, and why it started when it did."""

    items: tuple[Decoded, ...]
    reason: str  # full, deadline, linger, drain
