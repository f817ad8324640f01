"""The rule that says which int8 answers fp32 rechecks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model_store.bundle.manifest import MAX_RECHECK_MARGIN
from model_store.bundle.policy import Mode, Policy
from model_store.engines.recheck import RecheckRule
from shared.arrays import Floats

CLASSES = ("no cap", "good", "cracked")
THRESHOLDS = {"no cap": 0.5, "cracked": 0.1}


def rule(margin: float, *, mode: Mode = "multi", thresholds: dict[str, float] = THRESHOLDS) -> RecheckRule:
    policy = Policy.default(CLASSES, mode).model_copy(update={"thresholds": thresholds})
    return RecheckRule(CLASSES, mode=mode, policy=policy, margin=margin)


def row(*probabilities: float) -> Floats:
    return np.array(probabilities, np.float32)


def moved(probability: float, logits: float) -> float:
    return 1 / (1 + (1 / probability - 1) * math.exp(-logits))


@pytest.mark.parametrize("logits", [-0.31, -0.29, -0.01, 0.01, 0.29, 0.31])
@pytest.mark.parametrize("defect", [0, 2])
def test_in_multi_a_defect_close_to_its_threshold_is_rechecked(logits: float, defect: int) -> None:
    values = [0.01, 0.5, 0.999]
    values[defect] = moved(THRESHOLDS[CLASSES[defect]], logits)
    assert rule(0.3).applies_to(row(*values)) == (abs(logits) < 0.3)


def test_good_follows_from_the_defects_and_is_no_decision() -> None:
    assert not rule(0.3).applies_to(row(0.01, 0.5, 0.999))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_in_single_the_two_most_probable_classes_count(order: tuple[int, ...]) -> None:
    second = 0.6 * math.exp(-0.3)
    for probability, expected in ((second * 1.01, True), (second * 0.99, False)):
        values = np.array([0.6, probability, 0.001])[list(order)]
        assert rule(0.3, mode="single").applies_to(row(*values)) == expected


@pytest.mark.parametrize("mode", ["multi", "single"])
def test_without_a_margin_nothing_is_rechecked(mode: Mode) -> None:
    answers = np.array([[0.5, 0.5, 0.1], [0.1, 0.1, 0.1], [0, 1, 0]], np.float32)
    assert not rule(0, mode=mode).rows(answers).any()


@pytest.mark.parametrize("mode", ["multi", "single"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_answer_that_is_not_finite_is_left_for_the_engine_to_refuse(mode: Mode, value: float) -> None:
    assert not rule(0.3, mode=mode).applies_to(row(value, value, value))
    assert not rule(0.3, mode=mode).applies_to(row(value, 0.9, 0.0))
    assert not rule(0.3, mode=mode).applies_to(row(value, 0.9, 0.1))  # beside a defect at its threshold


@pytest.mark.parametrize("mode", ["multi", "single"])
def test_saturated_answers_are_far_from_every_decision(mode: Mode) -> None:
    assert not rule(5, mode=mode).applies_to(row(0, 1, 0))
    assert not rule(5, mode=mode).applies_to(row(1, 0, 0))


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_nothing_is_close_to_a_threshold_that_has_no_logit(threshold: float) -> None:
    certain = rule(MAX_RECHECK_MARGIN, thresholds={"no cap": threshold, "cracked": threshold})
    assert not certain.rows(np.array([[0, 0.5, 1], [1, 0.5, 0], [0.5, 0.5, 0.5]], np.float32)).any()


def test_the_largest_margin_and_the_smallest_threshold_have_bounds() -> None:
    assert rule(MAX_RECHECK_MARGIN, thresholds={"no cap": 5e-324, "cracked": 0.5}).applies_to(row(0.5, 0.5, 0.5))


def test_the_engine_answers_with_fp32_where_int8_is_close() -> None:
    int8, fp32 = row(0.48, 0.4, 0.01, 0.9, 0.1, 0.01), row(0.52, 0.4, 0.01, 0.8, 0.1, 0.01)
    answered = rule(0.3).answers(int8=int8.reshape(2, 3), fp32=fp32.reshape(2, 3))
    np.testing.assert_array_equal(answered, [fp32[:3], int8[3:]])
    assert answered.dtype == np.float32
