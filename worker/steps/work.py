"""What passes from step to step once a job has its model: small records."""

from __future__ import annotations

from dataclasses import dataclass

from worker.models.model import Model
from worker.models.result_cache import Key
from worker.models.routing import Trial
from worker.state.jobs import Ticket
from worker.state.pixel_buffer import Pixels, Place


@dataclass(slots=True)
class Peer:
    """The other model that is to see an image while a canary is tried.

    `pixels`, in its own size, stay None where there is no time to decode twice: then nothing is compared. `coming` is
    true while they are being decoded, after the job itself went on.
    """

    trial: Trial
    model: Model
    pixels: Pixels | None = None
    coming: bool = False

    @property
    def is_missing(self) -> bool:
        """Whether there are no pixels, nor will be."""
        return not self.coming and self.pixels is None  # in this order: the other thread writes in the opposite one


@dataclass(frozen=True, slots=True)
class Decoded:
    """A ticket with its pixels, and the model that they are for: the place is of that model's buffer."""

    ticket: Ticket
    place: Place
    decode_ms: float
    ready_at: float  # monotonic seconds
    model: Model
    peer: Peer | None = None
    key: Key | None = None  # to remember the answer by

    @property
    def by_canary(self) -> bool:
        """Whether a canary's answer acts for it."""
        return self.peer is not None and self.peer.trial.model is self.model


@dataclass(frozen=True, slots=True)
class Batch:
    """Items for one call of one model, earliest deadline first, and why it started now."""

    items: tuple[Decoded, ...]
    reason: str  # full, deadline, linger, drain
