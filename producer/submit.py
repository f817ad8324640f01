"""Enqueues images: takes their bytes, puts RQ jobs on the queue. Called by cameras, the uploader and users' code."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from producer.congestion import Congestion
from producer.frames import Frame, FramePreparer, PreparedJob
from producer.listeners import ListenerWatch
from producer.metrics import CLOCK_OFFSET
from producer.queue_full import queue_full
from producer.queue_writer import Admission, Demand, QueueWriter, chunks
from shared.clock import ServerClock
from shared.errors import Bound, QueueFull
from shared.server.connection import connect
from shared.settings import Settings

log = logging.getLogger(__name__)


class LineProducer:
    """Puts images on the queues of one server. Connects on first use; may be shared by threads."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        on_unserved: Callable[[str], None] = log.warning,
    ) -> None:
        """Store the arguments; nothing is sent yet.

        Args:
            settings: from `load_settings`; `redis_url` names the server.
            clock: UTC epoch seconds.
            on_unserved: called with a sentence when no worker listens to a queue, or its workers are suspended.

        Raises:
            BadSetting: `redis_url` can't be used.
        """
        self._settings = settings
        self._clock = clock
        self._client = connect(settings.redis_url)
        self._server_clock = ServerClock(
            self._client, tolerance_s=settings.clock_tolerance_s, on_offset=CLOCK_OFFSET.set, clock=clock
        )
        self._preparer = FramePreparer(self._server_clock, max_image_bytes=settings.max_image_bytes, clock=clock)
        self._writer = QueueWriter(self._client, settings, self._server_clock, clock=clock)
        self._congestion = Congestion()
        self._listeners = ListenerWatch(self._client, on_unserved)

    def close(self) -> None:
        """Close the connections to the server; the next call opens new ones."""
        self._client.close()

    def submit(
        self,
        image_bytes: bytes,
        *,
        line: str,
        camera: str,
        frame_id: int | str | None = None,
        encoder_count: int | None = None,
        captured_at: float | None = None,
        deadline_ms: float | None = None,
        queue: str = "live",
    ) -> str:
        """Enqueue one image.

        Args:
            image_bytes: a whole JPEG, PNG, WebP, BMP or TIFF file of at most `max_image_bytes`.
            line: the name of the sorting line, and of its stream of results.
            camera: the name of the camera on that line.
            frame_id: the caller's own number or name of the frame; returned in the result.
            encoder_count: the belt's position at capture; returned in the result.
            captured_at: time of capture, UTC epoch seconds, at most `clock_tolerance_s` in the future; None means now.
            deadline_ms: milliseconds after capture by which the result is needed, at most a week; None means no
                deadline.
            queue: `live` or `bulk`, or another queue that a worker serves. If none does, a warning is logged.

        Returns:
            The job id, for `wait_for` and RQ's tools.

        Raises:
            BadImage: the image is empty, too large, or not in one of the formats. Nothing was sent.
            BadJob: a name, a time or the frame_id can't be used. Nothing was sent.
            QueueFull: the queue is at one of its bounds, or the deadline can't be met at the rate at which the queue
                moves, or the server's memory is full. Nothing was enqueued. Its `bound` says which of these it is, and
                its `retry_after_s` when to try again.
            RedisUnavailable: the server can't be reached, or can't serve for now because it is loading, busy, a
                replica, or unable to save or replicate. The message says which. The job may have arrived or not; with
                `prepare` and `send` you can send the same job again without enqueuing it twice.
            BadSetting: a person must fix this: the server refuses the login, denies this user a command or a key, has
                no such database, belongs to a Redis Cluster or is too old, or its use of TLS does not match redis_url.
            CommandRefused: the server refuses for another reason, e.g. because a key of the queue holds another type.
        """
        frame = Frame(
            data=image_bytes,
            line=line,
            camera=camera,
            frame_id=frame_id,
            encoder_count=encoder_count,
            captured_at=captured_at,
            deadline_ms=deadline_ms,
            queue=queue,
        )
        job = self.prepare(frame)
        self.send([job])
        return job.job_id

    def submit_many(self, frames: Sequence[Frame]) -> list[str]:
        """Enqueue many images in a few round trips. All of them are validated before the first one is sent.

        Returns:
            The job ids, in the order of the frames.

        Raises:
            The same errors as `submit`. If a queue lacks room for all frames of a line, `QueueFull` is raised before
            any of them is enqueued, unless another producer takes the free places meanwhile. Its `accepted` names the
            jobs that were enqueued.
        """
        jobs = [self.prepare(frame) for frame in frames]
        self.send(jobs)
        return [job.job_id for job in jobs]

    def prepare(self, frame: Frame, *, job_id: str | None = None) -> PreparedJob:
        """Validate one frame and give it a job id and its times. Sends nothing.

        Asks the server for its time if `captured_at` seems to be in the future.

        Args:
            frame: the image.
            job_id: an id of your own: the server then ignores the job if another process sends it again with the same
                id within `result_ttl_s`; None for a new one.

        Raises:
            BadImage, BadJob: as `submit`.
        """
        return self._preparer.prepare(frame, job_id=job_id)

    def send(self, jobs: Sequence[PreparedJob], *, partial: bool = False) -> None:
        """Enqueue prepared jobs. Sending a job that was already enqueued changes nothing.

        Args:
            jobs: from `prepare`, for one queue and line or several.
            partial: enqueue the jobs that fit, then raise `QueueFull` if some were refused. Its `accepted` and
                `refused` name both.

        Raises:
            QueueFull, RedisUnavailable, BadSetting, CommandRefused: as `submit_many`.
        """
        self._server_clock.ensure_measured()
        self._server_clock.measure()
        groups: dict[tuple[str, str], list[PreparedJob]] = {}
        for job in jobs:
            groups.setdefault((job.queue, job.line), []).append(job)
        sending = _Sending(partial=partial)
        for group in groups.values():
            self._send_group(group, sending)
        for queue in {job.queue for job in jobs}:
            self._listeners.check(queue)
        sending.raise_if_refused()

    def ping(self) -> None:
        """Ask the server whether it answers.

        Raises:
            RedisUnavailable, BadSetting, CommandRefused: as `submit`.
        """
        self._writer.ping()

    def _send_group(self, group: Sequence[PreparedJob], sending: _Sending) -> None:
        """Enqueue jobs of one queue and line, in calls of a bounded size."""
        demand = Demand.of(group, partial=sending.partial, arriving=self._congestion.count_new(group))
        for chunk in chunks(group):
            if sending.partial:
                demand = replace(demand, arriving=self._congestion.count_new(chunk))
            self._send_chunk(chunk, demand, sending)
            # A call that wants all or none says at once how many arrive.
            demand = replace(demand.without(chunk), arriving=0)

    def _send_chunk(self, chunk: Sequence[PreparedJob], demand: Demand, sending: _Sending) -> None:
        """Enqueue jobs in one call. If the queue was congested, ask first: the bytes of refused jobs are not sent."""
        if self._congestion.is_congested(chunk[0]):
            chunk = self._call(self._writer.ask, chunk, demand, sending)
            demand = replace(demand, arriving=0)
        if chunk:
            taken = self._call(self._writer.submit, chunk, demand, sending)
            sending.accepted += [job.job_id for job in taken]

    def _call(
        self,
        script: Callable[[Sequence[PreparedJob], Demand], Admission],
        jobs: Sequence[PreparedJob],
        demand: Demand,
        sending: _Sending,
    ) -> Sequence[PreparedJob]:
        """Run a script about these jobs, note what the queue answers, and return the jobs that it takes."""
        try:
            answer = script(jobs, demand)
        except QueueFull as error:  # the server's memory is full
            sending.refuse(error, {job.job_id: error.bound for job in jobs})
            return ()
        self._congestion.note(answer, jobs)
        if not answer.refused:
            return jobs
        advice = self._listeners.check(jobs[0].queue)
        sending.refuse(queue_full(answer, jobs, demand, self._settings, advice=advice), answer.refused)
        return [job for job in jobs if job.job_id not in answer.refused]


class _Sending:
    """What became of the jobs of one call of `send`."""

    def __init__(self, *, partial: bool) -> None:
        self.partial = partial
        self.accepted: list[str] = []
        self._refused: dict[str, Bound] = {}
        self._error: QueueFull | None = None

    def refuse(self, error: QueueFull, refused: Mapping[str, Bound]) -> None:
        """Note jobs that were refused. Raises at once if the call wants all or none."""
        self._error = self._error or error
        self._refused |= refused
        if not self.partial:
            self.raise_if_refused()

    def raise_if_refused(self) -> None:
        """Raise the first refusal, with all jobs of the call that were accepted or refused."""
        if self._error is not None:
            self._error.accepted, self._error.refused = tuple(self.accepted), self._refused
            raise self._error
