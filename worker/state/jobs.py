"""What passes from step to step of the pipeline: small frozen records."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.images.arrays import Pixels
from shared.schemas import ImageJob, SortResult
from worker.state.pixel_buffer import Place

if TYPE_CHECKING:
    from shared.errors import BadImage
    from worker.models.routing import Model, Trial
    from worker.state.result_cache import Key


@dataclass(frozen=True, slots=True)
class Lease:
    """One execution of one job, held by this worker until it is finished, released or lost.

    Ids are bytes of anybody's. Those that aren't UTF-8 have lone surrogates here (`surrogateescape`), and go back to
    the server as they came. Show ids with repr: no log line can be forged by one then.
    """

    queue: str
    job_id: str
    execution_id: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job as the claim step found it in Redis; nothing in it has been believed yet."""

    lease: Lease
    data: bytes | None  # RQ's serialised call
    enqueued_at: float | None
    retries_left: int
    result_ttl_s: str  # '' where the job has none; only the finish script reads it
    failure_ttl_s: str
    extras: str  # callbacks, dependencies and the like, which we refuse
    max_attempts: int | None = None  # the producer's; None from an older producer and from RQ's own enqueue
    refusal: BadImage | None = None  # of its image, by its length: then it is not fetched


@dataclass(frozen=True, slots=True)
class Ticket:
    """A claimed job that is ours and well formed."""

    claimed: Claimed
    job: ImageJob
    attempt: int

    @property
    def queue_ms(self) -> float | None:
        """Milliseconds from enqueue to claim."""
        if self.claimed.enqueued_at is None:
            return None
        return max(0.0, (self.claimed.lease.started_at - self.claimed.enqueued_at) * 1000)


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


class Ending(StrEnum):
    """What the finish step does with a job."""

    SUCCESS = "success"  # RQ status finished, with a SortResult as return value
    FAILURE = "failure"  # RQ status failed, in the FailedJobRegistry
    RETRY = "retry"  # back to the front of its queue, one attempt used up


@dataclass(frozen=True, slots=True)
class Done:
    """An ended job on its way to Redis.

    `result` is None for a retry, which has no visible result yet, and for a job that isn't ours.
    """

    claimed: Claimed
    ending: Ending
    result: SortResult | None
    error_text: str = ""
