"""Probabilities that mean what they say: a head's logits scaled and shifted until they fit held-out images.

In: logits and true answers of images that the head was not trained on. Out: a Calibration, which `folded` works into
the head's kernel and bias, so that what is exported and served needs to know nothing of it. Numpy only, pure.

`single` has one scale for all logits (temperature scaling: Guo et al. 2017, "On Calibration of Modern Neural
Networks"), which leaves every answer's order of classes as it is. `multi` has a scale and a shift per output (Platt
1999, "Probabilistic Outputs for Support Vector Machines"); the scale is positive, so an output's order of images stays.
Both are maximum a posteriori estimates: with few images, or images that the head separates without an error, the
likelihood alone would run off to infinity. The prior keeps them near the identity, from where the search starts; so
the negative log likelihood of the images fitted to never gets worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.policy import Mode

FOLDS = 5
_MAX_STEPS = 100
# Of the penalised negative log likelihood, in nats over all images: far below what a probability can show.
_ENOUGH = 1e-10

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


class Prior(NamedTuple):
    """What is believed before any image: log(scale) and shift are normal around 0 with these deviations."""

    log_scale: float
    shift: float


# Most scales within 0.6 to 1.6, and room for the shift that class weights put into a head's logits (their logarithm).
# Of deviations from 0.1 to 3, those about these gave fresh images the lowest negative log likelihood: 24 splits of the
# bottle frames (`multi`, 240 images to train on, 80 to calibrate with, 80 fresh), mean 0.288 before and 0.263 after;
# with logits 2.5 times too sure 0.386 and 0.276; with logits shifted by 1.5, 0.486 and 0.263.
PRIOR = Prior(log_scale=0.5, shift=1.5)


@dataclass(frozen=True)
class Calibration:
    """Logits z of output k become scale[k] * z + shift[k]; scale[k] > 0."""

    scale: tuple[float, ...]
    shift: tuple[float, ...]

    def applied(self, logits: NDArray[np.floating[Any]]) -> Floats:
        """The calibrated logits of [N, K] ones."""
        return np.asarray(logits * np.array(self.scale) + np.array(self.shift), np.float32)

    def folded(self, kernel: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """The dense layer ([width, K], [K]) whose logits are this one's, calibrated."""
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
        targets: [N, K], 1 where it applies, 0 where it doesn't, NaN where nobody knows. An unknown entry is left out
            (`multi`), or the whole image (`single`).

    An output of `multi` that has no positive or no negative image tells nothing of its scale, and of its shift only
    how rare it was among these few: it stays as it is.

    Raises:
        ValueError: logits and targets don't fit each other, or have values that can't be.
    """
    _check(logits, targets, mode)
    z, y = np.asarray(logits, np.float64), np.asarray(targets, np.float64)
    outputs = z.shape[1]
    if mode == "single":
        known = ~np.isnan(y).any(axis=1)
        if not known.any():
            return identity(outputs)
        (log_scale,) = _minimum(lambda at: _softmax_loss(at, z[known], y[known], prior), [0.0])
        return Calibration(scale=(float(np.exp(log_scale)),) * outputs, shift=(0.0,) * outputs)
    fitted = [_fit_output(z[:, column], y[:, column], prior) for column in range(outputs)]
    return Calibration(scale=tuple(scale for scale, _ in fitted), shift=tuple(shift for _, shift in fitted))


def dealt(
    logits: NDArray[np.floating[Any]], targets: NDArray[np.floating[Any]], *, folds: int = FOLDS
) -> NDArray[np.intp]:
    """A fold for every image, [N]: sorted by targets, then by logits, and dealt out in turn.

    So every fold has its share of each answer, and the order of the rows does not matter.
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
    """Every image's logits calibrated on the other folds' images: what calibration is worth on images it never saw.

    Arguments as of `fit`; the folds are `dealt`'s. Measure and choose thresholds on these: on the images that the
    calibration was fitted to both would flatter.
    """
    _check(logits, targets, mode)
    fold = dealt(logits, targets, folds=folds)
    calibrated = np.empty(logits.shape, np.float32)
    for number in np.unique(fold):
        chosen = fold == number
        calibrated[chosen] = fit(logits[~chosen], targets[~chosen], mode=mode, prior=prior).applied(logits[chosen])
    return calibrated


class _Loss(NamedTuple):
    """Penalised negative log likelihood at a point, its gradient, and the expected curvature (Fisher's)."""

    value: float
    gradient: Doubles
    curvature: Doubles


def _fit_output(z: Doubles, y: Doubles, prior: Prior) -> tuple[float, float]:
    z, y = z[~np.isnan(y)], y[~np.isnan(y)]
    if not 0 < y.sum() < len(y):
        return 1.0, 0.0
    log_scale, shift = _minimum(lambda at: _sigmoid_loss(at, z, y, prior), [0.0, 0.0])
    return float(np.exp(log_scale)), float(shift)


def _sigmoid_loss(at: Doubles, z: Doubles, y: Doubles, prior: Prior) -> _Loss:
    scaled = np.exp(at[0]) * z
    logits = scaled + at[1]
    p = 0.5 * (1.0 + np.tanh(logits / 2))
    slopes = np.stack([scaled, np.ones_like(z)])  # of the logits, by log(scale) and shift
    precision = np.array(prior, np.float64) ** -2
    return _Loss(
        value=float((np.logaddexp(0.0, logits) - y * logits).sum() + (precision * at**2).sum() / 2),
        gradient=slopes @ (p - y) + precision * at,
        curvature=(slopes * (p * (1 - p))) @ slopes.T + np.diag(precision),
    )


def _softmax_loss(at: Doubles, z: Doubles, y: Doubles, prior: Prior) -> _Loss:
    scaled = np.exp(at[0]) * z
    log_sum = _log_sum_exp(scaled)
    p = np.exp(scaled - log_sum[:, None])
    mean = (p * scaled).sum(axis=1)
    spread = (p * (scaled - mean[:, None]) ** 2).sum()
    precision = prior.log_scale**-2
    return _Loss(
        value=float((log_sum - (y * scaled).sum(axis=1)).sum() + precision * at[0] ** 2 / 2),
        gradient=np.array([(mean - (y * scaled).sum(axis=1)).sum() + precision * at[0]]),
        curvature=np.array([[spread + precision]]),
    )


def _minimum(loss: Callable[[Doubles], _Loss], start: Sequence[float]) -> Doubles:
    """Fisher scoring from `start`, halving each step until it gains enough: the loss never rises."""
    at = np.array(start, np.float64)
    here = loss(at)
    for _ in range(_MAX_STEPS):
        step = -np.linalg.solve(here.curvature, here.gradient)
        expected = float(here.gradient @ step)  # negative: the curvature is positive definite by the prior
        size = 1.0
        while (there := loss(at + size * step)).value > here.value + 0.1 * size * expected:
            size /= 2
            if size * -expected < _ENOUGH:
                return at
        at, here = at + size * step, there
        if -expected < _ENOUGH:
            return at
    return at


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
