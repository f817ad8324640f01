"""How good the answers are: probabilities against true labels, as figures.

In: probabilities of a model and the labels of the same images. Out: a dict fit for JSON. Numpy only.

    accuracy       share of images whose most probable class is one of their stated labels
    exact_match    share of images whose decided labels (the policy's) are right: exactly the true ones
    per_class      of the decided labels: precision, recall, F1; `support` and `given`, how many images have the label
                   and how many got it; `average_precision` of the probabilities (None where no image has it);
                   `threshold`, the policy's (None for the `good` of `multi`)
    macro_f1, map  mean F1 over the classes that occur, in truth or in a decision; mean average precision
    ece            expected calibration error: mean |confidence - frequency| over ten bins of confidence, weighted by
                   their size; in `single` of the most probable class, in `multi` of every class of every image
    uncertain      share of images that the policy sends to a person
    sure_accuracy, sure_exact_match    the same figures among the other images; None when there are none
    known_share    share of the truth that is known: below 1 for folders of one label, judged by a `multi` model
    confusion      rows are stated labels, columns the most probable class. An image with several true labels counts
                   where it was right, else in the row of its label that comes first in the policy's precedence.
                   Of more than 100 classes, only those that occur

A dataset may leave truth unknown (`known`): a photograph in the folder `no cap` may be disfigured too. What is
unknown counts neither for nor against: it is left out of the figures per class, of average precision and of the
calibration error, and a decision is right when it agrees with all that is known. Accuracy and confusion go by
the stated labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.policy import DEFAULT_THRESHOLD, GOOD, Mode, Policy, decide
from model_store.datasets.dataset import Dataset, Sample
from shared.errors import BadDataset

# As in Guo et al. 2017, "On Calibration of Modern Neural Networks", with fewer bins for fewer images.
BINS = 10
# A matrix of the 1,001 classes of ImageNet would be a million numbers, nearly all of them 0.
_MAX_CONFUSION_CLASSES = 100

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """What was answered for N images beside what is true of them; C columns in the order of `classes`.

    `probabilities` is float32 [N, C]; `truth`, `known` and `decided` are bool [N, C]; `uncertain` and `right`
    are bool [N]; `lanes` has N entries.
    """

    classes: tuple[str, ...]
    mode: Mode
    policy: Policy
    probabilities: Floats
    truth: Bools
    known: Bools
    decided: Bools
    uncertain: Bools
    right: Bools
    lanes: tuple[str, ...]

    @property
    def top(self) -> NDArray[np.intp]:
        """The column of each image's most probable class, [N]."""
        return np.asarray(self.probabilities.argmax(axis=1))

    def threshold(self, name: str) -> float | None:
        """What `name` is decided by; None for the `good` of `multi`, which has no threshold."""
        if self.mode == "multi" and name == GOOD:
            return None
        return self.policy.thresholds.get(name, DEFAULT_THRESHOLD)

    def labels(self, row: int) -> list[str]:
        """The labels decided on for one image, in the order of the classes."""
        return [name for name, chosen in zip(self.classes, self.decided[row].tolist(), strict=True) if chosen]


class Bins(NamedTuple):
    """A reliability diagram: per bin of confidence that isn't empty its mean, how often it was right, its size."""

    confidence: NDArray[np.float64]
    frequency: NDArray[np.float64]
    answers: NDArray[np.int64]

    @property
    def error(self) -> float:
        """The expected calibration error; 0 for no answers at all."""
        gaps = np.abs(self.confidence - self.frequency)
        return float((gaps * self.answers).sum() / max(1, self.answers.sum()))


def evaluate(
    probabilities: Floats,
    labels: Sequence[tuple[str, ...]],
    *,
    classes: Sequence[str],
    mode: Mode,
    policy: Policy,
    known: Bools | None = None,
) -> dict[str, Any]:
    """All figures of N >= 1 images; `probabilities` is [N, C] in the order of `classes`, `known` bool [N, C].

    Raises:
        BadDataset: there are no images, or one has a label that the model doesn't know.
    """
    return figures(judge(probabilities, labels, classes=classes, mode=mode, policy=policy, known=known))


def judge(
    probabilities: Floats,
    labels: Sequence[tuple[str, ...]],
    *,
    classes: Sequence[str],
    mode: Mode,
    policy: Policy,
    known: Bools | None = None,
    strangers: Literal["refuse", "wrong"] = "refuse",
) -> Judged:
    """Decide on every image and compare with its truth.

    Args:
        probabilities: float32 [N, C] in the order of `classes`, N >= 1.
        labels: the true labels of each image.
        classes: what the model knows.
        mode: of the model.
        policy: what decides.
        known: bool [N, C], False where the truth is unknown; None: all of it is known.
        strangers: what becomes of a label that the model doesn't know: `refuse` the dataset, or take the
            image for one that the model can't be right on (`wrong`).

    Raises:
        BadDataset: there are no images, or one has a label that the model doesn't know, and that is refused.
    """
    if not labels:
        raise BadDataset("there is no usable image to evaluate on.")
    if strangers == "refuse":
        check_known(labels, classes)
    unknown = {name for names in labels for name in names} - set(classes)
    truth = np.array([[name in names for name in classes] for names in labels], bool)
    sayable = np.array([not set(names).intersection(unknown) for names in labels], bool)
    decided, uncertain, lanes = _decisions(probabilities, classes=classes, mode=mode, policy=policy)
    known = np.ones_like(truth) if known is None else known | truth
    right = ((truth == decided) | ~known).all(axis=1) & sayable
    return Judged(tuple(classes), mode, policy, probabilities, truth, known, decided, uncertain, right, lanes)


def check_known(labels: Iterable[tuple[str, ...]], classes: Sequence[str]) -> None:
    """Raise unless the model has a class for every label.

    Raises:
        BadDataset: names a label that it doesn't know.
    """
    unknown = sorted({name for names in labels for name in names} - set(classes))
    if unknown:
        raise BadDataset(
            f"the dataset has the label {unknown[0]!r}, which the model doesn't know: its classes are {list(classes)}. "
            "Rename the label, or train on this dataset."
        )


def figures(judged: Judged) -> dict[str, Any]:
    """The figures at the top of this file."""
    per_class = {name: _of_class(judged, column) for column, name in enumerate(judged.classes)}
    f1 = [scores["f1"] for scores in per_class.values() if scores["support"] or scores["given"]]
    precisions = [scores["average_precision"] for scores in per_class.values()]
    hit, sure = judged.truth[np.arange(len(judged.truth)), judged.top], ~judged.uncertain
    return {
        "accuracy": _rounded(hit.mean()),
        "macro_f1": _rounded(np.mean(f1)) if f1 else 0.0,
        "map": _mean([value for value in precisions if value is not None]),
        "exact_match": _rounded(judged.right.mean()),
        "ece": _rounded(reliability(judged.probabilities, judged.truth, judged.known, mode=judged.mode).error),
        "uncertain": _rounded(judged.uncertain.mean()),
        "sure_accuracy": _mean(hit[sure]),
        "sure_exact_match": _mean(judged.right[sure]),
        "known_share": _rounded(judged.known.mean()),
        "per_class": per_class,
        "confusion": _confusion(judged),
        "images": len(judged.truth),
    }


def known_truth(dataset: Dataset, samples: Sequence[Sample], *, classes: Sequence[str], mode: Mode) -> Bools | None:
    """Which truth the dataset states (`Dataset.known`), bool [N, C]; None: all of it.

    For a `single` model a label always states everything: no other class applies.
    """
    if mode == "single" or dataset.complete:
        return None
    stated = ({*dataset.known_labels(sample, classes)} for sample in samples)
    return np.array([[name in names for name in classes] for names in stated], bool).reshape(-1, len(classes))


def average_precision(scores: Floats, truth: Bools) -> float | None:
    """Area under precision against recall by the step rule, Σ (R_n - R_{n-1}) P_n over the distinct scores.

    As scikit-learn's `average_precision_score`: no interpolation, which would flatter. None without a positive.
    """
    positives = int(truth.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.diff(scores[order]) != 0, True)  # the last of each run of equal scores
    hits = truth[order].cumsum()[ends]
    precision, recall = hits / (np.flatnonzero(ends) + 1), hits / positives
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def reliability(probabilities: Floats, truth: Bools, known: Bools, *, mode: Mode) -> Bins:
    """How often answers of each confidence are right, in ten bins; arrays are [N, C]."""
    if mode == "single":
        rows, top = np.arange(len(truth)), probabilities.argmax(axis=1)
        confidence, correct, counts = probabilities[rows, top], truth[rows, top], known[rows, top]
    else:
        confidence, correct, counts = probabilities.ravel(), truth.ravel(), known.ravel()
    confidence, correct = confidence[counts], correct[counts]
    # In float32, where 0.7 times ten is seven: in float64 it is a little less, and would fall into the bin below.
    bins = np.minimum((confidence * np.float32(BINS)).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    filled = count > 0
    confidences = np.bincount(bins, confidence, BINS)[filled] / count[filled]
    frequencies = np.bincount(bins, correct, BINS)[filled] / count[filled]
    return Bins(confidences, frequencies, count[filled])


def _decisions(
    probabilities: Floats, *, classes: Sequence[str], mode: Mode, policy: Policy
) -> tuple[Bools, Bools, tuple[str, ...]]:
    """Decided labels [N, C], whether the policy is uncertain [N], and the N lanes."""
    column = {name: index for index, name in enumerate(classes)}
    decided = np.zeros(probabilities.shape, bool)
    decisions = [decide(values, classes, mode=mode, policy=policy) for values in probabilities.tolist()]
    for row, decision in enumerate(decisions):
        for name, _ in decision.labels:
            decided[row, column[name]] = True
    uncertain = np.array([decision.uncertain for decision in decisions], bool)
    return decided, uncertain, tuple(decision.lane for decision in decisions)


def _of_class(judged: Judged, column: int) -> dict[str, Any]:
    known = judged.known[:, column]
    truth, decided = judged.truth[known, column], judged.decided[known, column]
    hits, wanted, given = int((truth & decided).sum()), int(truth.sum()), int(decided.sum())
    precision = average_precision(judged.probabilities[known, column], truth)
    return {
        "precision": _rounded(hits / given if given else 0.0),
        "recall": _rounded(hits / wanted if wanted else 0.0),
        "f1": _rounded(2 * hits / (wanted + given) if wanted + given else 0.0),
        "support": wanted,
        "given": given,
        "average_precision": None if precision is None else _rounded(precision),
        "threshold": judged.threshold(judged.classes[column]),
    }


def _confusion(judged: Judged) -> dict[str, Any]:
    classes = judged.classes
    place = {name: rank for rank, name in enumerate(judged.policy.precedence)}
    order = sorted(range(len(classes)), key=lambda index: place[classes[index]])
    matrix = np.zeros((len(classes), len(classes)), int)
    for names, answer in zip(judged.truth, judged.top, strict=True):
        row = answer if names[answer] else next((index for index in order if names[index]), None)
        if row is not None:  # else it has no label that the model knows
            matrix[row, answer] += 1
    if len(classes) > _MAX_CONFUSION_CLASSES:
        occurring = np.flatnonzero(matrix.any(axis=0) | matrix.any(axis=1))
        matrix, classes = matrix[np.ix_(occurring, occurring)], tuple(classes[index] for index in occurring)
    return {"classes": list(classes), "matrix": matrix.tolist()}


def _mean(values: Any) -> float | None:
    return _rounded(np.mean(values)) if len(values) else None


def _rounded(value: Any) -> float:
    return round(float(value), 6)
