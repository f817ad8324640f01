"""Labels and lanes from probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.policy import Policy, decide

CLASSES = ("good", "no cap", "label off", "disfigured")
MULTI = Policy.default(CLASSES, "multi")
SINGLE = Policy.default(CLASSES, "single")

unit = st.floats(0, 1)


def changed(policy: Policy, **fields: Any) -> Policy:
    return Policy.model_validate(policy.model_dump() | fields)


def test_default_policy_names_a_lane_per_label_and_puts_good_last() -> None:
    assert MULTI.lanes == {"good": "good", "no cap": "no-cap", "label off": "label-off", "disfigured": "disfigured"}
    assert MULTI.precedence == ("no cap", "label off", "disfigured", "good")
    assert "good" not in MULTI.thresholds
    assert SINGLE.thresholds == dict.fromkeys(CLASSES, 0.5)


def test_default_policy_of_classes_without_good() -> None:
    policy = Policy.default(("cat", "dog"), "single")
    assert policy.precedence == ("cat", "dog")
    assert policy.mismatches(("cat", "dog")) == []


@pytest.mark.parametrize(
    ("probabilities", "labels", "lane"),
    [
        ([0.9, 0.05, 0.03, 0.02], [("good", 0.9)], "good"),
        ([0.1, 0.8, 0.05, 0.05], [("no cap", 0.8)], "no-cap"),
        ([0.2, 0.5, 0.2, 0.1], [("no cap", 0.5)], "no-cap"),
        ([0.3, 0.49, 0.11, 0.1], [("no cap", 0.49)], "manual"),
    ],
)
def test_single(probabilities: list[float], labels: list[tuple[str, float]], lane: str) -> None:
    decision = decide(probabilities, CLASSES, "single", SINGLE)
    assert list(decision.labels) == labels
    assert decision.lane == lane


def test_single_uses_the_threshold_of_the_label() -> None:
    policy = changed(SINGLE, thresholds={"no cap": 0.9})
    assert decide([0.1, 0.85, 0.03, 0.02], CLASSES, "single", policy).lane == "manual"
    # `good` has none of its own: 0.5.
    assert decide([0.55, 0.25, 0.1, 0.1], CLASSES, "single", policy).lane == "good"


@pytest.mark.parametrize(
    ("probabilities", "labels", "lane"),
    [
        ([0.9, 0.05, 0.03, 0.02], [("good", 0.9)], "good"),
        ([0.1, 0.7, 0.0, 0.0], [("no cap", 0.7)], "no-cap"),
        # All that apply, most probable first; the lane follows the precedence, not the probability.
        ([0.0, 0.7, 0.0, 0.99], [("disfigured", 0.99), ("no cap", 0.7)], "no-cap"),
        # `good` applies exactly when no defect does; less likely than not, it goes to a person.
        ([0.51, 0.2, 0.2, 0.2], [("good", 0.51)], "good"),
        ([0.3, 0.35, 0.35, 0.35], [("good", 0.3)], "manual"),
        ([0.99, 0.9, 0.0, 0.0], [("no cap", 0.9)], "no-cap"),
        # Near a threshold, on either side: a person looks; the labels are told all the same.
        ([0.4, 0.45, 0.0, 0.0], [("good", 0.4)], "manual"),
        ([0.4, 0.55, 0.0, 0.99], [("disfigured", 0.99), ("no cap", 0.55)], "manual"),
    ],
)
def test_multi(probabilities: list[float], labels: list[tuple[str, float]], lane: str) -> None:
    decision = decide(probabilities, CLASSES, "multi", MULTI)
    assert list(decision.labels) == labels
    assert decision.lane == lane


def test_multi_applies_at_exactly_the_threshold_and_is_sure_at_exactly_the_margin() -> None:
    policy = changed(MULTI, thresholds={"no cap": 0.25}, uncertain_margin=0)
    assert decide([0.7, 0.25, 0.0, 0.0], CLASSES, "multi", policy).lane == "no-cap"
    wide = changed(policy, uncertain_margin=0.25)
    assert decide([0.7, 0.5, 0.0, 0.0], CLASSES, "multi", wide).lane == "no-cap"
    assert decide([0.7, 0.0, 0.0, 0.0], CLASSES, "multi", wide).lane == "good"


def test_multi_follows_the_policys_lanes_and_precedence() -> None:
    policy = changed(
        MULTI,
        precedence=("disfigured", "no cap", "label off", "good"),
        lanes=MULTI.lanes | {"disfigured": "reject"},
        manual_lane="belt-2",
    )
    assert decide([0.0, 0.99, 0.0, 0.7], CLASSES, "multi", policy).lane == "reject"
    assert decide([0.0, 0.99, 0.0, 0.5], CLASSES, "multi", policy).lane == "belt-2"


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_what_is_not_a_number_goes_to_a_person(mode: Any) -> None:
    policy = changed(Policy.default(CLASSES, mode), uncertain_margin=0)
    assert decide([math.nan] * 4, CLASSES, mode, policy).lane == "manual"


@pytest.mark.parametrize("mode", ["single", "multi"])
@pytest.mark.parametrize("count", [3, 5])
def test_a_row_of_another_length_is_refused(mode: Any, count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        decide([0.9] * count, CLASSES, mode, Policy.default(CLASSES, mode))


@given(st.lists(unit, min_size=4, max_size=4), unit, unit)
def test_multi_against_its_definition(row: Sequence[float], threshold: float, margin: float) -> None:
    policy = changed(MULTI, thresholds=dict.fromkeys(CLASSES[1:], threshold), uncertain_margin=margin)
    decision = decide(row, CLASSES, "multi", policy)
    by_name = dict(zip(CLASSES, row, strict=True))
    defects = {name for name in CLASSES[1:] if by_name[name] >= threshold}
    assert {name for name, _ in decision.labels} == (defects or {"good"})
    assert all(by_name[name] == probability for name, probability in decision.labels)
    told = [probability for _, probability in decision.labels]
    assert told == sorted(told, reverse=True)
    near = any(abs(by_name[name] - threshold) < margin for name in CLASSES[1:])
    if near or (not defects and by_name["good"] < 0.5):
        assert decision.lane == "manual"
    else:
        assert decision.lane == next(policy.lanes[n] for n in policy.precedence if n in (defects or {"good"}))


@pytest.mark.parametrize(
    "fields",
    [
        {"thresholds": {"no cap": 1.5}},
        {"thresholds": {"no cap": math.nan}},
        {"uncertain_margin": -0.1},
        {"lanes": {"good": ""}},
        {"treshold": 0.5},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(MULTI, **fields)


def test_mismatches_name_what_is_missing_and_what_is_misspelt() -> None:
    assert MULTI.mismatches(CLASSES) == []
    policy = changed(
        MULTI,
        thresholds={"no-cap": 0.9},
        precedence=("no cap", "good", "label off"),
        lanes={"no cap": "a", "label off": "b", "disfigured": "c"},
    )
    assert policy.mismatches(CLASSES) == [
        "'good' has no lane",
        "'disfigured' has no place in the precedence",
        "'no-cap' is not a class",
    ]
