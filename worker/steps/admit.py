"""Admit: checks a claimed job before it is believed. In: `ClaimedJob`. Out: `AdmittedJob`, or a verdict.

The job's data is read as JSON and as nothing else: it is never unpickled, and nothing that it names is imported.
"""

from __future__ import annotations

import json
import logging
import reprlib
import zlib
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from shared import keys
from shared.errors import BadJob
from shared.jobs import SORT_IMAGE
from shared.schemas import SCHEMA_VERSION, ImageJob
from shared.validation_messages import describe_problems
from worker.state.jobs import AdmittedJob, ClaimedJob
from worker.steps.decide import Impossible, Refused, Verdict
from worker.steps.flow import Flow

log = logging.getLogger("sortline.admit")

# An ImageJob takes less than a kilobyte. Longer data, compressed or not, is no ImageJob and could fill the memory.
# worker/rq/scripts/common.lua has the same number.
MAX_CALL_BYTES = 100_000
# The data of an ImageJob takes about 300 bytes. Zlib makes at most 1,032 bytes of each byte.
SHORT_BYTES = 500
# Text that anybody may have written is cut to this length in the log and in the failed job.
MAX_QUOTED = 500


# RQ's form of a call: function, instance, arguments, keywords.
_NO_KEYWORDS = Annotated[dict[str, object], Field(max_length=0)]
_CALL: TypeAdapter[tuple[str, None, tuple[ImageJob], dict[str, object]]] = TypeAdapter(
    tuple[Literal["worker.tasks.sort_image"], None, tuple[ImageJob], _NO_KEYWORDS]
)


class Admission:
    """Checks the claimed jobs of one worker."""

    def __init__(self, flow: Flow, *, max_attempts: int) -> None:
        """`max_attempts` applies to a job whose producer did not set its own."""
        self._flow = flow
        self._max_attempts = max_attempts

    def check(self, claimed: ClaimedJob) -> AdmittedJob | Verdict:
        """The admitted job, or the verdict on one that does not go on."""
        server_clock = self._flow.server_clock
        server_clock.ensure_measured()  # every job comes by here before its deadline is looked at
        try:
            admitted = admit(claimed, max_attempts=self._max_attempts, worker_offset_s=server_clock.offset_s)
        except Exception as error:  # BadJob, or a bug: the jobs claimed with it must not be lost
            trace = None if isinstance(error, BadJob) else error
            log.error("job %.200r is refused and will not run: %s", claimed.lease.job_id, error, exc_info=trace)
            self._flow.metrics.refused.inc()
            return Refused(claimed=claimed, error=error)
        try:
            job = admitted.job
            server_clock.check(job.captured_at, job.deadline_at, clock_offset_s=claimed.clock_offset_s)
        except BadJob as error:
            model = self._flow.active_models.current.stable
            return Impossible(admitted=admitted, model=model, at=self._flow.clock(), error=error)
        return admitted


def admit(claimed: ClaimedJob, *, max_attempts: int, worker_offset_s: float = 0.0) -> AdmittedJob:
    """Check a claimed job.

    Args:
        claimed: the job as it was claimed.
        max_attempts: applies to a job whose producer did not set its own.
        worker_offset_s: this worker's clock minus the server's.

    Raises:
        BadJob: it names another function, carries callbacks or dependencies, isn't JSON, or its
            argument isn't an ImageJob of a version that this worker knows. It will never run.
    """
    if claimed.extras:
        quoted = claimed.extras.strip()[:MAX_QUOTED]
        raise BadJob(
            f"the job carries callbacks, dependencies, repeats, webhooks or a rate limit ({quoted!r}); Sortline "
            "runs none of them: enqueue it with LineProducer."
        )
    text = _unpacked(claimed.data)
    try:
        _, _, (job,), _ = _CALL.validate_json(text)
    except ValidationError as error:  # find out what is wrong with the data, which takes longer
        _image_job(_call(text))
        raise _not_json(error) from error  # json.loads takes more, e.g. half of a surrogate pair, which can't be sent
    _check_version(job.schema_version)
    check_identity(job, job_id=claimed.lease.job_id)
    return AdmittedJob(claimed, job, claimed.attempt(max_attempts=max_attempts), worker_offset_s)


def parse_image_job(argument: object) -> ImageJob:
    """The argument of a job as an ImageJob.

    Raises:
        BadJob: it is none, or one of a version that this worker does not know.
    """
    if isinstance(argument, dict):  # first, as the other fields of another version may look wrong here
        _check_version(argument.get("schema_version", SCHEMA_VERSION))
    try:
        return ImageJob.model_validate(argument)
    except ValidationError as error:
        raise BadJob(f"the job's argument is not an ImageJob: {describe_problems(error)[:MAX_QUOTED]}") from error


def _check_version(version: object) -> None:
    """Refuse another version's ImageJob. What is no whole number is left to the validation of the ImageJob."""
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise BadJob(
            f"the ImageJob has schema_version {_short(version)}, and this worker reads {SCHEMA_VERSION} only: another "
            "release of Sortline has written it. Update the workers before the producers, then put the job back with "
            "`rq requeue`."
        )


def _short(number: int) -> str:
    """As text, also if it has so many digits that Python does not write them all."""
    return str(number) if abs(number) < 10**20 else "of more than 20 digits"


def check_identity(job: ImageJob, *, job_id: str) -> None:
    """Refuse an ImageJob that names another job than the one that carries it, or another job's image.

    Raises:
        BadJob: its result would be published under another id, or any key of the server would be read as its image.
    """
    if job.job_id != job_id or job.image_key != keys.image(job_id):
        raise BadJob(
            f"the ImageJob says job_id {job.job_id!r} and image_key {job.image_key[:MAX_QUOTED]!r} inside job "
            f"{job_id[:MAX_QUOTED]!r}: enqueue it with LineProducer."
        )


def _unpacked(data: bytes | None) -> bytes:
    if data is None:
        raise BadJob(f"the job has no data, or more than {MAX_CALL_BYTES:,} bytes of it: enqueue it with LineProducer.")
    try:
        # Short data can't fill the memory, and unpacking it at once takes two thirds of the time.
        if len(data) <= SHORT_BYTES:
            return zlib.decompress(data)
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(data, MAX_CALL_BYTES)
    except zlib.error as error:
        raise _not_json(error) from error
    if not unpacker.eof:
        raise _not_json(f"cut off, or longer than {MAX_CALL_BYTES:,} bytes")
    return text


def _call(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(error) from error


def _not_json(why: object) -> BadJob:
    return BadJob(f"the job's data is not JSON ({why}): Sortline never unpickles; enqueue it with LineProducer.")


def _image_job(call: object) -> ImageJob:
    match call:
        case [str(function), None, [argument], dict(keywords)] if function == SORT_IMAGE and not keywords:
            return parse_image_job(argument)
        case [str(function), *_] if function != SORT_IMAGE:
            raise BadJob(
                f"the job names the function {function[:MAX_QUOTED]!r}; "
                f"this worker runs {SORT_IMAGE!r} only, and imports no other."
            )
        case _:
            raise BadJob(f"the job does not call {SORT_IMAGE} with one ImageJob: {reprlib.repr(call)}")
