"""The ceiling for `bench queue`: claim.lua, a fetch of the images and finish.lua, in a plain loop without a worker.

The scripts maintain all of RQ's keys. Nothing parses a job, decodes an image or renews a lease, and each job gets the
same answer, which is prepared beforehand.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Sequence
from typing import Any

from bench.contenders.sortline_worker import CAMERA, LINE, in_process
from shared import keys
from shared.errors import Transient
from shared.rq_time import format_rq_time
from shared.schemas import Label, ModelRef, Outcome, SortResult, Timings
from shared.server.connection import connect
from shared.server.raw_connection import RawConnection
from shared.settings import Settings
from worker.rq import scripts
from worker.rq.claimer import claim_args
from worker.rq.job_fields import DESCRIBED

# Jobs in one claim and one finish. The first trial of the scripts took as many (16,000 jobs/s, without images).
STEP_JOBS = 32
_WORKER = "bare"
# How the job counts in the load of its queue, among the fields after its ids: its line and the length of its image.
_COUNTED = slice(DESCRIBED - 5, DESCRIBED - 3)


def bare_rate(settings: Settings, *, count: int) -> float:
    """Jobs/s of the scripts on a filled queue, on one thread and one connection."""
    rate: float = in_process(_run, settings, count)
    return rate


def _run(settings: Settings, count: int) -> float:
    client: Any = connect(settings.redis_url)
    connection = RawConnection(client)
    claim, finish = scripts.load_repeatable(connection, "claim"), scripts.load_repeatable(connection, "finish")
    answer = list(_answer(settings))
    finished = 0
    started = time.perf_counter()
    while True:
        now = time.time()
        _, jobs, *_ = claim(
            args=claim_args(STEP_JOBS, worker=_WORKER, queues=["live"], lease_s=settings.lease_s, now=now)
        )
        if not jobs:
            break
        connection.call("MGET", *(keys.image(job_id.decode()) for _, job_id, *_ in jobs))
        answers, _ = finish(args=_finish_args(settings, jobs, answer, now=now))
        finished += answers.count(b"1")
    elapsed_s = time.perf_counter() - started
    if finished != count:
        raise Transient(f"the bare scripts finished {finished} jobs instead of {count}: the run is void.")
    return count / elapsed_s


def _finish_args(settings: Settings, jobs: Sequence[Any], answer: Sequence[Any], *, now: float) -> list[Any]:
    args: list[Any] = [_WORKER, format_rq_time(now), now, settings.results_maxlen]
    for queue, job_id, execution_id, *fields in jobs:
        args += ("success", queue, job_id, execution_id, now)
        args += answer
        args += fields[_COUNTED]
    return args


def _answer(settings: Settings) -> Iterator[str | bytes | int]:
    """Most of a job's arguments: TTLs, line, SortResult, RQ's payload, meta, and that no image is kept."""
    result = SortResult(
        job_id="0" * 32,
        line=LINE,
        camera=CAMERA,
        captured_at=time.time(),
        finished_at=time.time(),
        outcome=Outcome.SORTED,
        labels=(Label(label="good", probability=1.0),),
        lane="good",
        model=ModelRef(name="null", version=1, engine="litert"),
        timings_ms=Timings(queue=1.0, decode=1.0, batch=1.0, infer=1.0, total=1.0),
        worker=_WORKER,
    )
    text = result.model_dump_json().encode()
    yield from (settings.result_ttl_s, settings.failure_ttl_s, LINE, text, base64.b64encode(text), b"", "")
