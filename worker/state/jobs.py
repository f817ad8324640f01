"""The records of a job that need no model: as it is claimed, admitted and finished."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from shared.errors import BadImage
from shared.schemas import ImageJob, SortResult


@dataclass(frozen=True, slots=True)
class Lease:
    """One execution of one job. This worker holds it until the job is finished or released, or the lease is lost.

    Ids are bytes that anybody may have written. An id that isn't UTF-8 has lone surrogates here (`surrogateescape`),
    and goes back to the server unchanged. Log ids with repr, so that no id can forge a log line.
    """

    queue: str
    job_id: str
    execution_id: str
    started_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Deaths:
    """How often the workers of a job died, and why the job is a suspect.

    `crashes` are the deaths that the job has caused: it was its worker's only job. `losses` are all other deaths.
    `suspicion` says how the worker crashed, or `lost`; None for a job that is no suspect.
    """

    crashes: int = 0
    losses: int = 0
    suspicion: str | None = None


NO_DEATHS = Deaths()


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job as the claim step found it in Redis. Nothing in it has been checked yet."""

    lease: Lease
    data: bytes | None  # RQ's serialized call
    enqueued_at: float | None
    retries_left: int
    result_ttl_s: str  # '' where the job has none; only the finish script uses it
    failure_ttl_s: str
    extras: str  # callbacks, dependencies and the like: a job with any is refused
    max_attempts: int | None = None  # the producer's; None from an older producer and from RQ's own enqueue
    image_bytes: int = 0  # the length of its image; 0 if there was none, or if that is not known
    refusal: BadImage | None = None  # why its image is not fetched: it is empty or too long
    deaths: Deaths = NO_DEATHS
    counted_line: str = ""  # under which line it counts in the load of its queue, and with how many bytes, as text;
    counted_bytes: str = ""  # '' for a job that was not counted: a producer of an older release enqueued it
    clock_offset_s: float = 0.0  # the producer's clock minus the server's; its times are by its own clock

    def attempt(self, *, max_attempts: int) -> int:
        """The number of this attempt, from 1: each failure, crash or loss leads to one more.

        `max_attempts` applies to a job whose producer did not set its own.
        """
        failures = max(0, (self.max_attempts or max_attempts) - self.retries_left - 1)
        return 1 + failures + self.deaths.crashes + self.deaths.losses


@dataclass(frozen=True, slots=True)
class AdmittedJob:
    """A claimed job that is well formed and Sortline's own.

    Its own times are the server's. Those of `job` are by the producer's clock, and are not to be compared with others.
    """

    claimed: ClaimedJob
    job: ImageJob
    attempt: int
    worker_offset_s: float = 0.0  # this worker's clock minus the server's when the job was admitted

    @property
    def captured_at(self) -> float:
        """The time of capture by the server's clock."""
        return self.job.captured_at - self.claimed.clock_offset_s

    @property
    def deadline_at(self) -> float | None:
        """The deadline by the server's clock."""
        deadline_at = self.job.deadline_at
        return None if deadline_at is None else deadline_at - self.claimed.clock_offset_s

    @property
    def queue_ms(self) -> float | None:
        """Milliseconds from enqueue, by the producer's clock, to claim, by the worker's."""
        claimed = self.claimed
        if claimed.enqueued_at is None:
            return None
        enqueued_at = claimed.enqueued_at - claimed.clock_offset_s
        return max(0.0, (claimed.lease.started_at - self.worker_offset_s - enqueued_at) * 1000)


class Disposition(StrEnum):
    """What the finish step does with a job."""

    SUCCESS = "success"  # RQ status finished, with a SortResult as return value
    FAILURE = "failure"  # RQ status failed, in the FailedJobRegistry
    RETRY = "retry"  # back to the front of its queue, with one attempt fewer


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A job on its way to the finish step.

    `result` is None for a retry, which has no visible result yet, and for a job that isn't Sortline's.
    """

    claimed: ClaimedJob
    disposition: Disposition
    result: SortResult | None
    error_text: str = ""
    keeps_image: bool = False  # the finish script leaves its image on the server for a while (`JobObserver`)


@dataclass(frozen=True, slots=True)
class StageTimings:
    """Milliseconds that an image spent in each stage; None for a stage that it did not reach."""

    decode_ms: float | None = None
    batch_ms: float | None = None
    infer_ms: float | None = None


NO_TIMINGS = StageTimings()
