"""Labels and lanes from probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.bundle.policy import Mode, Policy, decide, policies_by_line
from shared.errors import BadSetting
from shared.policy_overrides import PolicyOverride

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
    decision = decide(probabilities, CLASSES, mode="single", policy=SINGLE)
    assert list(decision.labels) == labels
    assert decision.lane == lane
    assert decision.uncertain == (lane == "manual")


def test_uncertain_is_set_whatever_the_manual_lane_is_called() -> None:
    policy = changed(SINGLE, manual_lane="good")
    assert decide([0.49, 0.3, 0.11, 0.1], CLASSES, mode="single", policy=policy).uncertain
    assert not decide([0.9, 0.1, 0.0, 0.0], CLASSES, mode="single", policy=policy).uncertain


def test_single_uses_the_threshold_of_the_label() -> None:
    policy = changed(SINGLE, thresholds={"no cap": 0.9})
    assert decide([0.1, 0.85, 0.03, 0.02], CLASSES, mode="single", policy=policy).lane == "manual"
    # `good` has no threshold of its own, so 0.5 applies.
    assert decide([0.55, 0.25, 0.1, 0.1], CLASSES, mode="single", policy=policy).lane == "good"


@pytest.mark.parametrize(
    ("probabilities", "labels", "lane"),
    [
        ([0.9, 0.05, 0.03, 0.02], [("good", 0.9)], "good"),
        ([0.1, 0.7, 0.0, 0.0], [("no cap", 0.7)], "no-cap"),
        # All labels that apply, most probable first; the lane follows the precedence, not the probability.
        ([0.0, 0.7, 0.0, 0.99], [("disfigured", 0.99), ("no cap", 0.7)], "no-cap"),
        # `good` applies if no defect does; if it is improbable nevertheless, a person decides.
        ([0.51, 0.2, 0.2, 0.2], [("good", 0.51)], "good"),
        ([0.3, 0.35, 0.35, 0.35], [("good", 0.3)], "manual"),
        ([0.99, 0.9, 0.0, 0.0], [("no cap", 0.9)], "no-cap"),
        # Near a threshold, on either side, a person decides; the labels are given nevertheless.
        ([0.4, 0.45, 0.0, 0.0], [("good", 0.4)], "manual"),
        ([0.4, 0.55, 0.0, 0.99], [("disfigured", 0.99), ("no cap", 0.55)], "manual"),
    ],
)
def test_multi(probabilities: list[float], labels: list[tuple[str, float]], lane: str) -> None:
    decision = decide(probabilities, CLASSES, mode="multi", policy=MULTI)
    assert list(decision.labels) == labels
    assert decision.lane == lane


def test_multi_applies_at_exactly_the_threshold_and_is_sure_at_exactly_the_margin() -> None:
    policy = changed(MULTI, thresholds={"no cap": 0.25}, uncertain_margin=0)
    assert decide([0.7, 0.25, 0.0, 0.0], CLASSES, mode="multi", policy=policy).lane == "no-cap"
    # With the threshold 0.25 and the margin 0.25, the band goes from 0.25 * 0.5 to 0.25 + 0.75 * 0.5.
    wide = changed(policy, uncertain_margin=0.25)
    assert decide([0.0, 0.625, 0.0, 0.0], CLASSES, mode="multi", policy=wide).lane == "no-cap"
    assert decide([0.0, 0.624, 0.0, 0.0], CLASSES, mode="multi", policy=wide).lane == "manual"
    assert decide([0.7, 0.125, 0.0, 0.0], CLASSES, mode="multi", policy=wide).lane == "good"
    assert decide([0.7, 0.126, 0.0, 0.0], CLASSES, mode="multi", policy=wide).lane == "manual"


def test_a_low_threshold_does_not_make_every_bottle_uncertain() -> None:
    policy = changed(MULTI, thresholds=dict.fromkeys(CLASSES[1:], 0.1))
    assert decide([0.97, 0.01, 0.01, 0.01], CLASSES, mode="multi", policy=policy).lane == "good"
    assert decide([0.02, 0.99, 0.01, 0.01], CLASSES, mode="multi", policy=policy).lane == "no-cap"
    high = changed(MULTI, thresholds=dict.fromkeys(CLASSES[1:], 0.9))
    assert decide([0.02, 0.99, 0.01, 0.01], CLASSES, mode="multi", policy=high).lane == "no-cap"


@pytest.mark.parametrize(("threshold", "low", "high"), [(0.5, 0.4, 0.6), (0.1, 0.08, 0.28), (0.9, 0.72, 0.92)])
def test_the_expected_cost_at_both_ends_of_the_band_is_equal(threshold: float, low: float, high: float) -> None:
    band = changed(MULTI, thresholds={"no cap": threshold}).band("no cap")
    assert (band.low, band.threshold, band.high) == pytest.approx((low, threshold, high))
    miss = (1 - threshold) / threshold  # the cost of a miss, in false alarms
    for cost in (band.low * miss, 1 - band.high):
        assert cost == pytest.approx(0.8 * (1 - threshold))


@given(st.floats(0, 1), st.floats(0, 0.5))
def test_a_band_is_within_0_and_1_and_around_its_threshold(threshold: float, margin: float) -> None:
    band = changed(MULTI, thresholds={"no cap": threshold}, uncertain_margin=margin).band("no cap")
    assert 0 <= band.low <= threshold <= band.high + 1e-12
    assert band.high <= 1


@pytest.mark.parametrize("good", [0.0, 0.5, 0.99, 1.0])
def test_a_defect_at_its_threshold_wins_over_good(good: float) -> None:
    decision = decide([good, 0.61, 0.0, 0.0], CLASSES, mode="multi", policy=MULTI)
    assert [name for name, _ in decision.labels] == ["no cap"]
    assert (decision.lane, decision.uncertain) == ("no-cap", False)


def test_multi_follows_the_policys_lanes_and_precedence() -> None:
    policy = changed(
        MULTI,
        precedence=("disfigured", "no cap", "label off", "good"),
        lanes=MULTI.lanes | {"disfigured": "reject"},
        manual_lane="belt-2",
    )
    assert decide([0.0, 0.99, 0.0, 0.7], CLASSES, mode="multi", policy=policy).lane == "reject"
    assert decide([0.0, 0.99, 0.0, 0.5], CLASSES, mode="multi", policy=policy).lane == "belt-2"


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_probabilities_that_are_not_numbers_go_to_a_person(mode: Any) -> None:
    policy = changed(Policy.default(CLASSES, mode), uncertain_margin=0)
    decision = decide([math.nan] * 4, CLASSES, mode=mode, policy=policy)
    assert (decision.lane, decision.uncertain) == ("manual", True)


@pytest.mark.parametrize("mode", ["single", "multi"])
@pytest.mark.parametrize("count", [3, 5])
def test_a_row_of_another_length_is_refused(mode: Any, count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        decide([0.9] * count, CLASSES, mode=mode, policy=Policy.default(CLASSES, mode))


@given(st.lists(unit, min_size=4, max_size=4), unit, st.floats(0, 0.5))
def test_multi_against_its_definition(row: Sequence[float], threshold: float, margin: float) -> None:
    policy = changed(MULTI, thresholds=dict.fromkeys(CLASSES[1:], threshold), uncertain_margin=margin)
    decision = decide(row, CLASSES, mode="multi", policy=policy)
    by_name = dict(zip(CLASSES, row, strict=True))
    defects = {name for name in CLASSES[1:] if by_name[name] >= threshold}
    assert {name for name, _ in decision.labels} == (defects or {"good"})
    assert all(by_name[name] == probability for name, probability in decision.labels)
    told = [probability for _, probability in decision.labels]
    assert told == sorted(told, reverse=True)
    band = policy.band("no cap")
    near = any(band.low < by_name[name] < band.high for name in CLASSES[1:])
    assert decision.uncertain == (near or (not defects and by_name["good"] < 0.5))
    if decision.uncertain:
        assert decision.lane == "manual"
    else:
        assert decision.lane == next(policy.lanes[n] for n in policy.precedence if n in (defects or {"good"}))


@pytest.mark.parametrize(
    "fields",
    [
        {"thresholds": {"no cap": 1.5}},
        {"thresholds": {"no cap": math.nan}},
        {"uncertain_margin": -0.1},
        {"uncertain_margin": 0.51},
        {"lanes": {"good": ""}},
        {"treshold": 0.5},
    ],
)
def test_an_invalid_policy_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(MULTI, **fields)


@pytest.mark.parametrize(
    ("classes", "shared"),
    [
        (("good", "no cap", "bent"), []),
        (("good", "no cap", "no-cap"), ["the lane 'no-cap' is for 'no cap' and 'no-cap'"]),
        (("good", "manual"), ["the lane 'manual' is for 'manual' and uncertain bottles"]),
        (("unsorted", "good"), ["the lane 'unsorted' is for 'unsorted' and bottles that are not sorted"]),
    ],
)
def test_lanes_of_several_classes_are_named(classes: tuple[str, ...], shared: list[str]) -> None:
    assert Policy.default(classes, "single").shared_lanes() == shared


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


def by_line(mode: Mode = "multi", **override: Any) -> Policy:
    """The policy of line l1 with this override."""
    policy = Policy.default(CLASSES, mode)
    overrides = {"l1": PolicyOverride.model_validate(override)}
    return policies_by_line(policy, overrides, classes=CLASSES, mode=mode, model="bottles@3")["l1"]


def test_an_empty_override_changes_nothing() -> None:
    assert by_line() == MULTI
    assert policies_by_line(MULTI, {}, classes=CLASSES, mode="multi", model="bottles@3") == {}


def test_an_override_replaces_only_the_classes_that_it_names() -> None:
    policy = by_line(
        thresholds={"no cap": 0.3},
        lanes={"disfigured": "reject"},
        precedence=["disfigured"],
        manual_lane="table-2",
        uncertain_margin=0,
    )
    assert policy.thresholds == {"no cap": 0.3, "label off": 0.5, "disfigured": 0.5}
    assert policy.lanes == MULTI.lanes | {"disfigured": "reject"}
    assert policy.precedence == ("disfigured", "no cap", "label off", "good")
    assert (policy.manual_lane, policy.unsorted_lane, policy.uncertain_margin) == ("table-2", "unsorted", 0)
    assert by_line(unsorted_lane="through").unsorted_lane == "through"
    assert MULTI.band("no cap").threshold == 0.5
    assert decide([0.2, 0.35, 0.0, 0.0], CLASSES, mode="multi", policy=policy).lane == "no-cap"


@pytest.mark.parametrize(
    ("override", "what"),
    [
        (
            {"thresholds": {"no-cap": 0.3}},
            r"policies\.l1\.thresholds: 'no-cap' = 0\.3 is not a class of bottles@3: its classes are .*, no cap",
        ),
        ({"lanes": {"cap": "a"}}, r"policies\.l1\.lanes: 'cap' = 'a' is not a class"),
        ({"precedence": ["cap"]}, r"policies\.l1\.precedence: 'cap' is not a class"),
        ({"thresholds": {"good": 0.3}}, r"policies\.l1\.thresholds: 'good' = 0\.3 would change nothing"),
    ],
)
def test_an_override_that_does_not_fit_the_model_is_named(override: dict[str, Any], what: str) -> None:
    with pytest.raises(BadSetting, match=what):
        by_line(**override)


def test_a_single_model_has_a_threshold_for_good() -> None:
    assert by_line("single", thresholds={"good": 0.9}).thresholds["good"] == 0.9
