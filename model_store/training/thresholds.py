"""Thresholds: the probability from which a class applies, chosen on validation images for the user's objective.

In: calibrated probabilities of images that the calibration has not seen (`calibration.cross_fitted`), their true
labels, and an objective. Out: a threshold per class, and notes for people. Numpy only, pure.

    f1              the best F1 of the classes (the default): in `multi` the sum over the defects and `good`
    precision:0.98  the lowest threshold with at least that precision
    recall:0.95     the highest threshold with at least that recall (`multi`)
    cost:5          the least cost, where a missed defect costs as much as 5 false alarms (`multi`)
    confidence:0.95 the lowest confidence above which that share of the images is labeled correctly (`single`)

In `single` the label is always the most probable class; its threshold only decides whether it is uncertain. So `f1`
leaves the thresholds at 0.5 there.

With few images, the threshold that is best on them is poor on others, because it depends on individual images.
Therefore labels are smoothed before they are counted: each is moved three quarters of the way (`LABEL_SHRINKAGE`)
towards its calibrated probability. On 24 splits of the bottle frames (240 images to train on, 80 to choose on, 80
fresh) the mean F1 of the defects on the fresh images was 0.799 with thresholds of 0.5, 0.804 with the best ones by
plain counts, and 0.814 with these. Moving the labels all the way (0.812) loses more where the calibration's shape is
wrong: in a simulation with long tails, and with a third of the positives hidden among the negatives, the F1 was 0.560
(thresholds of 0.5), 0.617 (plain counts), 0.621 (these) and 0.616 (all the way). A target is met on average, not every
time: over 600 simulated sets of 60 or 200 images, `precision:0.95` reached 0.936 on fresh images (0.910 with plain
counts), `recall:0.95` 0.923 (0.912); `cost:5` cost 1 % more than the threshold 1 / (1 + 5), which is optimal for
perfect probabilities (8 % more with plain counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.policy import DEFAULT_THRESHOLD, Mode
from shared.arrays import Bools, Doubles
from shared.errors import BadSetting

ObjectiveKind = Literal["f1", "precision", "recall", "cost", "confidence"]
KINDS: tuple[ObjectiveKind, ...] = get_args(ObjectiveKind)
# The former name of `confidence`, which users may still write.
_FORMER_CONFIDENCE = "sure"
# How far a label is moved towards its probability before it is counted; see above.
LABEL_SHRINKAGE = 0.75
# Beyond these a threshold would be a guess from a handful of images, and int8's rounding (a few steps of 1/256) would
# decide.
LOWEST, HIGHEST = 0.1, 0.9
_GRID = np.round(np.arange(LOWEST, HIGHEST + 0.005, 0.01), 2)
_MODES: dict[ObjectiveKind, tuple[Mode, ...]] = {
    "f1": ("single", "multi"),
    "precision": ("single", "multi"),
    "recall": ("multi",),
    "cost": ("multi",),
    "confidence": ("single",),
}

# Rounds of coordinate ascent. In practice no threshold moves after two or three.
_MAX_ROUNDS = 10


@dataclass(frozen=True)
class Objective:
    """The goal that thresholds are chosen for. `target` is the number after the colon; None for `f1`."""

    kind: ObjectiveKind
    target: float | None = None

    def __str__(self) -> str:
        return self.kind if self.target is None else f"{self.kind}:{self.target:g}"

    def check(self, mode: Mode) -> None:
        """Refuse an objective that a model of this mode cannot have.

        Raises:
            BadSetting: says which objectives such a model can have.
        """
        if mode not in _MODES[self.kind]:
            usable = ", ".join(kind for kind in KINDS if mode in _MODES[kind])
            raise BadSetting(f"the objective {self} is not for a {mode} model. Use one of: {usable}.")


F1 = Objective("f1")


class ChosenThresholds(NamedTuple):
    """A threshold per output, and notes for people on classes whose objective was not reached or not measurable."""

    thresholds: dict[str, float]
    notes: tuple[str, ...]


def parse_objective(text: str) -> Objective:
    """The objective that a user wrote, e.g. `f1` or `precision:0.98`.

    `sure:0.95`, the former name of `confidence:0.95`, is understood too.

    Raises:
        BadSetting: the text is not an objective; says how to write one.
    """
    name, colon, number = text.strip().partition(":")
    name = "confidence" if name == _FORMER_CONFIDENCE else name
    kind = next((kind for kind in KINDS if kind == name), None)
    if kind is None:
        raise BadSetting(f"objective {text!r} should be f1, precision:P, recall:R, cost:C or confidence:C.")
    if kind == "f1":
        if colon:
            raise BadSetting(f"objective {text!r} should be just f1.")
        return F1
    try:
        target = float(number)
    except ValueError:
        raise BadSetting(f"objective {text!r} needs a number, e.g. {_example(kind)}.") from None
    highest = 1000.0 if kind == "cost" else 1.0
    if not 0 < target <= highest:
        raise BadSetting(f"objective {text!r} needs a number above 0 and up to {highest:g}, e.g. {_example(kind)}.")
    return Objective(kind, target)


def choose_thresholds(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.floating],
    *,
    outputs: Sequence[str],
    mode: Mode,
    objective: Objective = F1,
) -> ChosenThresholds:
    """Thresholds for a policy.

    Args:
        probabilities: [N, K], calibrated, of images neither trained on nor calibrated with.
        targets: [N, K], 1 where a label applies, 0 where it does not, NaN where that is unknown. `multi` ignores an
            unknown entry, `single` the whole image.
        outputs: the names of the K columns: the classes in `single`, the defects in `multi`.

    In `multi`, a class without a known positive or without a known negative image keeps 0.5. In `single`, so does a
    class that was never the most probable.

    Raises:
        BadSetting: the objective is not for this mode.
        ValueError: the shapes do not match.
    """
    objective.check(mode)
    if probabilities.shape != targets.shape or probabilities.shape[1:] != (len(outputs),):
        raise ValueError(
            f"probabilities are {list(probabilities.shape)} and targets {list(targets.shape)}, "
            f"both should be [N, {len(outputs)}]."
        )
    p, y = np.asarray(probabilities, np.float64), np.asarray(targets, np.float64)
    if mode == "multi" and objective.kind == "f1":
        return _best_f1(p, y, outputs)
    if mode == "multi":
        return _collect([_choose(_known(p[:, k], y[:, k]), name, objective) for k, name in enumerate(outputs)], outputs)
    if objective.kind == "f1":
        return ChosenThresholds(dict.fromkeys(outputs, DEFAULT_THRESHOLD), ())
    known = ~np.isnan(y).any(axis=1)
    rows, top = np.arange(known.sum()), p[known].argmax(axis=1)
    confidence, correct = p[known][rows, top], y[known][rows, top]
    if objective.kind == "confidence":
        threshold, note = _choose_confidence(confidence, correct, "the model", objective)
        return ChosenThresholds(dict.fromkeys(outputs, threshold), (note,) if note else ())
    by_class = [
        _choose_confidence(confidence[top == k], correct[top == k], name, objective) for k, name in enumerate(outputs)
    ]
    return _collect(by_class, outputs)


_Choice = tuple[float, str | None]


def _collect(choices: Sequence[_Choice], outputs: Sequence[str]) -> ChosenThresholds:
    thresholds = {name: threshold for name, (threshold, _) in zip(outputs, choices, strict=True)}
    return ChosenThresholds(thresholds, tuple(note for _, note in choices if note))


class _KnownLabels(NamedTuple):
    """Probabilities `p` and labels `y` of the images whose label is known, each [N]."""

    p: Doubles
    y: Doubles


def _known(p: Doubles, y: Doubles) -> _KnownLabels:
    known = ~np.isnan(y)
    return _KnownLabels(p[known], y[known])


class _Curve(NamedTuple):
    """Counts at each threshold of the grid, with smoothed labels."""

    hits: Doubles  # [T]; images that have the label and are given it
    given: Doubles  # [T]; images that are given the label
    wanted: float  # images that have the label

    @property
    def precision(self) -> Doubles:
        """NaN where no image reaches the threshold."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.hits / self.given)

    @property
    def f1(self) -> Doubles:
        return np.asarray(2 * self.hits / (self.given + self.wanted))


def _curve(p: Doubles, y: Doubles, decided: Bools | None = None) -> _Curve:
    """`decided`, bool [T, N]: which images are given the label at each threshold; None: those that reach it."""
    smoothed = (1 - LABEL_SHRINKAGE) * y + LABEL_SHRINKAGE * p
    if decided is None:
        decided = p[None, :] >= _GRID[:, None]
    return _Curve(hits=decided @ smoothed, given=decided.sum(axis=1).astype(np.float64), wanted=float(smoothed.sum()))


def _best_f1(p: Doubles, y: Doubles, outputs: Sequence[str]) -> ChosenThresholds:
    """Maximize the sum of the F1 of all defects and of `good`, one threshold at a time: each influences `good`."""
    start = _collect([_choose(_known(p[:, k], y[:, k]), name, F1) for k, name in enumerate(outputs)], outputs)
    thresholds = np.array([start.thresholds[name] for name in outputs])
    # `good` applies where every defect is known to be absent, and does not apply where one is known to be present.
    # Otherwise it is unknown (NaN).
    good = np.where((y == 1).any(axis=1), 0.0, 1.0 - y.sum(axis=1))
    movable = [k for k in range(len(outputs)) if len(np.unique(y[~np.isnan(y[:, k]), k])) == 2]
    for _ in range(_MAX_ROUNDS):
        before = thresholds.copy()
        for k in movable:
            others: Bools = np.asarray(np.delete(p >= thresholds, k, axis=1).any(axis=1))
            f1_sum = _curve(*_known(p[:, k], y[:, k])).f1 + _f1_of_good(p, good, column=p[:, k], others=others)
            thresholds[k] = _best_nearest_to(f1_sum)
        if (thresholds == before).all():
            break
    return start._replace(thresholds=dict(zip(outputs, thresholds.tolist(), strict=True)))


def _f1_of_good(p: Doubles, good: Doubles, *, column: Doubles, others: Bools) -> Doubles:
    """F1 of `good`, [T], at each threshold of one defect.

    Args:
        column: this defect's probabilities, [N].
        others: whether an image has another defect by the current thresholds, [N].
    """
    known = ~np.isnan(good)
    if not 0 < good[known].sum() < known.sum():
        return np.zeros(len(_GRID))
    decided = ~(others[None, :] | (column[None, :] >= _GRID[:, None]))
    return _curve(np.prod(1 - p[known], axis=1), good[known], decided[:, known]).f1


def _choose(labels: _KnownLabels, name: str, objective: Objective) -> _Choice:
    positives, images = int(labels.y.sum()), len(labels.y)
    if not 0 < positives < images:
        return DEFAULT_THRESHOLD, (
            f"{name}: of {images} validation images with a known answer, {positives} have this label, so there is "
            f"nothing to choose a threshold by; it stays at {DEFAULT_THRESHOLD}."
        )
    curve = _curve(*labels)
    if objective.kind == "precision":
        return _reaching_precision(curve, name, objective)
    if objective.kind == "recall":
        return _reaching_recall(curve, name, objective)
    if objective.kind == "cost":
        return _cheapest(curve, name, objective)
    return _best_nearest_to(curve.f1), None


def _choose_confidence(confidence: Doubles, correct: Doubles, name: str, objective: Objective) -> _Choice:
    if not len(correct):
        return DEFAULT_THRESHOLD, (
            f"{name}: no validation image got this answer, so there is nothing to choose a threshold by; it stays at "
            f"{DEFAULT_THRESHOLD}."
        )
    return _reaching_precision(_curve(confidence, correct), name, objective)


def _reaching_precision(curve: _Curve, name: str, objective: Objective) -> _Choice:
    assert objective.target is not None
    precision = curve.precision
    reached = np.flatnonzero(precision >= objective.target)
    if len(reached):
        return float(_GRID[reached[0]]), None
    if np.isnan(precision).all():
        return DEFAULT_THRESHOLD, (
            f"{name}: no validation image reaches a probability of {LOWEST}, so {objective} can't be measured; the "
            f"threshold stays at {DEFAULT_THRESHOLD}."
        )
    best = int(np.nanargmax(precision))
    return float(_GRID[best]), _unreached_note(name, objective, reachable=precision[best], threshold=_GRID[best])


def _reaching_recall(curve: _Curve, name: str, objective: Objective) -> _Choice:
    assert objective.target is not None
    recall = curve.hits / curve.wanted
    reached = np.flatnonzero(recall >= objective.target)
    if len(reached):
        return float(_GRID[reached[-1]]), None
    return LOWEST, _unreached_note(name, objective, reachable=recall[0], threshold=LOWEST)


def _cheapest(curve: _Curve, name: str, objective: Objective) -> _Choice:
    assert objective.target is not None
    cost = objective.target * (curve.wanted - curve.hits) + (curve.given - curve.hits)
    # The best threshold for perfectly calibrated probabilities.
    ideal = 1 / (1 + objective.target)
    note = None
    if not LOWEST <= ideal <= HIGHEST:
        note = (
            f"{name}: {objective} asks for a threshold of {ideal:.3f}, but thresholds stay between {LOWEST} and "
            f"{HIGHEST}."
        )
    return _best_nearest_to(-cost, default=ideal), note


def _best_nearest_to(scores: Doubles, *, default: float = DEFAULT_THRESHOLD) -> float:
    """The threshold with the best score; of several, the one nearest to the default."""
    best = _GRID[scores >= scores.max() - 1e-9]
    return float(best[np.abs(best - default).argmin()])


def _unreached_note(name: str, objective: Objective, *, reachable: float, threshold: float) -> str:
    metric = "accuracy" if objective.kind == "confidence" else objective.kind
    return (
        f"{name}: a {metric} of {objective.target:g} is not reached with thresholds from {LOWEST} to {HIGHEST}; "
        f"{threshold:.2f} comes nearest, with an estimated {reachable:.3f}."
    )


def _example(kind: ObjectiveKind) -> str:
    return "cost:5" if kind == "cost" else f"{kind}:0.95"
