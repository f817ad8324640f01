"""Decide: what becomes of a job. In: a step's verdict on it. Out: a `FinishedJob`. Pure, and holds the retry policy.

The pipeline (`Flow.conclude`) and `worker.tasks` both call it, so they give the same answers.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from shared.errors import BadImage, BadJob
from shared.masking import masked_text
from worker.models.model import Model
from worker.state.jobs import NO_TIMINGS, AdmittedJob, ClaimedJob, Disposition, FinishedJob, StageTimings


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verdict:
    """What a step found out about an admitted job, at the time `at`; `model` builds its result."""

    admitted: AdmittedJob
    model: Model
    at: float  # the server's time, epoch seconds
    timings: StageTimings = NO_TIMINGS


@dataclass(frozen=True, kw_only=True, slots=True)
class Classified(_Verdict):
    """The model has seen the image."""

    probabilities: Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Expired(_Verdict):
    """The image could not be answered by its deadline any more, and the model did not see it."""

    needs_s: float = 0.0  # it would have taken so many seconds more by the estimate; 0: its deadline has passed


@dataclass(frozen=True, kw_only=True, slots=True)
class Unusable(_Verdict):
    """The bytes are not a usable image."""

    error: BadImage


@dataclass(frozen=True, kw_only=True, slots=True)
class Impossible(_Verdict):
    """The time of capture or the deadline is impossible."""

    error: BadJob


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed(_Verdict):
    """A step failed on the job: it is tried again while it has attempts left, if another attempt may succeed."""

    error: Exception
    may_retry: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused:
    """The job is not Sortline's, or is malformed. It never runs and has no result of ours."""

    claimed: ClaimedJob
    error: Exception


Verdict = Classified | Expired | Unusable | Impossible | Failed | Refused


def decide(verdict: Verdict) -> FinishedJob:
    """Turn a verdict into what the finish step does with the job, with its result."""
    match verdict:
        case Classified(admitted=admitted, timings=timings, at=at):  # first, as nearly all are
            result = verdict.model.decider.classified(admitted, verdict.probabilities, timings=timings, finished_at=at)
        case Failed():
            return _failed(verdict)
        case Refused(claimed=claimed, error=error):
            return FinishedJob(claimed, Disposition.FAILURE, None, f"{type(error).__name__}: {error}")
        case Expired(admitted=admitted, timings=timings, at=at, needs_s=needs_s):
            result = verdict.model.decider.expired(admitted, timings=timings, finished_at=at, needs_s=needs_s)
        case Unusable(admitted=admitted, timings=timings, at=at):
            result = verdict.model.decider.rejected(admitted, verdict.error, timings=timings, finished_at=at)
        case Impossible(admitted=admitted, at=at):
            result = verdict.model.decider.impossible(admitted, verdict.error, finished_at=at)
        case _:
            assert_never(verdict)
    return FinishedJob(admitted.claimed, Disposition.SUCCESS, result)


def _failed(verdict: Failed) -> FinishedJob:
    claimed, error = verdict.admitted.claimed, verdict.error
    text = masked_text("".join(traceback.format_exception(error)))  # it is kept on the server
    if verdict.may_retry and claimed.retries_left > 0:
        return FinishedJob(claimed, Disposition.RETRY, None, text)
    result = verdict.model.decider.failed(verdict.admitted, error, timings=verdict.timings, finished_at=verdict.at)
    return FinishedJob(claimed, Disposition.FAILURE, result, text if verdict.may_retry else str(error))
