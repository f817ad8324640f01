"""Intake: believes a claimed job or refuses it. In: `Claimed`. Out: `Ticket`, or BadJob.

The job's data is JSON and is read as nothing else: no pickle, no import of what it names.
"""

from __future__ import annotations

import json
import zlib

from pydantic import ValidationError

from shared import keys
from shared.errors import BadJob
from shared.jobs import SORT_IMAGE
from shared.schemas import ImageJob
from worker.items import Claimed, Ticket


def admit(claimed: Claimed, *, max_attempts: int) -> Ticket:
    """The job as a ticket.

    Raises:
        BadJob: it names another function, carries callbacks or dependencies, isn't JSON, or its
            argument isn't an ImageJob. It will never run.
    """
    if claimed.extras:
        raise BadJob(
            f"the job carries callbacks, dependencies, repeats, webhooks or a rate limit ({claimed.extras.strip()}); "
            "Sortline runs none of them: enqueue it with LineProducer."
        )
    job = _image_job(_call(claimed.data))
    if job.job_id != claimed.lease.job_id or job.image_key != keys.image(job.job_id):
        raise BadJob(
            f"the ImageJob says job_id {job.job_id!r} and image_key {job.image_key!r} "
            f"inside job {claimed.lease.job_id!r}."
        )
    return Ticket(claimed, job, attempt=max(1, max_attempts - claimed.retries_left))


def _call(data: bytes | None) -> object:
    if data is None:
        raise BadJob("the job has no data.")
    try:
        return json.loads(zlib.decompress(data))
    except (zlib.error, ValueError) as error:
        raise BadJob(
            f"the job's data is not JSON ({error}): Sortline never unpickles; enqueue it with LineProducer."
        ) from error


def _image_job(call: object) -> ImageJob:
    match call:
        case [str(function), None, [argument], dict(keywords)] if function == SORT_IMAGE and not keywords:
            try:
                return ImageJob.model_validate(argument)
            except ValidationError as error:
                raise BadJob(f"the job's argument is not an ImageJob: {error}") from error
        case [str(function), *_] if function != SORT_IMAGE:
            raise BadJob(
                f"the job names the function {function!r}; this worker runs {SORT_IMAGE!r} only, and imports no other."
            )
        case _:
            raise BadJob(f"the job does not call {SORT_IMAGE} with one ImageJob: {str(call)[:200]!r}")
