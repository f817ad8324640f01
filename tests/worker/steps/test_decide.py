"""What becomes of a job, by the verdict on it: how it ends in RQ, whether it is tried again, and what is published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from shared.errors import BadImage, BadJob, EngineFailed, Quarantined
from shared.schemas import ImageJob, Outcome, SortResult
from tests.worker import step_inputs
from tests.worker.step_inputs import A_MODEL
from worker.state.jobs import AdmittedJob, Deaths, Disposition, FinishedJob, StageTimings
from worker.steps.decide import Classified, Expired, Failed, Impossible, Refused, Unusable, Verdict, decide

CAPTURED_AT = 1_700_000_000.0
DECIDED_AT = CAPTURED_AT + 0.100
TIMINGS = StageTimings(decode_ms=1.0, batch_ms=2.0, infer_ms=3.0)
NO_CAP = (0.1, 0.9, 0.1)


def image_job(*, deadline_at: float | None = None) -> ImageJob:
    return step_inputs.image_job(captured_at=CAPTURED_AT, deadline_at=deadline_at)


def admitted(
    *,
    retries_left: int = 0,
    max_attempts: int | None = 3,
    deaths: Deaths | None = None,
    workers_max_attempts: int = 3,
    deadline_at: float | None = None,
) -> AdmittedJob:
    """An admitted job, numbered as by a worker whose own setting is `workers_max_attempts`."""
    claimed = step_inputs.claimed(retries_left=retries_left, max_attempts=max_attempts, deaths=deaths or Deaths())
    attempt = claimed.attempt(max_attempts=workers_max_attempts)
    return AdmittedJob(claimed, image_job(deadline_at=deadline_at), attempt)


def failed(job: AdmittedJob, error: Exception | None = None, *, may_retry: bool = True) -> Failed:
    error = error or EngineFailed("out of order")
    return Failed(admitted=job, model=A_MODEL, at=DECIDED_AT, timings=TIMINGS, error=error, may_retry=may_retry)


def published(finished: FinishedJob) -> SortResult:
    assert finished.result is not None, "nothing is published"
    return finished.result


# verdicts ───────────────────────────────────────────────────────────────────────────────────────────

VERDICTS: dict[Outcome, Callable[[AdmittedJob], Verdict]] = {
    Outcome.SORTED: lambda job: Classified(admitted=job, model=A_MODEL, at=DECIDED_AT, probabilities=NO_CAP),
    Outcome.EXPIRED: lambda job: Expired(admitted=job, model=A_MODEL, at=DECIDED_AT),
    Outcome.REJECTED: lambda job: Unusable(
        admitted=job, model=A_MODEL, at=DECIDED_AT, error=BadImage("cut", "the image ends early")
    ),
}


@pytest.mark.parametrize("retries_left", [0, 2])
@pytest.mark.parametrize("outcome", VERDICTS)
def test_a_job_with_an_answer_is_a_success_for_rq_and_is_not_tried_again(outcome: Outcome, retries_left: int) -> None:
    """That the answer is "not a usable image" or "too late" doesn't change it: another attempt would say the same."""
    job = admitted(retries_left=retries_left)
    finished = decide(VERDICTS[outcome](job))
    assert finished.claimed is job.claimed
    assert finished.disposition is Disposition.SUCCESS
    assert finished.error_text == ""
    result = published(finished)
    assert (result.job_id, result.line, result.attempt) == ("j1", "l1", job.attempt)
    assert (result.outcome, result.finished_at) == (outcome, DECIDED_AT)
    assert result.model == A_MODEL.decider.model


def test_only_an_image_that_the_model_has_seen_leaves_the_unsorted_lane() -> None:
    lanes = {outcome: published(decide(verdict(admitted()))).lane for outcome, verdict in VERDICTS.items()}
    assert lanes == {Outcome.SORTED: "no-cap", Outcome.EXPIRED: "unsorted", Outcome.REJECTED: "unsorted"}


@pytest.mark.parametrize(("deadline_s", "outcome"), [(0.101, Outcome.SORTED), (0.099, Outcome.LATE)])
def test_the_time_of_the_verdict_decides_whether_a_result_is_late(deadline_s: float, outcome: Outcome) -> None:
    finished = decide(VERDICTS[Outcome.SORTED](admitted(deadline_at=CAPTURED_AT + deadline_s)))
    assert finished.disposition is Disposition.SUCCESS
    assert published(finished).outcome is outcome


def test_the_result_of_an_unusable_image_says_what_is_wrong_with_it() -> None:
    assert published(decide(VERDICTS[Outcome.REJECTED](admitted()))).error == "the image ends early"


def test_a_result_with_impossible_times_is_rejected_without_durations() -> None:
    error = BadJob("captured_at is three years ahead of the server's clock")
    job = admitted(retries_left=2, deadline_at=CAPTURED_AT + 1)
    finished = decide(Impossible(admitted=job, model=A_MODEL, at=DECIDED_AT, error=error))
    assert finished.claimed is job.claimed
    assert finished.disposition is Disposition.SUCCESS
    result = published(finished)
    assert (result.outcome, result.error, result.lane) == (Outcome.REJECTED, str(error), "unsorted")
    assert (result.timings_ms.total, result.deadline_margin_ms) == (None, None)


@pytest.mark.parametrize("outcome", [Outcome.SORTED, Outcome.EXPIRED, Outcome.REJECTED, Outcome.FAILED])
def test_the_times_of_the_stages_are_in_the_result(outcome: Outcome) -> None:
    verdict = failed(admitted()) if outcome is Outcome.FAILED else VERDICTS[outcome](admitted())
    assert not isinstance(verdict, Refused)
    result = published(decide(replace(verdict, timings=TIMINGS)))
    assert result.outcome is outcome
    assert (result.timings_ms.decode, result.timings_ms.batch, result.timings_ms.infer) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("retries_left", [0, 2])
def test_a_refused_job_fails_at_once_and_publishes_nothing(retries_left: int) -> None:
    """Its data can't be believed, so there is no line to publish a result for."""
    claimed = step_inputs.claimed(retries_left=retries_left)
    finished = decide(Refused(claimed=claimed, error=BadJob("the job names the function 'os.system'")))
    assert finished == FinishedJob(claimed, Disposition.FAILURE, None, "BadJob: the job names the function 'os.system'")


# retries ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_job_with_attempts_left_is_put_back_and_publishes_nothing() -> None:
    job = admitted(retries_left=1)
    finished = decide(failed(job))
    assert finished.claimed is job.claimed
    assert finished.disposition is Disposition.RETRY
    assert finished.result is None


def test_a_job_whose_last_attempt_failed_fails_and_says_why() -> None:
    job = admitted(retries_left=0)
    finished = decide(failed(job))
    assert finished.disposition is Disposition.FAILURE
    result = published(finished)
    assert (result.outcome, result.lane, result.labels) == (Outcome.FAILED, "unsorted", ())
    assert (result.error, result.attempt, result.finished_at) == ("EngineFailed: out of order", 3, DECIDED_AT)


@pytest.mark.parametrize("retries_left", [0, 1])
def test_rq_gets_the_traceback_of_a_failed_attempt_with_the_error_that_caused_it(retries_left: int) -> None:
    try:
        try:
            raise ZeroDivisionError("the engine's own error")
        except ZeroDivisionError as cause:
            raise EngineFailed("out of order") from cause
    except EngineFailed as error:
        text = decide(failed(admitted(retries_left=retries_left), error)).error_text
    assert "ZeroDivisionError: the engine's own error" in text
    assert "EngineFailed: out of order" in text
    assert "Traceback (most recent call last)" in text
    assert "test_decide.py" in text


@pytest.mark.parametrize("retries_left", [0, 2])
def test_a_job_that_must_not_be_retried_fails_whatever_attempts_are_left(retries_left: int) -> None:
    """A job that is given up because its workers died. Where the error was raised would tell nobody anything."""
    error = Quarantined("crashed or hung the worker 3 times")
    finished = decide(failed(admitted(retries_left=retries_left), error, may_retry=False))
    assert finished.disposition is Disposition.FAILURE
    assert finished.error_text == "crashed or hung the worker 3 times"
    assert published(finished).outcome is Outcome.FAILED
    assert published(finished).error == "Quarantined: crashed or hung the worker 3 times"


# attempts ───────────────────────────────────────────────────────────────────────────────────────────


def try_until_it_fails(job: AdmittedJob, *, workers_max_attempts: int) -> list[int | None]:
    """What is published of each attempt at a job that always fails: nothing, or the number of the attempt.

    Between two attempts `retries_left` goes down by one, as worker/rq/scripts/finish.lua does it.
    """
    numbers: list[int | None] = []
    for _ in range(20):
        finished = decide(failed(job))
        numbers.append(None if finished.result is None else finished.result.attempt)
        if finished.disposition is not Disposition.RETRY:
            assert finished.disposition is Disposition.FAILURE
            return numbers
        claimed = replace(job.claimed, retries_left=job.claimed.retries_left - 1)
        job = replace(job, claimed=claimed, attempt=claimed.attempt(max_attempts=workers_max_attempts))
    pytest.fail("it is tried again and again")


@pytest.mark.parametrize("max_attempts", [1, 2, 3, 7])
@pytest.mark.parametrize("workers_max_attempts", [1, 3, 9])
def test_a_job_is_tried_as_often_as_its_producer_said(max_attempts: int, workers_max_attempts: int) -> None:
    """The worker's own setting doesn't count then. Only the last attempt publishes a result."""
    job = admitted(retries_left=max_attempts - 1, max_attempts=max_attempts, workers_max_attempts=workers_max_attempts)
    assert job.attempt == 1
    numbers = try_until_it_fails(job, workers_max_attempts=workers_max_attempts)
    assert numbers == [None] * (max_attempts - 1) + [max_attempts]


@pytest.mark.parametrize(
    ("retries_left", "numbers"), [(2, [None, None, 3]), (0, [3]), (4, [None, None, None, None, 3])]
)
def test_a_job_without_a_setting_of_its_own_has_rqs_retries_and_the_workers_numbers(
    retries_left: int, numbers: list[int | None]
) -> None:
    """Such a job comes from RQ's own `enqueue`. The worker's `max_attempts` numbers its attempts and allows none."""
    job = admitted(retries_left=retries_left, max_attempts=None, workers_max_attempts=3)
    assert try_until_it_fails(job, workers_max_attempts=3) == numbers


def test_deaths_of_workers_count_as_attempts_but_use_up_no_retry() -> None:
    job = admitted(retries_left=2, deaths=Deaths(crashes=1, losses=2))
    assert job.attempt == 4
    assert try_until_it_fails(job, workers_max_attempts=3) == [None, None, 6]
