"""The two messages: what they accept, and that they survive the way through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from shared.schemas import SCHEMA_VERSION, ImageJob, Label, ModelRef, Outcome, SortResult, Timings

JOB: dict[str, Any] = {
    "job_id": "3f2a-01_B",
    "line": "line-1",
    "camera": "cam.2",
    "frame_id": 17,
    "encoder_count": 123456,
    "captured_at": 1_700_000_000.25,
    "deadline_at": 1_700_000_000.4,
    "queue": "live",
    "image_key": "sortline:image:3f2a-01_B",
    "sha256": "a" * 64,
    "content_type": "image/jpeg",
}
RESULT: dict[str, Any] = {
    "job_id": "a1",
    "line": "line-1",
    "camera": "cam-1",
    "captured_at": 1.0,
    "finished_at": 1.1,
    "outcome": "sorted",
    "labels": [{"label": "no cap", "probability": 0.9}],
    "lane": "manual",
    "model": {"name": "bottles", "version": 2, "engine": "litert"},
    "worker": "w1",
}


def test_a_job_survives_json() -> None:
    job = ImageJob(**JOB)
    assert ImageJob.model_validate_json(job.model_dump_json()) == job
    assert job.schema_version == SCHEMA_VERSION


@pytest.mark.parametrize("frame_id", [17, "17", "scan 17/b", None])
def test_a_frame_id_keeps_its_type(frame_id: int | str | None) -> None:
    job = ImageJob.model_validate_json(ImageJob(**JOB | {"frame_id": frame_id}).model_dump_json())
    assert job.frame_id == frame_id
    assert type(job.frame_id) is type(frame_id)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("job_id", ""),
        ("job_id", "a:b"),
        ("job_id", "x" * 65),
        ("line", ""),
        ("line", "line 1"),
        ("line", "a:b"),
        ("line", "line\n"),
        ("line", "x" * 65),
        ("camera", ".hidden"),
        ("queue", "live,bulk"),
        ("sha256", "A" * 64),
        ("sha256", "a" * 63),
        ("frame_id", "x" * 257),
        ("captured_at", float("nan")),
        ("deadline_at", float("inf")),
        ("captured_at", None),
    ],
)
def test_a_job_with_a_bad_field_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        ImageJob(**JOB | {field: value})


def test_a_job_of_a_newer_release_is_read_without_what_it_adds() -> None:
    newer = JOB | {"schema_version": SCHEMA_VERSION + 1, "invented": [1, {"deep": 2}]}
    assert ImageJob.model_validate_json(json.dumps(newer)) == ImageJob(**JOB | {"schema_version": SCHEMA_VERSION + 1})


def test_a_result_of_a_newer_release_is_read_without_what_it_adds() -> None:
    older = SortResult(**RESULT)
    newer = older.model_dump(mode="json")
    for message in (newer, newer["timings_ms"], newer["labels"][0], newer["model"]):
        message["invented"] = [1]
    assert SortResult.model_validate(newer) == SortResult.model_validate_json(json.dumps(newer)) == older


def test_an_outcome_of_a_newer_release_keeps_its_name_and_is_not_sorted() -> None:
    """A reader shows it, counts it, and passes it on as it came."""
    result = SortResult.model_validate_json(json.dumps(RESULT | {"outcome": "parked"}))
    assert result.outcome.value == "parked"
    assert f"{result.outcome:<8}|" == "parked  |"
    assert result.outcome not in set(Outcome)
    assert SortResult.model_validate_json(result.model_dump_json()).outcome == result.outcome
    assert [outcome.value for outcome in Outcome] == ["sorted", "late", "expired", "rejected", "failed"]


@pytest.mark.parametrize("outcome", ["", "Sorted!", "x" * 40, 7, None])
def test_what_can_be_no_outcome_is_refused(outcome: object) -> None:
    with pytest.raises(ValidationError, match="outcome"):
        SortResult.model_validate(RESULT | {"outcome": outcome})


def test_messages_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ImageJob(**JOB).line = "other"  # type: ignore[misc]


@pytest.mark.parametrize("outcome", ["sorted", "late", "expired", "rejected", "failed"])
def test_a_result_survives_json(outcome: str) -> None:
    result = SortResult(
        job_id="a1",
        line="line-1",
        camera="cam-1",
        captured_at=1.0,
        finished_at=1.1,
        outcome=Outcome(outcome),
        labels=(Label(label="no cap", probability=0.9),),
        lane="manual",
        model=ModelRef(name="bottles", version=2, engine="litert"),
        timings_ms=Timings(queue=1.5),
        deadline_margin_ms=-3.0,
        worker="w1",
        error=None,
    )
    again = SortResult.model_validate_json(result.model_dump_json())
    assert again == result
    assert again.timings_ms.infer is None
    assert result.model_dump(mode="json")["outcome"] == outcome


def test_the_fields_of_a_result_are_the_documented_ones() -> None:
    documented = (
        "job_id line camera frame_id encoder_count captured_at finished_at outcome labels lane uncertain model "
        "timings_ms deadline_margin_ms attempt worker error"
    )
    assert list(SortResult.model_fields) == documented.split()
    assert list(Timings.model_fields) == ["queue", "decode", "batch", "infer", "total"]
    assert {outcome.value for outcome in Outcome} == {"sorted", "late", "expired", "rejected", "failed"}


def test_an_unvalidated_message_equals_a_validated_one() -> None:
    fields: dict[str, Any] = {
        "job_id": "j1",
        "line": "l1",
        "camera": "c1",
        "frame_id": "f",
        "encoder_count": 3,
        "captured_at": 1.5,
        "finished_at": 2.5,
        "outcome": Outcome.SORTED,
        "labels": (Label.construct_unvalidated({"label": "good", "probability": 0.5}),),
        "lane": "good",
        "uncertain": False,
        "model": ModelRef(name="m", version=1, engine="litert"),
        "timings_ms": Timings.construct_unvalidated(
            {"queue": 1.0, "decode": None, "batch": None, "infer": 2.0, "total": 3.0}
        ),
        "deadline_margin_ms": None,
        "attempt": 1,
        "worker": "w",
        "error": None,
    }
    made, checked = SortResult.construct_unvalidated(dict(fields)), SortResult(**fields)
    assert set(fields) == set(SortResult.model_fields), "all fields are to be given"
    assert made == checked
    assert made.model_dump_json() == checked.model_dump_json()
    assert SortResult.model_validate_json(made.model_dump_json()) == checked
    with pytest.raises(ValidationError):
        made.lane = "other"  # type: ignore[misc]
