"""The probability from which a class applies, chosen on validation images for what the user wants of the model.

In: calibrated probabilities of images that the calibration has not seen (`calibration.cross_fitted`), their true
answers, and an objective. Out: a threshold per class, and what there is to say about them. Numpy only, pure.

    f1              the best F1 of the classes (the default): in `multi` the sum of the defects' and of `good`'s
    precision:0.98  the lowest threshold with at least that precision
    recall:0.95     the highest threshold with at least that recall (`multi`)
    cost:5          the least cost, where a missed defect costs as much as 5 false alarms (`multi`)
    sure:0.95       the lowest confidence above which that share of the answers is right (`single`)

In `single` the most probable class is the answer whatever the thresholds; below its threshold it is uncertain. So `f1`
leaves them at 0.5 there.

Few images make the best threshold on them a poor one elsewhere: it follows single images. Every figure here is
therefore counted with each image's answer drawn three quarters of the way (`TRUST`) from the truth to its calibrated
probability. On 24 splits of the bottle frames (240 images to train on, 80 to choose on, 80 fresh) mean F1 of the
defects on the fresh ones was 0.799 with thresholds of 0.5, 0.804 with the best ones by count, 0.814 with these. All the
way (0.812) loses more where the calibration's shape is wrong: simulated with a third of the positives hidden among the
negatives and long tails, 0.560 (0.5), 0.617 (by count), 0.621 (these), 0.616 (all the way). A target is met on average,
not every time: over 600 simulated sets of 60 or 200 images, `precision:0.95` came to 0.936 on fresh images (0.910 by
count), `recall:0.95` to 0.923 (0.912); `cost:5` cost 1 % more than the threshold 1 / (1 + 5), which is the best one
there is when probabilities are perfect (8 % more by count).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.policy import DEFAULT_THRESHOLD, Mode
from shared.errors import BadSetting

Kind = Literal["f1", "precision", "recall", "cost", "sure"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# How far a counted answer gives way to its probability; see above.
TRUST = 0.75
# Beyond these a threshold is a guess from a handful of images, and int8's steps (1/256, some at a time) would decide.
LOWEST, HIGHEST = 0.1, 0.9
_GRID = np.round(np.arange(LOWEST, HIGHEST + 0.005, 0.01), 2)
_MODES: dict[Kind, tuple[Mode, ...]] = {
    "f1": ("single", "multi"),
    "precision": ("single", "multi"),
    "recall": ("multi",),
    "cost": ("multi",),
    "sure": ("single",),
}

# Until no threshold moves; in practice two or three.
_MAX_ROUNDS = 10

Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Objective:
    """What thresholds are chosen for. `target` is the number after the colon; None for `f1`."""

    kind: Kind
    target: float | None = None

    def __str__(self) -> str:
        return self.kind if self.target is None else f"{self.kind}:{self.target:g}"

    def check(self, mode: Mode) -> None:
        """Raises BadSetting when a model of this mode can't have this objective."""
        if mode not in _MODES[self.kind]:
            usable = ", ".join(kind for kind in KINDS if mode in _MODES[kind])
            raise BadSetting(f"the objective {self} is not for a {mode} model, which can have: {usable}.")


F1 = Objective("f1")


class Chosen(NamedTuple):
    """A threshold per output; and sentences for people, on classes whose objective was not reached or measurable."""

    thresholds: dict[str, float]
    notes: tuple[str, ...]


def parse_objective(text: str) -> Objective:
    """The objective that a user wrote, e.g. `f1` or `precision:0.98`.

    Raises:
        BadSetting: it is none; says what one looks like.
    """
    name, colon, number = text.strip().partition(":")
    kind = next((kind for kind in KINDS if kind == name), None)
    if kind is None:
        raise BadSetting(f"objective {text!r} should be f1, precision:P, recall:R, cost:C or sure:S.")
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
) -> Chosen:
    """Thresholds for a policy.

    Args:
        probabilities: [N, K], calibrated, of images neither trained on nor calibrated with.
        targets: [N, K], 1 where it applies, 0 where it doesn't, NaN where nobody knows (left out; in `single` the whole
            image).
        outputs: the names of the K columns: the classes in `single`, the defects in `multi`.

    A class with nothing to choose by (no known positive or no known negative image; in `single` no answer) keeps 0.5.

    Raises:
        BadSetting: the objective is not for this mode.
        ValueError: shapes that don't fit each other.
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
        return _chosen([_choose(_known(p[:, k], y[:, k]), name, objective) for k, name in enumerate(outputs)], outputs)
    if objective.kind == "f1":
        return Chosen(dict.fromkeys(outputs, DEFAULT_THRESHOLD), ())
    sure = ~np.isnan(y).any(axis=1)
    rows, top = np.arange(sure.sum()), p[sure].argmax(axis=1)
    confidence, right = p[sure][rows, top], y[sure][rows, top]
    if objective.kind == "sure":
        threshold, note = _choose_confidence(confidence, right, "the model", objective)
        return Chosen(dict.fromkeys(outputs, threshold), (note,) if note else ())
    by_class = [
        _choose_confidence(confidence[top == k], right[top == k], name, objective) for k, name in enumerate(outputs)
    ]
    return _chosen(by_class, outputs)


_Choice = tuple[float, str | None]


def _chosen(choices: Sequence[_Choice], outputs: Sequence[str]) -> Chosen:
    thresholds = {name: threshold for name, (threshold, _) in zip(outputs, choices, strict=True)}
    return Chosen(thresholds, tuple(note for _, note in choices if note))


class _Counted(NamedTuple):
    """Probabilities and answers of the images where the answer is known, each [N]."""

    p: Doubles
    y: Doubles


def _known(p: Doubles, y: Doubles) -> _Counted:
    known = ~np.isnan(y)
    return _Counted(p[known], y[known])


class _Curve(NamedTuple):
    """What would be counted at each threshold of the grid; answers drawn towards their probabilities."""

    hits: Doubles  # [T]
    given: Doubles  # [T]
    wanted: float

    @property
    def precision(self) -> Doubles:
        """NaN where no image reaches the threshold."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.hits / self.given)

    @property
    def f1(self) -> Doubles:
        return np.asarray(2 * self.hits / (self.given + self.wanted))


def _curve(p: Doubles, y: Doubles, decided: Bools | None = None) -> _Curve:
    """`decided`, bool [T, N]: which images have the label at each threshold; None: those that reach it."""
    drawn = (1 - TRUST) * y + TRUST * p
    if decided is None:
        decided = p[None, :] >= _GRID[:, None]
    return _Curve(hits=decided @ drawn, given=decided.sum(axis=1).astype(np.float64), wanted=float(drawn.sum()))


def _best_f1(p: Doubles, y: Doubles, outputs: Sequence[str]) -> Chosen:
    """The best sum of the defects' F1 and that of `good`, which every threshold has a part in: one after the other."""
    chosen = _chosen([_choose(_known(p[:, k], y[:, k]), name, F1) for k, name in enumerate(outputs)], outputs)
    thresholds = np.array([chosen.thresholds[name] for name in outputs])
    # Of `good` it is known that it applies where every defect is known not to, and that it doesn't where one does.
    good = np.where((y == 1).any(axis=1), 0.0, 1.0 - y.sum(axis=1))
    movable = [k for k in range(len(outputs)) if len(np.unique(y[~np.isnan(y[:, k]), k])) == 2]
    for _ in range(_MAX_ROUNDS):
        before = thresholds.copy()
        for k in movable:
            others: Bools = np.asarray(np.delete(p >= thresholds, k, axis=1).any(axis=1))
            figure = _curve(*_known(p[:, k], y[:, k])).f1 + _f1_of_good(p, good, reached=p[:, k], others=others)
            thresholds[k] = _nearest_to_default(figure)
        if (thresholds == before).all():
            break
    return chosen._replace(thresholds=dict(zip(outputs, thresholds.tolist(), strict=True)))


def _f1_of_good(p: Doubles, good: Doubles, *, reached: Doubles, others: Bools) -> Doubles:
    """[T], by the threshold of the defect with the probabilities `reached`; `others`: has another defect anyway."""
    known = ~np.isnan(good)
    if not 0 < good[known].sum() < known.sum():
        return np.zeros(len(_GRID))
    decided = ~(others[None, :] | (reached[None, :] >= _GRID[:, None]))
    return _curve(np.prod(1 - p[known], axis=1), good[known], decided[:, known]).f1


def _choose(counted: _Counted, name: str, objective: Objective) -> _Choice:
    positives, images = int(counted.y.sum()), len(counted.y)
    if not 0 < positives < images:
        return DEFAULT_THRESHOLD, (
            f"{name}: {positives} of the {images} validation images with a known answer have it, which leaves nothing "
            f"to choose a threshold by: {DEFAULT_THRESHOLD}."
        )
    curve = _curve(*counted)
    if objective.kind == "precision":
        return _reaching_precision(curve, name, objective)
    if objective.kind == "recall":
        return _reaching_recall(curve, name, objective)
    if objective.kind == "cost":
        return _cheapest(curve, name, objective)
    return _nearest_to_default(curve.f1), None


def _choose_confidence(confidence: Doubles, right: Doubles, name: str, objective: Objective) -> _Choice:
    if not len(right):
        return DEFAULT_THRESHOLD, (
            f"{name}: no validation image got this answer, which leaves nothing to choose a threshold by: "
            f"{DEFAULT_THRESHOLD}."
        )
    return _reaching_precision(_curve(confidence, right), name, objective)


def _reaching_precision(curve: _Curve, name: str, objective: Objective) -> _Choice:
    assert objective.target is not None
    precision = curve.precision
    reached = np.flatnonzero(precision >= objective.target)
    if len(reached):
        return float(_GRID[reached[0]]), None
    if np.isnan(precision).all():
        return DEFAULT_THRESHOLD, (
            f"{name}: no validation image comes to a probability of {LOWEST}, so {objective} can't be measured: "
            f"{DEFAULT_THRESHOLD}."
        )
    best = int(np.nanargmax(precision))
    return float(_GRID[best]), _missed(name, objective, reachable=precision[best], threshold=_GRID[best])


def _reaching_recall(curve: _Curve, name: str, objective: Objective) -> _Choice:
    assert objective.target is not None
    recall = curve.hits / curve.wanted
    reached = np.flatnonzero(recall >= objective.target)
    if len(reached):
        return float(_GRID[reached[-1]]), None
    return LOWEST, _missed(name, objective, reachable=recall[0], threshold=LOWEST)


def _cheapest(curve: _Curve, name: str, objective: Objective) -> _Choice:
    assert objective.target is not None
    cost = objective.target * (curve.wanted - curve.hits) + (curve.given - curve.hits)
    # The threshold that perfectly calibrated probabilities would ask for.
    ideal = 1 / (1 + objective.target)
    note = None
    if not LOWEST <= ideal <= HIGHEST:
        note = f"{name}: {objective} asks for a threshold of {ideal:.3f}; thresholds keep to {LOWEST} to {HIGHEST}."
    return _nearest_to_default(-cost, default=ideal), note


def _nearest_to_default(figure: Doubles, *, default: float = DEFAULT_THRESHOLD) -> float:
    """Of the thresholds with the best figure, the one nearest to the default."""
    best = _GRID[figure >= figure.max() - 1e-9]
    return float(best[np.abs(best - default).argmin()])


def _missed(name: str, objective: Objective, *, reachable: float, threshold: float) -> str:
    what = "accuracy" if objective.kind == "sure" else objective.kind
    return (
        f"{name}: a {what} of {objective.target:g} is not reached with thresholds from {LOWEST} to {HIGHEST}; "
        f"{threshold:.2f} comes nearest, with an estimated {reachable:.3f}."
    )


def _example(kind: Kind) -> str:
    return "cost:5" if kind == "cost" else f"{kind}:0.95"
