"""Frames and the jobs that are made of them: validates a frame, gives it its job id and times. Sends nothing."""

from __future__ import annotations

import hashlib
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from shared import keys
from shared.clock import MAX_DEADLINE_S, ServerClock
from shared.errors import BadImage, BadJob, BadSetting
from shared.images.formats import sniff
from shared.jobs import SORT_IMAGE
from shared.schemas import NAME_RULE, ImageJob, Name
from shared.validation_messages import describe_problem, quoted

_NAME: TypeAdapter[str] = TypeAdapter(Name)


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
    line: str
    queue: str
    deadline_at: float | None  # by this machine's clock, epoch seconds
    payload: bytes  # RQ's `data`: the zlib-compressed JSON of the function and its arguments
    description: str
    image: bytes


class FramePreparer:
    """Makes jobs of frames."""

    def __init__(
        self, server_clock: ServerClock, *, max_image_bytes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._server_clock = server_clock
        self._max_image_bytes = max_image_bytes
        self._clock = clock

    def prepare(self, frame: Frame, *, job_id: str | None = None) -> PreparedJob:
        """As `LineProducer.prepare`."""
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
            line=frame.line,
            queue=frame.queue,
            deadline_at=deadline_at,
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

    def _check_image(self, data: bytes) -> str:
        if not isinstance(data, bytes):  # users' code may not be type-checked
            raise BadImage("format", f"the image is a {type(data).__name__}: pass the bytes of its file.")
        limit = self._max_image_bytes
        if len(data) > limit:
            raise BadImage("too_large_bytes", f"{len(data):,} bytes, the limit is {limit:,} (max_image_bytes).")
        return sniff(data)


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


def _describe(error: ValidationError) -> str:
    problems = (
        f"{'.'.join(map(str, problem['loc'][:1]))} = {quoted(problem['input'])}: {describe_problem(problem)}"
        for problem in error.errors()
    )
    return "the job is not valid: " + "; ".join(problems) + "."
