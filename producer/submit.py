"""Enqueues images: takes their bytes, puts RQ jobs on the queue. Called by cameras, the uploader and users' own code.

One server-side script (scripts/submit.lua) writes what RQ's own `Queue.enqueue` would write. The images are written
just before it, in the same transaction. They are not passed to the script, because the server hashes every byte of a
script's arguments. The job's hash is built here without rq.Job, which would take longer than all other steps together;
a contract test compares the hash with RQ's, field by field.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from producer.listeners import ListenerWatch
from producer.metrics import CLOCK_OFFSET
from shared import keys
from shared.clock import MAX_DEADLINE_S, ServerClock
from shared.errors import BadImage, BadJob, BadSetting, QueueFull, RedisUnavailable
from shared.images.formats import sniff
from shared.jobs import MAX_ATTEMPTS_FIELD, SORT_IMAGE
from shared.rq_time import format_rq_time
from shared.schemas import NAME_RULE, ImageJob, Name
from shared.server.connection import connect
from shared.server.error_translation import server_errors
from shared.settings import Settings
from shared.validation_messages import describe_problem, quoted

log = logging.getLogger(__name__)

# RQ's own default. It limits the job's time in a plain `rq worker`; Sortline's worker uses leases instead.
JOB_TIMEOUT_S = 180
# Maximum number of tokens in the wakeup list: more than there are workers that could usefully wake at once.
WAKEUP_TOKENS = 64
# Limits of one call of the script, which blocks the whole server: this many jobs take about a millisecond.
CHUNK_JOBS = 64
CHUNK_BYTES = 4_000_000

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_SCRIPT = Path(__file__).parent / "scripts" / "submit.lua"


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One image and where it comes from: the arguments of `LineProducer.submit`, which explains them.

    `data` is its `image_bytes`.
    """

    data: bytes
    line: str
    camera: str
    frame_id: int | str | None = None
    encoder_count: int | None = None
    captured_at: float | None = None
    deadline_ms: float | None = None
    queue: str = "live"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedJob:
    """A validated frame with its job id, ready to be sent. It may be sent again after `RedisUnavailable`."""

    job_id: str
    queue: str
    payload: bytes  # RQ's `data`: the zlib-compressed JSON of the function and its arguments
    description: str
    image: bytes


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
        self._script = _SCRIPT.read_text(encoding="utf-8")
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
            QueueFull: the queue is at `queue_max_items`, or the server's memory is full. Nothing was enqueued.
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
            The same errors as `submit`. If the queue lacks room, `QueueFull` is raised before anything is enqueued,
            unless another producer takes the free places meanwhile; its `accepted` then names the jobs that were
            enqueued.
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
        content_type = self._check_image(frame.data)
        job_id = job_id or uuid.uuid4().hex
        captured_at, deadline_at = self._times(frame)
        try:
            job = ImageJob(
                job_id=job_id,
                line=frame.line,
                camera=frame.camera,
                frame_id=frame.frame_id,
                encoder_count=frame.encoder_count,
                captured_at=captured_at,
                deadline_at=deadline_at,
                queue=frame.queue,
                image_key=keys.image(job_id),
                sha256=hashlib.sha256(frame.data).hexdigest(),
                content_type=content_type,
            )
        except ValidationError as error:
            raise BadJob(_describe(error)) from error
        call = f'["{SORT_IMAGE}", null, [{job.model_dump_json()}], {{}}]'
        return PreparedJob(
            job_id=job_id,
            queue=frame.queue,
            payload=zlib.compress(call.encode()),
            description=f"sort {frame.line}/{frame.camera} frame {frame.frame_id}",
            image=frame.data,
        )

    def _times(self, frame: Frame) -> tuple[float, float | None]:
        """The frame's capture time and deadline, UTC epoch seconds, after checking both."""
        captured_at = self._clock() if frame.captured_at is None else _number("captured_at", frame.captured_at)
        deadline_at = None
        if frame.deadline_ms is not None:
            deadline_ms = _number("deadline_ms", frame.deadline_ms)
            if not 0 < deadline_ms <= MAX_DEADLINE_S * 1000:
                raise BadJob(
                    f"deadline_ms = {deadline_ms!r} must be milliseconds after the capture, above 0 and at most "
                    f"{MAX_DEADLINE_S * 1000:,.0f} (a week), or None for no deadline."
                )
            deadline_at = captured_at + deadline_ms / 1000
        self._server_clock.check(captured_at, deadline_at)
        return captured_at, deadline_at

    def send(self, jobs: Sequence[PreparedJob], *, partial: bool = False) -> None:
        """Enqueue prepared jobs. Sending a job that was already enqueued changes nothing.

        Args:
            jobs: from `prepare`, for one queue or several.
            partial: if a queue has no room for all of its jobs, enqueue the first ones that fit, then raise
                `QueueFull`, whose `accepted` names the jobs that were enqueued. The queues after it are not tried.

        Raises:
            QueueFull, RedisUnavailable, BadSetting, CommandRefused: as `submit_many`.
        """
        by_queue: dict[str, list[PreparedJob]] = {}
        for job in jobs:
            by_queue.setdefault(job.queue, []).append(job)
        accepted: list[str] = []
        for queue, group in by_queue.items():
            left = len(group)
            for chunk in _chunks(group):
                try:
                    self._send_chunk(queue, chunk, places_wanted=left, partial=partial)
                except QueueFull as error:
                    error.accepted = (*accepted, *error.accepted)
                    raise
                accepted += [job.job_id for job in chunk]
                left -= len(chunk)
            self._listeners.check(queue)
        self._server_clock.measure()

    def ping(self) -> None:
        """Ask the server whether it answers.

        Raises:
            RedisUnavailable, BadSetting, CommandRefused: as `submit`.
        """
        with self._server_errors():
            self._client.ping()

    def _check_image(self, data: bytes) -> str:
        if not isinstance(data, bytes):  # users' code may not be type-checked
            raise BadImage("format", f"the image is a {type(data).__name__}: pass the bytes of its file.")
        limit = self._settings.max_image_bytes
        if len(data) > limit:
            raise BadImage("too_large_bytes", f"{len(data):,} bytes, the limit is {limit:,} (max_image_bytes).")
        return sniff(data)

    def _send_chunk(self, queue: str, chunk: Sequence[PreparedJob], *, places_wanted: int, partial: bool) -> None:
        names: list[str] = [keys.RQ_QUEUES, keys.rq_queue(queue), keys.wakeup(queue), keys.suspects(queue)]
        common = self._common_fields(queue)
        arguments: list[str | int | bytes] = [
            self._settings.queue_max_items,
            places_wanted,
            int(partial),
            self._settings.image_ttl_s,
            WAKEUP_TOKENS,
            len(common),
            *common,
        ]
        for job in chunk:
            names += (keys.rq_job(job.job_id), keys.image(job.job_id))
            arguments += (job.job_id, job.payload, job.description)
        images = {keys.image(job.job_id): job.image for job in chunk}
        with self._server_errors():
            depth, *refused = self._run(images, names, arguments)
        if refused:
            bound = self._settings.queue_max_items
            more = len(refused) if partial else places_wanted
            advice = self._listeners.check(queue) or "Add workers, slow down, or raise the limit."
            raise QueueFull(
                f"queue {queue!r} holds {depth:,} jobs, and its limit is {bound:,} (queue_max_items): there is no room "
                f"for {more:,} more. {advice[0].upper()}{advice[1:]}",
                accepted=[job.job_id for index, job in enumerate(chunk) if index not in refused],
            )

    def _run(self, images: dict[str, bytes], names: list[str], arguments: list[str | int | bytes]) -> list[int]:
        """Write the images and run the script in one transaction; returns the script's answer.

        The script's source is sent each time, which costs the server 6 microseconds. With EVALSHA, if the server did
        not know the script, the images would be written without the expiry that the script sets.
        """
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.mset(images)
            pipeline.eval(self._script, len(names), *names, *arguments)
            _, answer = pipeline.execute()
        return [int(part) for part in answer]

    def _common_fields(self, queue: str) -> list[str | int]:
        """The fields of RQ's job hash that are the same for all jobs of a call, each followed by its value."""
        now = format_rq_time(self._clock())
        fields: dict[str, str | int] = {
            "created_at": now,
            "enqueued_at": now,
            "status": "queued",
            "origin": queue,
            "timeout": JOB_TIMEOUT_S,
            "result_ttl": self._settings.result_ttl_s,
            "failure_ttl": self._settings.failure_ttl_s,
            "success_callback_name": "",
            "failure_callback_name": "",
            "stopped_callback_name": "",
            "started_at": "",
            "ended_at": "",
            "last_heartbeat": "",
            "worker_name": "",
            "group_id": "",
        }
        # From this field and retries_left a worker computes which attempt it makes.
        fields[MAX_ATTEMPTS_FIELD] = self._settings.max_attempts
        retries = self._settings.max_attempts - 1
        if retries:  # RQ has no Retry(max=0)
            fields |= {"retries_left": retries, "retry_intervals": "[0]", "enqueue_at_front_on_retry": 1}
        return [part for pair in fields.items() for part in pair]

    @contextmanager
    def _server_errors(self) -> Iterator[None]:
        try:
            with server_errors(self._settings.redis_url):
                yield
        except RedisUnavailable:
            # After a failover the server may be a replica whose connections are still open: reconnect next time.
            self._client.connection_pool.disconnect(inuse_connections=False)
            raise


def _number(what: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # float() finds the values that aren't numbers
    except (TypeError, ValueError, OverflowError) as error:
        raise BadJob(f"{what} = {value!r} must be a number; for a datetime, pass its timestamp().") from error


def check_names(**names: str) -> None:
    """Check the names of a line, camera or queue before the first frame, e.g. `check_names(line="line-1")`.

    Raises:
        BadSetting: a name can't be part of a Redis key and a metric label.
    """
    for what, name in names.items():
        try:
            _NAME.validate_python(name)
        except ValidationError as error:
            raise BadSetting(f"{what} = {name!r}: {NAME_RULE}.") from error


def _chunks(jobs: Sequence[PreparedJob]) -> Iterator[list[PreparedJob]]:
    """Split the jobs into runs that fit one call of the script; an image larger than CHUNK_BYTES is sent alone."""
    chunk: list[PreparedJob] = []
    chunk_bytes = 0
    for job in jobs:
        if chunk and (len(chunk) == CHUNK_JOBS or chunk_bytes + len(job.image) > CHUNK_BYTES):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk.append(job)
        chunk_bytes += len(job.image)
    if chunk:
        yield chunk


def _describe(error: ValidationError) -> str:
    problems = (
        f"{'.'.join(map(str, problem['loc'][:1]))} = {quoted(problem['input'])}: {describe_problem(problem)}"
        for problem in error.errors()
    )
    return "the job is not valid: " + "; ".join(problems) + "."
