"""Scaling and shifting logits until the probabilities match the frequencies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_store.bundle.policy import Mode
from model_store.evaluation.metrics import reliability
from model_store.training.calibration import (
    PRIOR,
    Calibration,
    Prior,
    cross_fitted,
    fit,
    identity,
)
from model_store.training.head import Head, logits_of, probabilities_of

MODES: tuple[Mode, ...] = ("single", "multi")
Array = NDArray[np.float64]


def sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))


def drawn(seed: int, *, images: int = 60, outputs: int = 3, mode: Mode = "multi", confidence: float = 1.0) -> Any:
    """Logits [N, K] and targets [N, K]; with a `confidence` of 1 the logits are calibrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (images, outputs))
    if mode == "multi":
        targets = (rng.random(logits.shape) < sigmoid(logits)).astype(np.float64)
    else:
        powers = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        targets = np.eye(outputs)[[rng.choice(outputs, p=row) for row in powers]]
    return confidence * logits, targets


def negative_log_likelihood(logits: Array, targets: Array, *, mode: Mode) -> float:
    """Mean over the known images (`single`) or entries (`multi`), in nats; NaN where nothing is known."""
    if mode == "single":
        known = ~np.isnan(targets).any(axis=1)
        z, y = logits[known], targets[known]
        losses = np.logaddexp.reduce(z, axis=1) - (y * z).sum(axis=1)
    else:
        known = ~np.isnan(targets)
        losses = np.logaddexp(0.0, logits[known]) - targets[known] * logits[known]
    return float(losses.mean()) if losses.size else float("nan")


def with_unknown(targets: Array, seed: int, share: float = 0.3) -> Array:
    return np.where(np.random.default_rng(seed).random(targets.shape) < share, np.nan, targets)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 40),
    mode=st.sampled_from(MODES),
    confidence=st.sampled_from([0.05, 0.5, 1.0, 4.0, 50.0, -2.0]),
    unknown=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_a_fit_never_makes_its_images_less_likely(
    seed: int, images: int, mode: Mode, confidence: float, unknown: float
) -> None:
    logits, targets = drawn(seed, images=images, mode=mode, confidence=confidence)
    targets = with_unknown(targets, seed, unknown)
    calibration = fit(logits, targets, mode=mode)
    assert all(scale > 0 and math.isfinite(scale) for scale in calibration.scale)
    assert all(math.isfinite(shift) for shift in calibration.shift)
    exact = logits * np.array(calibration.scale) + np.array(calibration.shift)
    before, after = (negative_log_likelihood(given, targets, mode=mode) for given in (logits, exact))
    assert after <= before + 1e-12 or (math.isnan(before) and math.isnan(after))
    # The order of the images stays the same for each output, and in `single` the order of classes for each image.
    assert (np.argsort(exact, axis=0) == np.argsort(logits, axis=0)).all()
    if mode == "single":
        assert (np.argsort(exact, axis=1) == np.argsort(logits, axis=1)).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("confidence", [0.4, 3.0])
def test_with_many_images_the_scale_is_found(mode: Mode, confidence: float) -> None:
    logits, targets = drawn(1, images=6000, mode=mode, confidence=confidence)
    np.testing.assert_allclose(fit(logits, targets, mode=mode).scale, 1 / confidence, rtol=0.1)


def test_with_many_images_the_shift_is_found() -> None:
    logits, targets = drawn(1, images=6000)
    shifted = logits + np.array([0.0, 1.0, -2.0])
    np.testing.assert_allclose(fit(shifted, targets, mode="multi").shift, [0, -1, 2], atol=0.15)


@pytest.mark.parametrize("mode", MODES)
def test_the_fit_is_the_minimum_of_the_likelihood_and_the_prior(mode: Mode) -> None:
    logits, targets = drawn(3, images=30, mode=mode, confidence=2.0)
    fitted = fit(logits, targets, mode=mode)

    def penalised(log_scale: float, shift: float) -> float:
        changed = logits.copy()
        columns = slice(None) if mode == "single" else slice(0, 1)
        changed[:, columns] = np.exp(log_scale) * logits[:, columns] + shift
        entries = len(logits) if mode == "single" else logits.size
        likelihood = negative_log_likelihood(changed, targets, mode=mode) * entries
        return likelihood + (log_scale / PRIOR.log_scale) ** 2 / 2 + (shift / PRIOR.shift) ** 2 / 2

    best = math.log(fitted.scale[0]), fitted.shift[0]
    for log_scale, shift in ((0.01, 0.0), (-0.01, 0.0), (0.0, 0.01), (0.0, -0.01)):
        assert penalised(best[0] + log_scale, best[1] + shift) > penalised(*best)


def test_the_prior_limits_how_far_few_images_move_the_calibration() -> None:
    logits, targets = drawn(5, images=20, confidence=4.0)
    scales = [fit(logits, targets, mode="multi", prior=Prior(deviation, 0.5)).scale for deviation in (0.01, 0.5, 5.0)]
    distance = [np.abs(np.log(scale)).mean() for scale in scales]
    assert distance[0] < 0.05 < distance[1] < distance[2]


@pytest.mark.parametrize("mode", MODES)
def test_ten_images_without_an_error_move_the_calibration_little(mode: Mode) -> None:
    truth = np.eye(2)[np.arange(10) % 2]
    calibration = fit(6 * truth - 3, truth, mode=mode)
    assert all(1 <= scale < 1.3 for scale in calibration.scale)
    np.testing.assert_allclose(calibration.shift, 0, atol=0.1)


def test_an_output_without_both_kinds_of_images_is_not_changed() -> None:
    logits, targets = drawn(6, images=10)
    targets[:, 0], targets[:, 1] = 0, 1
    calibration = fit(logits, targets, mode="multi")
    assert (calibration.scale[:2], calibration.shift[:2]) == ((1, 1), (0, 0))
    assert calibration.scale[2] != 1


@pytest.mark.parametrize("mode", MODES)
def test_a_class_without_images_is_no_obstacle(mode: Mode) -> None:
    logits, _ = drawn(7, images=10)
    targets = np.eye(3)[np.arange(10) % 2]  # no image has the third class
    calibration = fit(logits, targets, mode=mode)
    assert np.isfinite(calibration.scale + calibration.shift).all()


@pytest.mark.parametrize("mode", MODES)
def test_without_images_or_truth_the_calibration_is_the_identity(mode: Mode) -> None:
    assert fit(np.zeros((0, 3)), np.zeros((0, 3)), mode=mode) == identity(3)
    assert fit(np.ones((4, 3)), np.full((4, 3), np.nan), mode=mode) == identity(3)
    np.testing.assert_array_equal(cross_fitted(np.ones((1, 3)), np.eye(3)[:1], mode=mode), np.ones((1, 3)))
    assert cross_fitted(np.zeros((0, 3)), np.zeros((0, 3)), mode=mode).shape == (0, 3)


@pytest.mark.parametrize("mode", MODES)
def test_unknown_targets_do_not_count(mode: Mode) -> None:
    logits, targets = drawn(8, mode=mode, confidence=3.0)
    partly = with_unknown(targets, 8)
    if mode == "single":
        known = ~np.isnan(partly).any(axis=1)
        assert fit(logits, partly, mode=mode) == fit(logits[known], targets[known], mode=mode)
        return
    calibration = fit(logits, partly, mode=mode)
    for column in range(3):
        known = ~np.isnan(partly[:, column])
        alone = fit(logits[known][:, [column]], targets[known][:, [column]], mode=mode)
        assert calibration.scale[column] == pytest.approx(alone.scale[0], rel=1e-6)
        assert calibration.shift[column] == pytest.approx(alone.shift[0], rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(MODES))
def test_the_order_of_the_images_does_not_matter(seed: int, mode: Mode) -> None:
    logits, targets = drawn(seed, images=23, mode=mode, confidence=2.0)
    if mode == "multi":
        targets = with_unknown(targets, seed)
    order = np.random.default_rng(seed).permutation(23)
    straight, shuffled = fit(logits, targets, mode=mode), fit(logits[order], targets[order], mode=mode)
    np.testing.assert_allclose(straight.scale, shuffled.scale, rtol=1e-6)
    np.testing.assert_allclose(straight.shift, shuffled.shift, atol=1e-6)
    out_of_fold = cross_fitted(logits, targets, mode=mode)
    np.testing.assert_allclose(out_of_fold[order], cross_fitted(logits[order], targets[order], mode=mode), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_folding_into_the_head_is_the_same_as_calibrating_its_logits(mode: Mode) -> None:
    rng = np.random.default_rng(9)
    classes = ("good", "no cap", "disfigured")
    outputs = 3 if mode == "single" else 2
    kernel, bias = rng.normal(size=(8, outputs)).astype(np.float32), rng.normal(size=outputs).astype(np.float32)
    features = rng.normal(size=(20, 8)).astype(np.float32)
    shift = (0.0,) * outputs if mode == "single" else (0.7, -1.5)
    calibration = Calibration(scale=(1.7,) * 3 if mode == "single" else (1.7, 0.4), shift=shift)
    fold_into_dense = Head(mode, classes, *calibration.fold_into_dense(kernel, bias))
    calibrated = calibration.apply(features @ kernel + bias)
    np.testing.assert_allclose(logits_of(fold_into_dense, features), calibrated, rtol=1e-5, atol=1e-5)
    answers = (
        probabilities_of(logits, classes=classes, mode=mode)
        for logits in (logits_of(fold_into_dense, features), calibrated)
    )
    np.testing.assert_allclose(*answers, atol=1e-6)
    assert fold_into_dense.kernel.dtype == fold_into_dense.bias.dtype == np.float32
    np.testing.assert_array_equal(identity(outputs).fold_into_dense(kernel, bias)[0], kernel)


def test_out_of_fold_an_image_does_not_calibrate_itself() -> None:
    logits, targets = drawn(10, images=40, confidence=3.0)
    changed = logits.copy()
    changed[7] += 1e-4  # too little to put the images into other folds
    first, second = (cross_fitted(given, targets, mode="multi") for given in (logits, changed))
    moved = np.abs(second - first).max(axis=1) > 0
    assert moved[7]
    assert np.count_nonzero(~moved) == 7  # the other images of its fold, whose calibration never saw the changed image


def calibration_error(logits: Array, targets: Array) -> float:
    """The calibration error over all columns, `good` included, as reports measure it."""
    classes = ("a", "b", "c", "good")
    answers = probabilities_of(logits.astype(np.float32), classes=classes, mode="multi")
    truth = np.concatenate([targets, targets.sum(axis=1, keepdims=True) == 0], axis=1).astype(bool)
    return reliability(answers, truth, np.ones_like(truth), mode="multi").error


def test_calibration_halves_the_error_on_fresh_images_and_out_of_fold_metrics_agree() -> None:
    errors, likelihoods = [], []
    for seed in range(40):
        logits, targets = drawn(seed, images=60, confidence=3.0)
        unseen, truth = drawn(seed + 1000, images=2000, confidence=3.0)
        calibration = fit(logits, targets, mode="multi")
        calibrated, out_of_fold = calibration.apply(unseen), cross_fitted(logits, targets, mode="multi")
        errors.append([calibration_error(unseen, truth), calibration_error(calibrated, truth)])
        pairs = (calibrated, truth), (out_of_fold, targets), (calibration.apply(logits), targets)
        likelihoods.append([negative_log_likelihood(*pair, mode="multi") for pair in pairs])
    before, after = np.mean(errors, axis=0)
    assert after < before / 2
    fresh, honest, flattering = np.mean(likelihoods, axis=0)
    assert abs(honest - fresh) < 0.5 * abs(flattering - fresh)


@pytest.mark.parametrize(
    ("logits", "targets", "mode", "what"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), "multi", "both should be"),
        (np.zeros(3), np.zeros(3), "multi", "both should be"),
        (np.full((2, 2), np.nan), np.eye(2), "multi", "4 of 4 logits are not finite"),
        (np.zeros((2, 2)), np.full((2, 2), 0.5), "multi", "0, 1 or NaN"),
        (np.zeros((2, 2)), np.ones((2, 2)), "single", "exactly one 1"),
    ],
)
def test_invalid_logits_and_targets_are_refused(logits: Array, targets: Array, mode: Mode, what: str) -> None:
    for function in (fit, cross_fitted):
        with pytest.raises(ValueError, match=what):
            function(logits, targets, mode=mode)
