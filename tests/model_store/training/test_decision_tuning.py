"""Calibration, policy and unbiased metrics from a head's logits on validation images."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from model_store.bundle.policy import Mode, Policy
from model_store.evaluation.metrics import compute_metrics, evaluate, reliability
from model_store.training.calibration import identity
from model_store.training.decision_tuning import tune_decisions
from model_store.training.head import outputs_of, probabilities_of, targets_of
from model_store.training.thresholds import parse_objective
from shared.errors import BadSetting

CLASSES = ("cracked", "good", "no cap")
MODES: tuple[Mode, ...] = ("single", "multi")


def drawn(seed: int, *, images: int = 60, mode: Mode = "multi", overconfidence: float = 3.0) -> Any:
    """Logits [N, outputs] that are `overconfidence` times too large, and their labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-0.5, 1.5, (images, len(outputs_of(CLASSES, mode))))
    p = probabilities_of(logits.astype(np.float32), classes=CLASSES, mode=mode)
    if mode == "single":
        labels = [(CLASSES[rng.choice(3, p=row / row.sum())],) for row in p.astype(np.float64)]
    else:
        applies = rng.random((images, 2)) < p[:, [0, 2]]
        defects = [tuple(name for name, has in zip(("cracked", "no cap"), row, strict=True) if has) for row in applies]
        labels = [names or ("good",) for names in defects]
    return (overconfidence * logits).astype(np.float32), labels


@pytest.mark.parametrize("mode", MODES)
def test_a_head_is_tuned_to_a_policy_that_decides_its_classes(mode: Mode) -> None:
    logits, labels = drawn(1, mode=mode)
    tuning = tune_decisions(logits, targets_of(labels, CLASSES, mode), classes=CLASSES, mode=mode)
    assert tuning.policy.mismatches(CLASSES) == []
    assert set(tuning.policy.thresholds) == set(outputs_of(CLASSES, mode))
    assert tuning.before.shape == tuning.after.shape == (60, 3)
    assert len(tuning.calibration.scale) == len(outputs_of(CLASSES, mode))
    assert all(scale < 1 for scale in tuning.calibration.scale)  # the head was overconfident
    truth = np.array([[name in names for name in CLASSES] for names in labels])
    before, after = (reliability(p, truth, np.ones_like(truth), mode=mode).error for p in (tuning.before, tuning.after))
    assert after < before
    if mode == "single":
        assert tuning.policy == Policy.default(CLASSES, "single")


@pytest.mark.parametrize("mode", MODES)
def test_each_image_is_scored_in_its_row_by_its_folds_policy(mode: Mode) -> None:
    logits, labels = drawn(2, mode=mode)
    tuning = tune_decisions(logits, targets_of(labels, CLASSES, mode), classes=CLASSES, mode=mode)
    scored = tuning.score_out_of_fold(labels)
    np.testing.assert_array_equal(scored.probabilities, tuning.after)
    np.testing.assert_array_equal(scored.truth, [[name in names for name in CLASSES] for names in labels])
    assert scored.policy == tuning.policy
    assert len(tuning.fold_policies) == 5
    for row in (0, 17, 59):
        policy = tuning.fold_policies[tuning.fold[row]]
        alone = evaluate(tuning.after[[row]], [labels[row]], classes=CLASSES, mode=mode, policy=policy)
        assert (alone["exact_match"], alone["uncertain"]) == (scored.correct[row], scored.uncertain[row])
    assert compute_metrics(scored)["images"] == 60


def test_the_reported_metrics_are_close_to_those_on_fresh_images() -> None:
    expected, flattering, fresh = [], [], []
    evaluate_multi = functools.partial(evaluate, classes=CLASSES, mode="multi")
    for seed in range(40):
        logits, labels = drawn(seed, images=40)
        unseen, truth = drawn(seed + 1000, images=500)
        tuning = tune_decisions(logits, targets_of(labels, CLASSES, "multi"), classes=CLASSES, mode="multi")
        published = probabilities_of(tuning.calibration.apply(unseen), classes=CLASSES, mode="multi")
        expected.append(compute_metrics(tuning.score_out_of_fold(labels))["macro_f1"])
        flattering.append(evaluate_multi(tuning.after, labels, policy=tuning.policy)["macro_f1"])
        fresh.append(evaluate_multi(published, truth, policy=tuning.policy)["macro_f1"])
    assert np.mean(flattering) > np.mean(fresh) + 0.01
    assert abs(np.mean(expected) - np.mean(fresh)) < 0.5 * abs(np.mean(flattering) - np.mean(fresh))


def test_unknown_truth_is_left_out_in_every_step() -> None:
    logits, labels = drawn(3)
    targets = targets_of(labels, CLASSES, "multi")
    known = np.random.default_rng(3).random((60, 3)) < 0.7
    targets[~known[:, [0, 2]]] = np.nan
    tuning = tune_decisions(logits, targets, classes=CLASSES, mode="multi")
    other = np.where(np.isnan(targets), np.nan, targets)
    assert tune_decisions(logits, other, classes=CLASSES, mode="multi").policy == tuning.policy
    assert not tuning.score_out_of_fold(labels, label_mask=known).label_mask.all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("images", [1, 2, 10])
def test_a_handful_of_images_is_enough(mode: Mode, images: int) -> None:
    logits, labels = drawn(4, images=images, mode=mode)
    tuning = tune_decisions(logits, targets_of(labels, CLASSES, mode), classes=CLASSES, mode=mode)
    assert np.isfinite(tuning.after).all()
    assert compute_metrics(tuning.score_out_of_fold(labels))["images"] == images


def test_the_objective_is_followed_and_reported_if_it_is_missed() -> None:
    logits, labels = drawn(5, images=200)
    targets = targets_of(labels, CLASSES, "multi")

    def tuned(text: str) -> Any:
        return tune_decisions(logits, targets, classes=CLASSES, mode="multi", objective=parse_objective(text))

    cautious, eager = (tuned(text).policy.thresholds for text in ("recall:0.95", "precision:0.9"))
    assert all(cautious[name] < eager[name] for name in cautious)
    assert "cracked: a precision of 1 is not reached" in tuned("precision:1").notes[0]
    with pytest.raises(BadSetting, match="not for a multi model"):
        tuned("confidence:0.9")


@pytest.mark.parametrize("mode", MODES)
def test_a_calibration_that_does_not_help_unseen_images_is_left_out(mode: Mode) -> None:
    """The logits of a few images are already calibrated, so there is only noise to fit."""
    left_out = 0
    for seed in range(12):
        logits, labels = drawn(seed, images=15, mode=mode, overconfidence=1.0)
        targets = targets_of(labels, CLASSES, mode)
        tuning = tune_decisions(logits, targets, classes=CLASSES, mode=mode)
        truth = np.array([[name in names for name in CLASSES] for names in labels])
        before, after = (
            reliability(p, truth, np.ones_like(truth), mode=mode).error for p in (tuning.before, tuning.after)
        )
        assert after <= before
        if not any("did not help out of fold on the 15 validation images" in note for note in tuning.notes):
            assert tuning.calibration != identity(logits.shape[1])
            continue
        left_out += 1
        assert tuning.calibration == identity(logits.shape[1])
        np.testing.assert_array_equal(tuning.after, tuning.before)
    assert left_out >= 3


def test_unknown_labels_do_not_count_for_or_against_a_calibration() -> None:
    """Some labels of an image may be unknown. `good` is known if one defect applies, or if all defects are known."""
    logits, labels = drawn(3, images=150)
    targets = targets_of(labels, CLASSES, "multi")
    targets[::3, 1] = np.nan
    tuning = tune_decisions(logits, targets, classes=CLASSES, mode="multi")
    assert tuning.calibration != identity(2)
    targets[:, 1] = np.nan
    assert tune_decisions(logits, targets, classes=CLASSES, mode="multi").calibration.scale[1] == 1
