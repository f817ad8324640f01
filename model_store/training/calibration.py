"""Calibration: scales and shifts a head's logits until its probabilities match the frequencies on held-out images.

In: logits and true labels of images that the head was not trained on. Out: a Calibration. `fold_into_dense` merges
it into the head's kernel and bias, so neither the exported model nor serving has to know about it. Numpy only, pure.

`single` has one scale for all logits (temperature scaling: Guo et al. 2017, "On Calibration of Modern Neural
Networks"), which keeps the order of the classes of every image. `multi` has a scale and a shift per output (Platt 1999,
"Probabilistic Outputs for Support Vector Machines"); the scale is positive, so each output keeps its order of images.
Both are maximum a posteriori estimates, because with few images, or with images that the head separates without an
error, the likelihood alone has no finite maximum. The prior keeps the estimate near the identity. The search starts at
the identity, so the negative log likelihood of the images that it is fitted to never gets worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.policy import Mode
from shared.arrays import Doubles, Floats, Indices

FOLDS = 5
_MAX_STEPS = 100
# The search stops when a step would improve the penalised negative log likelihood by less than this, in nats over all
# images. Such a step changes no probability visibly.
_MIN_GAIN = 1e-10


class Prior(NamedTuple):
    """Prior of log(scale) and of the shift: normal around 0 with these deviations."""

    log_scale: float
    shift: float


# With this prior most scales are within 0.6 to 1.6, and the shift can be as large as what class weights add to a head's
# logits, which is their logarithm. Of the deviations tried, from 0.1 to 3, values near these gave the lowest negative
# log likelihood on fresh images. On 24 splits of the bottle frames (`multi`, 240 images to train on, 80 to calibrate
# with, 80 fresh) its mean was 0.288 uncalibrated and 0.263 calibrated; with logits 2.5 times too large, 0.386 and
# 0.276; with logits shifted by 1.5, 0.486 and 0.263.
PRIOR = Prior(log_scale=0.5, shift=1.5)


@dataclass(frozen=True)
class Calibration:
    """A logit z of output k becomes scale[k] * z + shift[k]; scale[k] > 0."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]

    def apply(self, logits: NDArray[np.floating[Any]]) -> Floats:
        """Logits [N, K], calibrated."""
        return np.asarray(logits * np.array(self.scale) + np.array(self.shift), np.float32)

    def fold_into_dense(self, kernel: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Kernel [width, K] and bias [K] of the dense layer whose logits are those of the given layer, calibrated."""
        scale, shift = np.array(self.scale), np.array(self.shift)
        return np.asarray(kernel * scale, np.float32), np.asarray(bias * scale + shift, np.float32)


def identity(outputs: int) -> Calibration:
    """The calibration that changes nothing."""
    return Calibration(scale=(1.0,) * outputs, shift=(0.0,) * outputs)


def fit(
    logits: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]], *, mode: Mode, prior: Prior = PRIOR
) -> Calibration:
    """The calibration of a head's K outputs.

    Args:
        logits: [N, K], finite: of classes in `single`, of defects in `multi`.
        targets: [N, K], 1 where a label applies, 0 where it does not, NaN where that is unknown. `multi` ignores an
            unknown entry, `single` the whole image.

    In `multi`, an output without a positive or without a negative image is left uncalibrated: such images say nothing
    about its scale, and about its shift only how rare the label was among them.

    Raises:
        ValueError: logits and targets have different shapes, or impossible values.
    """
    _check(logits, targets, mode)
    z, y = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    outputs = z.shape[1]
    if mode == "single":
        known = ~np.isnan(y).any(axis=1)
        if not known.any():
            return identity(outputs)
        (log_scale,) = _minimize(lambda point: _softmax_loss(point, z[known], y[known], prior), [0.0])
        return Calibration(scale=(float(np.exp(log_scale)),) * outputs, shift=(0.0,) * outputs)
    fitted = [_fit_output(z[:, column], y[:, column], prior) for column in range(outputs)]
    return Calibration(scale=tuple(scale for scale, _ in fitted), shift=tuple(shift for _, shift in fitted))


def fold_assignment(
    logits: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]], *, folds: int = FOLDS
) -> Indices:
    """The fold of each image, [N]: images are sorted by targets, then by logits, and assigned to the folds in turn.

    So every fold gets its share of each label, and the order of the rows does not matter.
    """
    keys = np.concatenate([logits, targets], axis=1).T  # lexsort takes the last key first
    fold = np.empty(len(logits), np.intp)
    fold[np.lexsort(keys)] = np.arange(len(logits)) % folds
    return fold


def cross_fitted(
    logits: NDArray[np.floating[Any]],
    targets: NDArray[np.floating[Any]],
    *,
    mode: Mode,
    folds: int = FOLDS,
    prior: Prior = PRIOR,
) -> Floats:
    """Each image's logits, calibrated without the images of its own fold (cross-fitting).

    The arguments are those of `fit`; the folds are those of `fold_assignment`. Use these logits to measure and to
    choose thresholds: on the images that a calibration was fitted to, metrics are too optimistic.
    """
    _check(logits, targets, mode)
    fold = fold_assignment(logits, targets, folds=folds)
    calibrated = np.empty(logits.shape, np.float32)
    for number in np.unique(fold):
        inside = fold == number
        calibrated[inside] = fit(logits[~inside], targets[~inside], mode=mode, prior=prior).apply(logits[inside])
    return calibrated


def log_loss(logits: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]], *, mode: Mode) -> float:
    """Mean negative log likelihood of the known labels, in nats; 0 if none is known. Arguments as for `fit`."""
    z, y = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    if mode == "single":
        known = ~np.isnan(y).any(axis=1)
        losses = _log_sum_exp(z[known]) - (y[known] * z[known]).sum(axis=1)
    else:
        known = ~np.isnan(y)
        losses = np.logaddexp(0.0, z[known]) - y[known] * z[known]
    return float(losses.mean()) if losses.size else 0.0


class _Loss(NamedTuple):
    """Penalised negative log likelihood at a point, its gradient, and the expected curvature (Fisher's)."""

    value: float
    gradient: Doubles
    curvature: Doubles


def _fit_output(z: Doubles, y: Doubles, prior: Prior) -> tuple[float, float]:
    z, y = z[~np.isnan(y)], y[~np.isnan(y)]
    if not 0 < y.sum() < len(y):
        return 1.0, 0.0
    log_scale, shift = _minimize(lambda point: _sigmoid_loss(point, z, y, prior), [0.0, 0.0])
    return float(np.exp(log_scale)), float(shift)


def _sigmoid_loss(point: Doubles, z: Doubles, y: Doubles, prior: Prior) -> _Loss:
    scaled = np.exp(point[0]) * z
    logits = scaled + point[1]
    p = 0.5 * (1.0 + np.tanh(logits / 2))
    slopes = np.stack([scaled, np.ones_like(z)])  # derivatives of the logits by log(scale) and by the shift
    precision = np.array(prior, np.float64) ** -2
    return _Loss(
        value=float((np.logaddexp(0.0, logits) - y * logits).sum() + (precision * point**2).sum() / 2),
        gradient=slopes @ (p - y) + precision * point,
        curvature=(slopes * (p * (1 - p))) @ slopes.T + np.diag(precision),
    )


def _softmax_loss(point: Doubles, z: Doubles, y: Doubles, prior: Prior) -> _Loss:
    scaled = np.exp(point[0]) * z
    log_sum = _log_sum_exp(scaled)
    p = np.exp(scaled - log_sum[:, None])
    mean = (p * scaled).sum(axis=1)
    spread = (p * (scaled - mean[:, None]) ** 2).sum()
    precision = prior.log_scale**-2
    return _Loss(
        value=float((log_sum - (y * scaled).sum(axis=1)).sum() + precision * point[0] ** 2 / 2),
        gradient=np.array([(mean - (y * scaled).sum(axis=1)).sum() + precision * point[0]]),
        curvature=np.array([[spread + precision]]),
    )


def _minimize(loss: Callable[[Doubles], _Loss], start: Sequence[float]) -> Doubles:
    """Fisher scoring from `start`; each step is halved until it gains enough, so the loss never rises."""
    point = np.array(start, np.float64)
    current = loss(point)
    for _ in range(_MAX_STEPS):
        step = -np.linalg.solve(current.curvature, current.gradient)
        expected = float(current.gradient @ step)  # negative: the prior makes the curvature positive definite
        size = 1.0
        while (candidate := loss(point + size * step)).value > current.value + 0.1 * size * expected:
            size /= 2
            if size * -expected < _MIN_GAIN:
                return point
        point, current = point + size * step, candidate
        if -expected < _MIN_GAIN:
            return point
    return point


def _log_sum_exp(z: Doubles) -> Doubles:
    highest = z.max(axis=1)
    return np.asarray(highest + np.log(np.exp(z - highest[:, None]).sum(axis=1)))


def _check(logits: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]], mode: Mode) -> None:
    if logits.ndim != 2 or logits.shape != targets.shape or not logits.shape[1]:
        raise ValueError(f"logits are {list(logits.shape)} and targets {list(targets.shape)}: both should be [N, K].")
    if not np.isfinite(logits).all():
        raise ValueError(f"{int((~np.isfinite(logits)).sum())} of {logits.size} logits are not finite.")
    known = targets[~np.isnan(targets)]
    if not np.isin(known, (0, 1)).all():
        raise ValueError("targets should be 0, 1 or NaN.")
    rows = targets[~np.isnan(targets).any(axis=1)]
    if mode == "single" and not (rows.sum(axis=1) == 1).all():
        raise ValueError("in single, every known row of targets should have exactly one 1.")
