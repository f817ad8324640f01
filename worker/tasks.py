"""The function that our jobs name. A plain `rq worker` calls it; Sortline's own worker never does.

It gives the same answers as the batching worker, one image at a time: model, decoder, policy and result are the same
code. Settings and model are loaded once per process. `rq worker` forks for every job, so it loads both for every job,
and takes the model version that is current at that time. It takes no part in a canary and archives nothing; only
`sortline worker` does.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, cast

import numpy as np
import redis
from rq import get_current_job
from rq.job import Job

from shared import keys
from shared.clock import ServerClock
from shared.errors import BadImage, BadJob, EngineFailed
from shared.jobs import BYTES_FIELD, CLOCK_OFFSET_FIELD, LINE_FIELD, MAX_ATTEMPTS, MAX_ATTEMPTS_FIELD
from shared.schemas import ImageJob, SortResult
from shared.settings import Settings, load_settings
from worker.models.loading import LoadedModel, as_model, load_model
from worker.models.model import Model
from worker.rq.claimer import refusal_by_length
from worker.rq.job_fields import MAX_DIGITS, clock_offset_in, deaths_in, max_attempts_in
from worker.state.jobs import AdmittedJob, ClaimedJob, Lease, StageTimings
from worker.steps.admit import check_identity, parse_image_job
from worker.steps.decide import Classified, Expired, Failed, Impossible, Unusable, Verdict, decide
from worker.steps.decode import check_digest, decode
from worker.steps.infer import infer

_DEATHS = (keys.CRASHES, keys.LOSSES, keys.SUSPECT)

_loaded: tuple[LoadedModel, Settings] | None = None


def sort_image(job: dict[str, Any]) -> dict[str, Any]:
    """Sort one image.

    Args:
        job: an ImageJob as a JSON object; its bytes are in the Redis key `image_key`.

    Returns:
        a SortResult as a JSON object; it is also added to the line's result stream.

    Raises:
        BadJob: the ImageJob is malformed, of another schema version, or belongs to another job.
        EngineFailed: the model failed on the image; RQ retries the job while it has attempts left.
    """
    current = get_current_job()
    if current is None:
        raise RuntimeError(
            "sort_image runs inside an RQ worker; to sort files without a queue, see `sortline classify`."
        )
    image_job = parse_image_job(job)
    check_identity(image_job, job_id=current.id)
    loaded, settings = _loaded_once()
    size_bytes = current.connection.strlen(image_job.image_key)
    refusal = refusal_by_length(size_bytes, max_bytes=settings.max_image_bytes)
    server_clock = ServerClock(current.connection, tolerance_s=settings.clock_tolerance_s)
    server_clock.measure()
    admitted = _as_admitted(
        image_job,
        current,
        max_attempts=settings.max_attempts,
        refusal=refusal,
        worker_offset_s=server_clock.offset_s,
    )
    image = cast(bytes | None, current.connection.get(image_job.image_key)) if refusal is None else None
    model = as_model(loaded, settings, worker=current.worker_name or "rq")
    verdict = _sort(admitted, image, model, server_clock)
    result = decide(verdict).result
    if isinstance(verdict, Failed):
        if result is not None:  # no attempt is left
            _count_ended(current)
            _keep_for_failed(result, current)
            _publish(result, current.connection, maxlen=settings.results_maxlen)
        raise verdict.error
    assert result is not None
    _count_ended(current)
    _publish(result, current.connection, maxlen=settings.results_maxlen)
    current.connection.unlink(keys.image(result.job_id))
    return result.model_dump(mode="json")


def use(loaded: LoadedModel, settings: Settings) -> None:
    """Use these in this process from now on, instead of loading them with the first job."""
    global _loaded
    _loaded = loaded, settings


def _loaded_once() -> tuple[LoadedModel, Settings]:
    if _loaded is None:
        settings = load_settings()
        use(load_model(settings), settings)
    assert _loaded is not None
    return _loaded


def _as_admitted(
    job: ImageJob, current: Job, *, max_attempts: int, refusal: BadImage | None, worker_offset_s: float
) -> AdmittedJob:
    fields = (MAX_ATTEMPTS_FIELD, CLOCK_OFFSET_FIELD, *_DEATHS)  # RQ's Job doesn't know them
    allowed, clock_offset, *deaths = cast(list[bytes | None], current.connection.hmget(current.key, fields))
    claimed = ClaimedJob(
        lease=Lease(job.queue, job.job_id, "", time.time()),
        data=None,
        enqueued_at=current.enqueued_at.timestamp() if current.enqueued_at else None,
        retries_left=min(current.retries_left or 0, MAX_ATTEMPTS - 1),
        result_ttl_s="",
        failure_ttl_s="",
        extras="",
        max_attempts=max_attempts_in(allowed),
        refusal=refusal,
        deaths=deaths_in(*deaths),
        clock_offset_s=clock_offset_in(clock_offset),
    )
    return AdmittedJob(claimed, job, claimed.attempt(max_attempts=max_attempts), worker_offset_s)


def _sort(admitted: AdmittedJob, image: bytes | None, model: Model, server_clock: ServerClock) -> Verdict:
    job, deadline_at, clock = admitted.job, admitted.deadline_at, server_clock.now
    try:
        server_clock.check(job.captured_at, job.deadline_at, clock_offset_s=admitted.claimed.clock_offset_s)
        if deadline_at is not None and clock() > deadline_at:
            return Expired(admitted=admitted, model=model, at=clock())
        if image is not None:
            check_digest(image, sha256=job.sha256)
        item = decode(admitted, image, model)
        started = time.perf_counter()
        (output,) = infer(item.slot.pixels[np.newaxis], model.engine)
    except BadJob as error:
        return Impossible(admitted=admitted, model=model, at=clock(), error=error)
    except BadImage as error:
        return Unusable(admitted=admitted, model=model, at=clock(), error=error)
    except Exception as error:
        return Failed(admitted=admitted, model=model, at=clock(), error=error)
    if isinstance(output, EngineFailed):
        return Failed(admitted=admitted, model=model, at=clock(), error=output)
    timings = StageTimings(item.decode_ms, 0.0, (time.perf_counter() - started) * 1000)
    return Classified(admitted=admitted, model=model, at=clock(), timings=timings, probabilities=output)


def _publish(result: SortResult, connection: redis.Redis, *, maxlen: int) -> None:
    key = keys.results(result.line)
    if connection.type(key) not in (b"stream", b"none"):  # moved aside, as worker/rq/scripts/finish.lua does
        connection.rename(key, keys.broken(key))
        connection.expire(keys.broken(key), keys.BROKEN_TTL_S)
    with connection.pipeline() as pipeline:
        pipeline.xadd(key, {"result": result.model_dump_json()}, maxlen=maxlen)
        pipeline.expire(key, keys.STREAM_TTL_S)
        pipeline.sadd(keys.LINES, result.line)
        pipeline.execute()


def _count_ended(current: Job) -> None:
    """Subtract the job from what its queue holds, as finish.lua does."""
    line, size = cast(list[bytes | None], current.connection.hmget(current.key, (LINE_FIELD, BYTES_FIELD)))
    # A producer of an older release did not count it. A longer number was not written by a producer.
    if line is None or size is None or not size.isdigit() or len(size) > MAX_DIGITS:
        return
    key = keys.load(current.origin)
    with suppress(redis.exceptions.ResponseError), current.connection.pipeline() as pipeline:  # counts that are broken
        for of_line in (b"", b":" + line):
            pipeline.hincrby(key, b"items" + of_line, -1)
            pipeline.hincrby(key, b"bytes" + of_line, -int(size))
        pipeline.execute()


def _keep_for_failed(result: SortResult, current: Job) -> None:
    """Keep the result in the job's `meta`, as RQ keeps no return value of a failed job.

    Also forget the deaths of its workers, and how it was counted, so that after `rq requeue` the job starts as a new
    one.
    """
    current.connection.hdel(current.key, *_DEATHS, BYTES_FIELD)
    current.meta["sort_result"] = result.model_dump(mode="json")
    current.save_meta()  # type: ignore[no-untyped-call]  # RQ has no types here
