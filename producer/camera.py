"""One camera of one line: sends the frames of a source to a queue at a steady rate.

A camera does not wait for a full queue, because the belt does not wait either: frames that don't fit are dropped,
counted and named in the log. It does wait while the server is unavailable, and then sends the same frames again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from producer.metrics import SUBMITTED, SubmitOutcome
from producer.sources.base import Source, SourceFrame
from producer.submit import CHUNK_JOBS, Frame, LineProducer, PreparedJob, check_names
from shared.errors import BadInput, QueueFull, RedisUnavailable

log = logging.getLogger(__name__)

# The longest wait for the source or for the next frame: Ctrl-C is noticed within this time.
_MAX_WAIT_S = 0.2
# A camera that falls further behind than this skips the frames it missed: a burst of stale frames helps nobody.
_MAX_BEHIND_S = 1.0
_BACKOFF_S = (0.5, 10.0)
_DROP_LOG_S = 1.0
_NAMES_SHOWN = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraOptions:
    """What one camera sends. `rate_hz` 0 means as fast as possible; `count` None means without end."""

    line: str
    camera: str
    rate_hz: float = 0.0
    deadline_ms: float | None = None
    count: int | None = None
    queue: str = "live"
    encoder_per_frame: int | None = None


@dataclass(frozen=True, slots=True)
class CameraSummary:
    """What became of the frames that a camera took from its source."""

    line: str
    camera: str
    frames: int
    accepted: int
    refused_full: int
    rejected: int
    unsent: int
    seconds: float
    accepted_hz: float


class Camera:
    """Sends frames until it has taken `count` frames or `stop` is set. Call `run` in a thread of your choice."""

    def __init__(
        self,
        options: CameraOptions,
        source: Source,
        producer: LineProducer,
        *,
        stop: threading.Event | None = None,
        on_progress: Callable[[CameraSummary], None] = lambda summary: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._source = source
        self._producer = producer
        self._stop = stop or threading.Event()
        self._on_progress = on_progress
        self._clock = clock
        self._outcomes: Counter[SubmitOutcome] = Counter()
        self._taken = 0
        self._started_at = 0.0
        self._schedule = _Schedule(options.rate_hz)
        self._drops = _DropLog(options.line, clock)

    def run(self) -> CameraSummary:
        """Take frames from the source at the given rate and send them, until the end. Does not close the source.

        Raises:
            BadSetting: the name of the line, camera or queue can't be used, or the server refuses for a reason that
                waiting won't fix.
            CommandRefused: as `LineProducer.submit`.
        """
        check_names(line=self._options.line, camera=self._options.camera, queue=self._options.queue)
        self._started_at = self._clock()
        self._schedule.start(self._started_at)
        try:
            self._run()
        finally:
            self._drops.flush(now=True)
        return self.summary()

    def _run(self) -> None:
        while not self._stop.is_set() and self._left():
            self._drops.flush()
            due, wait_s = self._schedule.due(self._clock())
            if not due:
                self._stop.wait(min(wait_s, _MAX_WAIT_S))
                continue
            frames = self._source.take(min(due, self._left(), CHUNK_JOBS), _MAX_WAIT_S)
            if not frames:
                self._schedule.start(self._clock())
                continue
            self._schedule.consumed(len(frames))
            self._send(self._prepare(frames))
            self._on_progress(self.summary())

    def summary(self) -> CameraSummary:
        """The counts so far."""
        seconds = self._clock() - self._started_at
        accepted = self._outcomes[SubmitOutcome.ACCEPTED]
        return CameraSummary(
            line=self._options.line,
            camera=self._options.camera,
            frames=self._taken,
            accepted=accepted,
            refused_full=self._outcomes[SubmitOutcome.REFUSED_FULL],
            rejected=self._outcomes[SubmitOutcome.REJECTED],
            unsent=self._outcomes[SubmitOutcome.UNSENT],
            seconds=round(seconds, 3),
            accepted_hz=round(accepted / seconds, 2) if seconds > 0 else 0.0,
        )

    def _left(self) -> int:
        return CHUNK_JOBS if self._options.count is None else self._options.count - self._taken

    def _prepare(self, frames: Sequence[SourceFrame]) -> list[tuple[str, PreparedJob]]:
        """Names and jobs of the usable frames; the others are counted and logged."""
        options = self._options
        prepared = []
        for source_frame in frames:
            number = self._taken
            self._taken += 1
            if source_frame.problem is not None:
                self._reject(source_frame.name, source_frame.problem)
                continue
            frame = Frame(
                data=source_frame.data,
                line=options.line,
                camera=options.camera,
                frame_id=source_frame.frame_id,
                encoder_count=None if options.encoder_per_frame is None else number * options.encoder_per_frame,
                deadline_ms=options.deadline_ms,
                queue=options.queue,
            )
            try:
                prepared.append((source_frame.name, self._producer.prepare(frame)))
            except BadInput as error:
                self._reject(source_frame.name, str(error))
        return prepared

    def _reject(self, name: str, reason: str) -> None:
        self._count(SubmitOutcome.REJECTED, 1)
        log.warning("line %s: frame %s rejected: %s", self._options.line, name, reason)

    def _send(self, prepared: Sequence[tuple[str, PreparedJob]]) -> None:
        """Send the jobs, and retry while the server is unavailable. A job that had arrived is not enqueued twice."""
        jobs = [job for _, job in prepared]
        wait_s, longest_s = _BACKOFF_S
        was_unavailable = False
        while jobs:
            try:
                self._producer.send(jobs, partial=True)
                self._count(SubmitOutcome.ACCEPTED, len(jobs))
                break
            except QueueFull as error:
                accepted = set(error.accepted)
                refused = [name for name, job in prepared if job.job_id not in accepted]
                self._count(SubmitOutcome.ACCEPTED, len(accepted))
                self._count(SubmitOutcome.REFUSED_FULL, len(refused))
                self._drops.add(refused, str(error))
                break
            except RedisUnavailable as error:
                was_unavailable = True
                log.warning("line %s: %s Next try in %.1f s.", self._options.line, error, wait_s)
                if self._stop.wait(wait_s):
                    self._give_up(prepared, "stopped while the server was unavailable")
                    return
                wait_s = min(2 * wait_s, longest_s)
            except BadInput:
                self._give_up(prepared, "the server refuses the frames")
                raise
        if was_unavailable:
            log.warning("line %s: the server answers again", self._options.line)

    def _give_up(self, prepared: Sequence[tuple[str, PreparedJob]], reason: str) -> None:
        self._count(SubmitOutcome.UNSENT, len(prepared))
        names = ", ".join(name for name, _ in prepared)
        log.warning("line %s: %s; %d not sent, by name: %s", self._options.line, reason, len(prepared), names)

    def _count(self, outcome: SubmitOutcome, frames: int) -> None:
        if frames:
            self._outcomes[outcome] += frames
            SUBMITTED.labels(self._options.line, outcome.value).inc(frames)


class _Schedule:
    """Says when frames are due: frame n at start + n / rate, however long earlier frames took, so nothing drifts."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._start_at = 0.0
        self._taken = 0

    def start(self, now: float) -> None:
        """Make the next frame due now; later frames are counted from it."""
        self._start_at, self._taken = now, 0

    def consumed(self, frames: int) -> None:
        """Count frames that were due and are being sent."""
        self._taken += frames

    def due(self, now: float) -> tuple[int, float]:
        """The number of frames that are due and, if it is 0, the seconds until the next one is."""
        if not self._rate_hz:
            return CHUNK_JOBS, 0.0
        next_at = self._start_at + self._taken / self._rate_hz
        if now < next_at:
            return 0, next_at - now
        if now - next_at > _MAX_BEHIND_S:
            self.start(now)
            return 1, 0.0
        return int((now - next_at) * self._rate_hz) + 1, 0.0


class _DropLog:
    """Logs dropped frames: each at debug level, and at most one warning per second for all since the last warning."""

    def __init__(self, line: str, clock: Callable[[], float]) -> None:
        self._line = line
        self._clock = clock
        self._names: list[str] = []
        self._reason = ""
        self._next_at = float("-inf")

    def add(self, names: Sequence[str], reason: str) -> None:
        for name in names:
            log.debug("line %s: frame %s dropped", self._line, name)
        self._names += names
        self._reason = reason

    def flush(self, *, now: bool = False) -> None:
        """Log the warning if one is due; with `now`, in any case."""
        if not self._names or (not now and self._clock() < self._next_at):
            return
        shown = ", ".join(self._names[:_NAMES_SHOWN])
        more = len(self._names) - _NAMES_SHOWN
        tail = f" and {more} more, to {self._names[-1]}" if more > 0 else ""
        log.warning("line %s: %d frames dropped: %s%s: %s", self._line, len(self._names), shown, tail, self._reason)
        self._names = []
        self._next_at = self._clock() + _DROP_LOG_S
