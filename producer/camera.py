"""One camera of one line: sends the frames of a source to a queue, as they come or at a given rate.

The belt does not wait, so unless it is told otherwise a camera does not wait for a full queue either: frames that the
queue refuses are dropped, counted by reason and named in the log. A camera that waits (`WhenFull.BLOCK`), or whose
server is unavailable, keeps the frames that it has taken, sends them later, and counts the frames that the belt carried
past meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from producer.camera_log import DropLog, FullQueueLog, LateFileLog, OutageLog
from producer.camera_options import CameraOptions, TooOld, WhenFull
from producer.camera_summary import CameraCounts, CameraSummary
from producer.frames import Frame, PreparedJob, check_names
from producer.metrics import SubmitOutcome
from producer.queue_writer import CHUNK_JOBS
from producer.refusals import explain, pause_s
from producer.schedule import Schedule
from producer.sources.base import Source, SourceFrame
from producer.submit import LineProducer
from shared.errors import BadInput, Bound, QueueFull, RedisUnavailable
from shared.progress import ignore

log = logging.getLogger(__name__)

# The longest wait for the source or for the next frame: Ctrl-C is noticed within this time.
_MAX_WAIT_S = 0.2
# A worker retries about as often, so camera and worker both work again within about two seconds of the server.
_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A usable frame, and the job that it is sent as."""

    source_frame: SourceFrame
    frame: Frame
    captured_at: float
    job: PreparedJob

    @property
    def deadline_at(self) -> float:
        """UTC epoch seconds; infinite if there is no deadline."""
        deadline_ms = self.frame.deadline_ms
        return math.inf if deadline_ms is None else self.captured_at + deadline_ms / 1000


class Camera:
    """Sends frames until it has taken `count` frames or `stop` is set. Call `run` in a thread of your choice."""

    def __init__(
        self,
        options: CameraOptions,
        source: Source,
        producer: LineProducer,
        *,
        stop: threading.Event | None = None,
        on_progress: Callable[[CameraSummary], None] = ignore,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._source = source
        self._producer = producer
        self._stop = stop or threading.Event()
        self._on_progress = on_progress
        self._clock = clock
        self._wall_clock = wall_clock
        self._counts = CameraCounts(options.line, options.camera)
        self._started_at = 0.0
        self._schedule = Schedule(options.rate_hz)
        self._ping_at = float("-inf")
        self._dropped = DropLog(options.line, "dropped", clock=clock)
        self._too_old = DropLog(options.line, "not sent", clock=clock)
        self._late_files = LateFileLog(options.line, started_at=wall_clock())
        self._outages = OutageLog(options.line, clock=clock, retry_s=_RETRY_S)
        self._full = FullQueueLog(options.line, clock=clock)

    def run(self) -> CameraSummary:
        """Take frames from the source at the given rate and send them, until the end. Does not close the source.

        Raises:
            BadSetting: the name of the line, camera or queue can't be used, or the server refuses for a reason that
                waiting won't fix.
            CommandRefused: as `LineProducer.submit`.
        """
        options = self._options
        check_names(line=options.line, camera=options.camera, queue=options.queue)
        self._counts.start()
        self._started_at = self._clock()
        self._schedule.start(self._started_at)
        try:
            self._run()
        finally:
            self._count_missed()
            self._flush_logs(now=True)
        return self.summary()

    def _run(self) -> None:
        while not self._stop.is_set() and self._left():
            self._flush_logs()
            self._count_missed()
            due, wait_s = self._schedule.due(self._clock())
            if not due:
                self._stop.wait(min(wait_s, _MAX_WAIT_S))
                continue
            frames = self._source.take(min(due, self._left(), CHUNK_JOBS), _MAX_WAIT_S)
            if not frames:
                self._schedule.start(self._clock())
                self._end_outage_if_over()
                continue
            self._schedule.consumed(sum(not frame.too_old for frame in frames))
            self._send(self._prepare(frames))
            self._on_progress(self.summary())

    def summary(self) -> CameraSummary:
        """The counts so far."""
        return self._counts.summary(
            seconds=self._clock() - self._started_at,
            stalled_s=self._outages.total_s(),
            blocked_s=self._full.total_s(),
        )

    def _left(self) -> int:
        return CHUNK_JOBS if self._options.count is None else self._options.count - self._counts.taken

    def _prepare(self, frames: Sequence[SourceFrame]) -> list[_Prepared]:
        """Return the usable frames with their jobs; count and log the others."""
        prepared = []
        for source_frame in frames:
            number = self._counts.taken + self._counts.missed
            self._counts.taken += 1
            if source_frame.problem is not None:
                self._reject(source_frame.name, source_frame.problem)
                continue
            if source_frame.too_old:
                self._drop_too_old([source_frame.name], source_frame.captured_at)
                continue
            captured_at = self._wall_clock() if source_frame.captured_at is None else source_frame.captured_at
            frame = self._frame(source_frame, number=number, captured_at=captured_at)
            try:
                job = self._producer.prepare(frame, job_id=self._job_id(source_frame))
            except BadInput as error:
                self._reject(source_frame.name, str(error))
            else:
                prepared.append(_Prepared(source_frame, frame, captured_at, job))
                self._note_if_late(prepared[-1])
        return prepared

    def _note_if_late(self, prepared: _Prepared) -> None:
        """A file's last change is when it came into the folder, by the clock of the folder's own machine."""
        if (file := prepared.source_frame.file) is not None:
            came_at = file.version.changed_ns / 1e9
            self._late_files.note(
                prepared.source_frame.name,
                captured_at=prepared.captured_at,
                came_at=came_at,
                deadline_ms=self._options.deadline_ms,
            )

    def _frame(self, source_frame: SourceFrame, *, number: int, captured_at: float) -> Frame:
        options = self._options
        frame = Frame(
            data=source_frame.data,
            line=options.line,
            camera=options.camera,
            frame_id=source_frame.frame_id,
            encoder_count=None if options.encoder_per_frame is None else number * options.encoder_per_frame,
            captured_at=captured_at,
            deadline_ms=options.deadline_ms,
            queue=options.queue,
        )
        expires = options.too_old is TooOld.EXPIRE and self._is_too_old(captured_at)
        return self._expired(frame) if expires else frame

    def _expired(self, frame: Frame) -> Frame:
        """The frame of a picture that is too old, with a deadline that is past."""
        assert self._options.max_age_s is not None
        return replace(frame, deadline_ms=min(frame.deadline_ms or math.inf, self._options.max_age_s * 1000))

    def _job_id(self, source_frame: SourceFrame) -> str | None:
        """The job id for this picture of a file; None for a frame that is not from a file.

        A camera that is killed after it has sent a file, but before the journal records it, sends the file again after
        its restart. The id is then the same, so the server ignores the second job.
        """
        if source_frame.picture_key is None:
            return None
        origin = f"{self._options.line} {self._options.camera} {self._options.queue} ".encode()
        return hashlib.sha256(origin + source_frame.picture_key).hexdigest()[:32]

    def _is_too_old(self, captured_at: float) -> bool:
        max_age_s = self._options.max_age_s
        return max_age_s is not None and self._wall_clock() - captured_at > max_age_s

    def _drop_too_old(self, names: Sequence[str], last_captured_at: float | None) -> None:
        self._counts.add(SubmitOutcome.TOO_OLD, len(names))
        reason = f"captured more than {self._options.max_age_s:g} s ago (--max-age)"
        if last_captured_at is not None:  # shows when a clock or time zone is wrong
            reason += f", the last one {self._wall_clock() - last_captured_at:,.1f} s ago"
        self._too_old.add(names, reason)

    def _reject(self, name: str, reason: str) -> None:
        self._counts.add(SubmitOutcome.REJECTED, 1)
        log.warning("line %s: frame %s rejected: %s", self._options.line, name, reason)

    def _send(self, prepared: Sequence[_Prepared]) -> None:
        """Send the jobs, and again while the server is unavailable. A job that had arrived is not enqueued twice."""
        began_at = self._clock()
        while prepared:
            try:
                self._producer.send([one.job for one in prepared], partial=True)
            except QueueFull as error:
                self._outages.end(since=began_at)
                prepared = self._after_refusal(prepared, error)
                began_at = self._clock()
            except RedisUnavailable as error:
                self._outages.note(error, since=began_at)
                if self._stop.wait(_RETRY_S):
                    self._give_up(prepared, "stopped while the server was unavailable")
                    return
                prepared = self._still_wanted(prepared)
            except BadInput:
                self._give_up(prepared, "the server refuses the frames")
                raise
            else:
                self._outages.end(since=began_at)
                self._accept(prepared)
                return

    def _after_refusal(self, prepared: Sequence[_Prepared], error: QueueFull) -> Sequence[_Prepared]:
        """Drop the refused frames, or wait, as the options say. Returns the frames to send now."""
        refused = error.refused
        self._accept([one for one in prepared if one.job.job_id not in refused])
        waits = self._options.when_full is WhenFull.BLOCK
        dropped = {job_id: bound for job_id, bound in refused.items() if not waits or bound is Bound.DEADLINE}
        self._drop_refused([one for one in prepared if one.job.job_id in dropped], dropped, error)
        left = [one for one in prepared if one.job.job_id in refused and one.job.job_id not in dropped]
        return self._wait_for_room(left, error)

    def _drop_refused(self, prepared: Sequence[_Prepared], refused: Mapping[str, Bound], error: QueueFull) -> None:
        for bound in Counter(refused.values()):
            names = [one.source_frame.name for one in prepared if refused[one.job.job_id] is bound]
            self._counts.add_refused(bound, len(names))
            self._dropped.add(names, explain(error, bound), reason=bound.value)

    def _wait_for_room(self, prepared: Sequence[_Prepared], error: QueueFull) -> Sequence[_Prepared]:
        """Wait until it is time to try again; returns the frames to send then. Ends early if none of them is left."""
        self._full.begin(error)
        until = self._clock() + pause_s(error)
        while prepared and (left_s := until - self._clock()) > 0:
            if self._stop.wait(min(left_s, _MAX_WAIT_S)):
                self._give_up(prepared, "stopped while the queue was full")
                prepared = []
            else:
                prepared = self._in_time(self._still_wanted(prepared))
                self._flush_logs()
        self._full.end()
        return prepared

    def _in_time(self, prepared: Sequence[_Prepared]) -> Sequence[_Prepared]:
        """Return the frames whose deadlines are not past, and those that are sent in order to expire. Drop the rest."""
        now = self._wall_clock()
        past = [one for one in prepared if one.deadline_at <= now and not self._is_to_expire(one)]
        if not past:
            return prepared
        self._counts.add_refused(Bound.DEADLINE, len(past))
        names = [one.source_frame.name for one in past]
        self._dropped.add(names, "their deadlines passed while the queue was full.", reason=Bound.DEADLINE.value)
        return [one for one in prepared if one not in past]

    def _is_to_expire(self, one: _Prepared) -> bool:
        return self._options.too_old is TooOld.EXPIRE and self._is_too_old(one.captured_at)

    def _still_wanted(self, prepared: Sequence[_Prepared]) -> Sequence[_Prepared]:
        """Return the frames to send now. Counts those that were missed or have become too old meanwhile."""
        self._count_missed()
        self._on_progress(self.summary())
        too_old = [one for one in prepared if self._is_too_old(one.captured_at)]
        if not too_old:
            return prepared
        if self._options.too_old is TooOld.EXPIRE:
            return [self._to_expire(one) if self._is_to_expire(one) else one for one in prepared]
        self._drop_too_old([one.source_frame.name for one in too_old], too_old[-1].captured_at)
        self._flush_logs()
        return [one for one in prepared if one not in too_old]

    def _to_expire(self, prepared: _Prepared) -> _Prepared:
        """The same job with a deadline that is past."""
        frame = self._expired(prepared.frame)
        return replace(prepared, frame=frame, job=self._producer.prepare(frame, job_id=prepared.job.job_id))

    def _end_outage_if_over(self) -> None:
        """Ask whether the server is back, while no frame waits to be sent: those that waited became too old."""
        now = self._clock()
        if not self._outages.lasts or now < self._ping_at:
            return
        self._ping_at = now + _RETRY_S
        try:
            self._producer.ping()
        except RedisUnavailable as error:
            self._outages.note(error, since=now)
        except BadInput:  # it answers; whether it takes frames, the next one shows
            self._outages.end(since=now)
        else:
            self._outages.end(since=now)

    def _accept(self, prepared: Sequence[_Prepared]) -> None:
        self._counts.add(SubmitOutcome.ACCEPTED, len(prepared))
        self._source.accepted([one.source_frame for one in prepared])

    def _give_up(self, prepared: Sequence[_Prepared], reason: str) -> None:
        self._counts.add(SubmitOutcome.UNSENT, len(prepared))
        names = ", ".join(one.source_frame.name for one in prepared)
        log.warning("line %s: %s; %d not sent, by name: %s", self._options.line, reason, len(prepared), names)

    def _count_missed(self) -> None:
        """Count the frames that were due too long ago, and those that the source has lost."""
        self._counts.add(SubmitOutcome.MISSED, self._source.count_missed(self._schedule.skip_missed(self._clock())))

    def _flush_logs(self, *, now: bool = False) -> None:
        self._dropped.flush(now=now)
        self._too_old.flush(now=now)
