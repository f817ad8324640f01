"""Waits for the results of jobs: takes job ids, returns a SortResult for each. Called by users' code and the uploader.

The SortResult of a finished job is the return value in RQ's stream `rq:results:<id>`. The SortResult of a job that
failed for good is in the `meta` field of the job's hash. Both are polled, for many jobs in one round trip: a client
can't block on thousands of streams, one per job, and the lines' streams lack the results of a plain `rq worker`.
"""

from __future__ import annotations

import base64
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import redis
from pydantic import ValidationError

from producer.listeners import explain_wait
from producer.streams.result_parsing import validate_result
from shared import keys
from shared.errors import RedisUnavailable, ResultGone, ResultTimeout
from shared.schemas import Outcome, SortResult
from shared.server.connection import SOCKET_TIMEOUT_S, connect
from shared.server.error_translation import is_wrong_type, server_errors, translate
from shared.settings import Settings, load_settings
from shared.validation_messages import describe_problems

# Number of jobs asked about in one round trip: enough to spread its cost, but not enough to hold up the server.
ROUND_JOBS = 512
# The pause between rounds grows while nothing happens. It is at least a few times as long as the round took, so that
# waiting for thousands of jobs uses a connection for at most a fifth of the time.
_PAUSE_MIN_S = 0.005
_PAUSE_MAX_S = 0.2
_PAUSE_PER_ROUND = 4.0

# RQ's Result.Type. SUCCESSFUL has a return value; so has RETRIED, which is not final.
_SUCCESSFUL = b"1"
_NEVER = {b"canceled": "it was canceled", b"stopped": "it was stopped"}
_WRONG_TYPE = "its key on the server holds another type"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """How one job ended: its `result`, or in `gone` the reason why it will never have one."""

    job_id: str
    result: SortResult | None = None
    gone: str | None = None


class AnswerReader:
    """Reads the answers of many jobs, at most ROUND_JOBS per round. `add` jobs at any time, then `poll`."""

    def __init__(self, client: redis.Redis, redis_url: str) -> None:
        self._client = client
        self._redis_url = redis_url
        self._pending: deque[str] = deque()

    def explain_wait(self) -> str:
        """Explain why the first of the pending jobs has no answer yet."""
        try:
            return explain_wait(self._client, self._pending[0])
        except redis.exceptions.RedisError as error:
            return str(translate(error, self._redis_url))

    @property
    def pending(self) -> tuple[str, ...]:
        """The jobs that have no answer yet."""
        return tuple(self._pending)

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, job_ids: Iterable[str]) -> None:
        """Add jobs to wait for."""
        self._pending.extend(job_ids)

    def poll(self) -> list[Answer]:
        """Ask about the next ROUND_JOBS jobs and return the answers found; jobs without one move to the end.

        Raises:
            RedisUnavailable: the server can't be reached, or can't serve for now. All jobs stay pending.
            BadSetting, CommandRefused: as `server_errors`.
        """
        asked = [self._pending[index] for index in range(min(ROUND_JOBS, len(self._pending)))]
        if not asked:
            return []
        with server_errors(self._redis_url):
            answers = self._read(asked)
        found = {answer.job_id for answer in answers}
        for _ in asked:
            job_id = self._pending.popleft()
            if job_id not in found:
                self._pending.append(job_id)
        return answers

    def _read(self, job_ids: list[str]) -> list[Answer]:
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.hmget(keys.rq_job(job_id), "status", "meta")
            states = pipe.execute(raise_on_error=False)
        answers = []
        finished = []
        for job_id, state in zip(job_ids, states, strict=True):
            if isinstance(state, Exception):
                answers.append(_unreadable(job_id, state))
                continue
            status, meta = state
            match status:
                case b"finished":
                    finished.append(job_id)
                case b"failed":
                    answers.append(_failed(job_id, meta))
                case None:
                    answers.append(Answer(job_id=job_id, gone="the server does not know it (any more)"))
                case name if name in _NEVER:
                    answers.append(Answer(job_id=job_id, gone=_NEVER[name]))
        return answers + self._read_finished(finished)

    def _read_finished(self, job_ids: list[str]) -> list[Answer]:
        if not job_ids:
            return []
        with self._client.pipeline(transaction=False) as pipe:
            for job_id in job_ids:
                pipe.xrevrange(keys.rq_results(job_id), count=1)
            streams = pipe.execute(raise_on_error=False)
        return [
            _unreadable(job_id, stream) if isinstance(stream, Exception) else _finished(job_id, stream)
            for job_id, stream in zip(job_ids, streams, strict=True)
        ]


def iter_results(
    job_ids: Iterable[str],
    timeout_s: float,
    settings: Settings | None = None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Answer]:
    """Yield the answer of each job as it comes, once per job, even if an id was given twice.

    If the server can't be reached, or can't serve for now, this keeps trying until `timeout_s` has passed.

    Args:
        job_ids: as returned by `submit` and `submit_many`.
        timeout_s: maximum number of seconds to wait, in total.
        settings: `redis_url` names the server to ask. None: those of `load_settings()`.
        clock: seconds that only grow.
        sleep: waits for the given number of seconds.

    Raises:
        ResultTimeout: answers are missing after `timeout_s` seconds. The message says if the server was unavailable.
        BadSetting, CommandRefused: the server refuses for a reason that waiting won't fix, as in `LineProducer.submit`.
    """
    settings = settings or load_settings()
    results: dict[str, SortResult] = {}
    # If the server hangs, the caller must not wait much longer than `timeout_s`.
    socket_timeout_s = min(SOCKET_TIMEOUT_S, max(1.0, timeout_s))
    with connect(settings.redis_url, socket_timeout_s=socket_timeout_s) as client:
        reader = AnswerReader(client, settings.redis_url)
        reader.add(dict.fromkeys(job_ids))
        give_up_at = clock() + timeout_s
        unasked = len(reader)
        pause_s = _PAUSE_MIN_S
        while len(reader):
            round_at = clock()
            answers, unavailable = _poll(reader)
            unasked -= 0 if unavailable else ROUND_JOBS
            for answer in answers:
                if answer.result:
                    results[answer.job_id] = answer.result
                yield answer
            now = clock()
            if len(reader) and (unasked <= 0 or unavailable) and now >= give_up_at:
                raise _timeout(timeout_s, results, reader, unavailable) from unavailable
            if (unasked <= 0 or unavailable) and len(answers) < ROUND_JOBS and len(reader):
                pause_s = _PAUSE_MIN_S if answers else min(2 * pause_s, _PAUSE_MAX_S)
                sleep(min(max(pause_s, _PAUSE_PER_ROUND * (now - round_at)), give_up_at - now))


def wait_for(job_ids: Iterable[str], timeout_s: float, settings: Settings | None = None) -> dict[str, SortResult]:
    """Wait until every job has its SortResult, even if the server is restarted meanwhile.

    Args:
        job_ids: as returned by `submit` and `submit_many`.
        timeout_s: maximum number of seconds to wait, in total.
        settings: `redis_url` names the server to ask. None: those of `load_settings()`.

    Returns:
        SortResults by job id, in the order of `job_ids`, whatever their outcome.

    Raises:
        ResultTimeout: results are missing after `timeout_s` seconds. The error holds the results that did arrive, and
            its message says if the server was unavailable.
        ResultGone: some jobs will never have a result, e.g. because they expired, or were deleted or canceled. Raised
            after the results of all other jobs have arrived; the error holds them.
        BadSetting, CommandRefused: the server refuses for a reason that waiting won't fix, as in `LineProducer.submit`.
    """
    wanted = list(dict.fromkeys(job_ids))
    results: dict[str, SortResult] = {}
    reasons: dict[str, str] = {}
    for answer in iter_results(wanted, timeout_s, settings):
        if answer.result is not None:
            results[answer.job_id] = answer.result
        else:
            reasons[answer.job_id] = str(answer.gone)
    ordered = {job_id: results[job_id] for job_id in wanted if job_id in results}
    if reasons:
        first, reason = next(iter(reasons.items()))
        raise ResultGone(
            f"{len(reasons):,} of {len(wanted):,} jobs will never have a result; the first, {first}: {reason}. "
            "Results are kept for result_ttl_s seconds.",
            results=ordered,
            reasons=reasons,
        )
    return ordered


def _poll(reader: AnswerReader) -> tuple[list[Answer], RedisUnavailable | None]:
    """The answers of one round, and the error if the server was unavailable."""
    try:
        return reader.poll(), None
    except RedisUnavailable as error:
        return [], error


def _timeout(
    timeout_s: float, results: dict[str, SortResult], reader: AnswerReader, unavailable: RedisUnavailable | None
) -> ResultTimeout:
    noun = "result is" if len(reader) == 1 else "results are"
    return ResultTimeout(
        f"{len(reader):,} {noun} missing after {timeout_s:g} s; the first is that of job {reader.pending[0]}: "
        f"{unavailable or reader.explain_wait()}",
        results=results,
        missing=reader.pending,
    )


def _unreadable(job_id: str, error: Exception) -> Answer:
    """The answer for a job whose key has the wrong type. Any other error concerns all jobs, and is raised."""
    if not is_wrong_type(error):
        raise error
    return Answer(job_id=job_id, gone=_WRONG_TYPE)


def _finished(job_id: str, stream: list[tuple[bytes, dict[bytes, bytes]]]) -> Answer:
    if not stream:
        return Answer(job_id=job_id, gone="its result expired")
    fields = stream[0][1]
    if fields.get(b"type") != _SUCCESSFUL or b"return_value" not in fields:
        return Answer(job_id=job_id, gone="it finished without a return value")
    answer = _parsed(job_id, lambda: json.loads(base64.b64decode(fields[b"return_value"])))
    if answer.result is not None and answer.result.outcome is Outcome.FAILED:
        return Answer(job_id=job_id, gone="its result says `failed`, but the job finished")
    return answer


def _failed(job_id: str, meta: bytes | None) -> Answer:
    if meta is None:
        return Answer(job_id=job_id, gone="it failed outside of Sortline's worker (see `rq info` for its error)")
    answer = _parsed(job_id, lambda: json.loads(meta)["sort_result"])
    if answer.result is not None and answer.result.outcome is not Outcome.FAILED:
        return Answer(job_id=job_id, gone="its result does not say `failed`, but the job failed")
    return answer


def _parsed(job_id: str, load: Callable[[], Any]) -> Answer:
    """The answer in what `load` returns, which somebody may have forged, or copied from another job."""
    try:
        result = validate_result(load())
    except ValidationError as error:
        return Answer(job_id=job_id, gone=f"its result can't be read: {describe_problems(error)}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:  # RecursionError: brackets within brackets
        return Answer(job_id=job_id, gone=f"its result can't be read: {error}")
    if result.job_id != job_id:
        return Answer(job_id=job_id, gone="its result is that of another job")
    return Answer(job_id=job_id, result=result)
