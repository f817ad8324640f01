"""From probabilities, or from what went wrong, to the SortResult."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from shared.errors import BadImage, BadJob, BadSetting, EngineFailed
from shared.policy_overrides import PolicyOverride
from shared.schemas import Label, ModelRef, Outcome, SortResult, Timings
from tests.worker import kit, step_inputs
from worker.models.decider import Decider
from worker.state.jobs import AdmittedJob, Lease, StageTimings

CAPTURED_AT = 1_700_000_000.0
GOOD, NO_CAP, DISFIGURED = [0.9, 0.05, 0.05], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]


@pytest.fixture
def decider(tmp_path: Path) -> Decider:
    return Decider(kit.manifest(tmp_path / "empty"), engine="litert", worker="w1")


def admitted(*, deadline_at: float | None = None, line: str = "l1") -> AdmittedJob:
    """Enqueued 10 ms after its capture, claimed 5 ms later."""
    claimed = step_inputs.claimed(enqueued_at=CAPTURED_AT + 0.010)
    claimed = replace(claimed, lease=Lease("live", "j1", "e1", CAPTURED_AT + 0.015))
    fixed = {"captured_at": CAPTURED_AT, "frame_id": "f1", "encoder_count": 42}
    job = step_inputs.image_job(deadline_at=deadline_at, line=line, **fixed)
    return AdmittedJob(claimed, job, attempt=2)


def classified(
    decider: Decider, probabilities: list[float], *, deadline_at: float | None = None, after_s: float
) -> SortResult:
    return decider.classified(
        admitted(deadline_at=deadline_at),
        probabilities,
        timings=StageTimings(1.23456, 2.0, 3.0),
        finished_at=CAPTURED_AT + after_s,
    )


@pytest.mark.parametrize(
    ("probabilities", "labels", "lane"),
    [
        (GOOD, ["good"], "good"),
        (NO_CAP, ["no cap"], "no-cap"),
        ([0.0, 0.8, 0.9], ["disfigured", "no cap"], "no-cap"),
        ([0.6, 0.45, 0.0], ["good"], "manual"),
    ],
)
def test_labels_and_lane(decider: Decider, probabilities: list[float], labels: list[str], lane: str) -> None:
    result = classified(decider, probabilities, after_s=0.1)
    assert result.outcome is Outcome.SORTED
    assert [label.label for label in result.labels] == labels
    assert result.lane == lane
    assert result.uncertain == (lane == "manual")
    assert result.model == ModelRef(name="tone", version=3, engine="litert")
    assert result.error is None


def test_the_fields_of_the_job_come_back(decider: Decider) -> None:
    result = classified(decider, GOOD, after_s=0.1)
    assert (result.job_id, result.line, result.camera) == ("j1", "l1", "c1")
    assert (result.frame_id, result.encoder_count, result.attempt, result.worker) == ("f1", 42, 2, "w1")
    assert result.captured_at == CAPTURED_AT
    assert result.deadline_margin_ms is None


def test_times(decider: Decider) -> None:
    result = classified(decider, GOOD, deadline_at=CAPTURED_AT + 0.150, after_s=0.100)
    timings = result.timings_ms
    assert timings.queue == pytest.approx(5.0, abs=0.01)
    assert (timings.decode, timings.batch, timings.infer) == (1.235, 2.0, 3.0)
    assert timings.total == pytest.approx(100.0, abs=0.01)
    assert result.deadline_margin_ms == pytest.approx(50.0, abs=0.01)


def test_a_result_after_its_deadline_is_late_and_must_not_eject(decider: Decider) -> None:
    result = classified(decider, NO_CAP, deadline_at=CAPTURED_AT + 0.100, after_s=0.101)
    assert result.outcome is Outcome.LATE
    assert [label.label for label in result.labels] == ["no cap"]
    assert result.lane == "unsorted"
    assert result.deadline_margin_ms == pytest.approx(-1.0, abs=0.01)


def test_a_result_at_its_deadline_is_in_time(decider: Decider) -> None:
    result = classified(decider, NO_CAP, deadline_at=CAPTURED_AT + 0.125, after_s=0.125)
    assert (result.outcome, result.lane) == (Outcome.SORTED, "no-cap")


@pytest.mark.parametrize(
    ("left_s", "error"),
    [
        (0.12, "not started: it would have taken about 350 ms more, 120 ms were left."),
        (-0.03, "not started: its deadline had passed."),
    ],
)
def test_an_expired_image_says_why(decider: Decider, left_s: float, error: str) -> None:
    late = admitted(deadline_at=CAPTURED_AT + 1 + left_s)
    result = decider.expired(late, timings=StageTimings(), finished_at=CAPTURED_AT + 1, needs_s=0.35)
    assert result.error == error


@pytest.mark.parametrize("outcome", [Outcome.EXPIRED, Outcome.REJECTED, Outcome.FAILED])
def test_an_image_that_was_not_classified_has_no_label_and_goes_to_the_unsorted_lane(
    decider: Decider, outcome: Outcome
) -> None:
    finished_at, timings = CAPTURED_AT + 1, StageTimings()
    result = {
        Outcome.EXPIRED: lambda: decider.expired(admitted(), timings=timings, finished_at=finished_at),
        Outcome.REJECTED: lambda: decider.rejected(
            admitted(), BadImage("gone", "it is gone"), timings=timings, finished_at=finished_at
        ),
        Outcome.FAILED: lambda: decider.failed(
            admitted(), EngineFailed("boom"), timings=timings, finished_at=finished_at
        ),
    }[outcome]()
    assert result.outcome is outcome
    assert result.labels == ()
    assert result.lane == "unsorted"
    assert result.timings_ms.infer is None
    errors = {
        "expired": "not started: its deadline had passed.",
        "rejected": "it is gone",
        "failed": "EngineFailed: boom",
    }
    assert result.error == errors[outcome.value]


def test_a_result_has_exactly_the_fields_of_the_schema(decider: Decider) -> None:
    """The decider makes results without validation, so only the readers would notice a misspelled field."""
    for result in (
        classified(decider, DISFIGURED, after_s=0.1),
        decider.impossible(admitted(), BadJob("wrong"), finished_at=CAPTURED_AT),
    ):
        assert vars(result).keys() == SortResult.model_fields.keys()
        assert vars(result.timings_ms).keys() == Timings.model_fields.keys()
        assert all(vars(label).keys() == Label.model_fields.keys() for label in result.labels)


def test_impossible_times_are_rejected_without_a_total_or_a_margin(decider: Decider) -> None:
    result = decider.impossible(admitted(deadline_at=1e308), BadJob("captured_at = 1e300"), finished_at=CAPTURED_AT)
    assert (result.outcome, result.lane, result.error) == (Outcome.REJECTED, "unsorted", "captured_at = 1e300")
    assert result.timings_ms.total is None
    assert result.deadline_margin_ms is None
    assert SortResult.model_validate_json(result.model_dump_json()) == result


def test_a_result_is_the_same_after_a_round_trip_through_json(decider: Decider) -> None:
    result = classified(decider, DISFIGURED, after_s=0.1)
    assert SortResult.model_validate_json(result.model_dump_json()) == result


def test_a_line_has_its_own_policy_and_the_others_keep_the_models(tmp_path: Path) -> None:
    override = PolicyOverride(thresholds={"no cap": 0.95}, manual_lane="table-2", unsorted_lane="through")
    decider = Decider(kit.manifest(tmp_path / "empty"), engine="litert", worker="w1", overrides={"l2": override})

    def lanes(line: str) -> tuple[str, bool, str, str]:
        sorted_ = decider.classified(
            admitted(line=line), [0.1, 0.94, 0.0], timings=StageTimings(), finished_at=CAPTURED_AT
        )
        late = decider.classified(
            admitted(line=line, deadline_at=CAPTURED_AT), NO_CAP, timings=StageTimings(), finished_at=CAPTURED_AT + 1
        )
        expired = decider.expired(admitted(line=line), timings=StageTimings(), finished_at=CAPTURED_AT)
        return sorted_.lane, sorted_.uncertain, late.lane, expired.lane

    assert lanes("l1") == ("no-cap", False, "unsorted", "unsorted")
    assert lanes("l2") == ("table-2", True, "through", "through")


def test_an_override_that_does_not_fit_the_model_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    overrides = {"l2": PolicyOverride(lanes={"kap": "reject"})}
    with pytest.raises(BadSetting, match=r"policies\.l2\.lanes: 'kap' = 'reject' is not a class of tone@3"):
        Decider(kit.manifest(tmp_path / "empty"), engine="litert", worker="w1", overrides=overrides)
