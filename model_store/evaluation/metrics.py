"""Metrics: compares the probabilities of a model with the true labels.

In: the probabilities for some images and the labels of the same images. Out: a dict fit for JSON. Numpy only.

    accuracy       share of images whose most probable class is one of their stated labels
    exact_match    share of images whose decided labels (the policy's) are exactly the true ones
    per_class      for the decided labels: precision, recall, F1; `support` and `given`, how many images have the label
                   and how many were given it; `average_precision` of the probabilities (None if no image has it);
                   `threshold`, the policy's (None for the `good` of `multi`)
    macro_f1, map  mean F1 over the classes that occur, in truth or in a decision; mean average precision
    ece            expected calibration error: mean |confidence - frequency| over ten bins of confidence, weighted by
                   their size; in `single` for the most probable class, in `multi` for every class of every image
    uncertain      share of images that the policy sends to a person
    sure_accuracy, sure_exact_match    the same metrics for the other images; None when there are none
    known_share    share of the labels that are known: below 1 for a `multi` model and a dataset of one folder per class
    confusion      rows are stated labels, columns the most probable class. An image with several true labels counts in
                   the row of the answer if that is one of them, otherwise in the row of its label that comes first
                   in the policy's precedence. Of more than 100 classes, only those that occur

A dataset may leave some labels of an image unknown (`label_mask`): a photograph in the folder `no cap` may be
disfigured too. Unknown labels are left out of the metrics per class, of average precision and of the calibration error.
A decision is correct if it agrees with all known labels. Accuracy and confusion use only the stated labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.policy import DEFAULT_THRESHOLD, GOOD, Mode, Policy, decide
from model_store.datasets.dataset import Dataset, Sample
from shared.arrays import Bools, Doubles, Floats, Indices
from shared.errors import BadDataset

# As in Guo et al. 2017, "On Calibration of Modern Neural Networks", with fewer bins for fewer images.
BINS = 10
# The matrix of ImageNet's 1,001 classes would be a million numbers, nearly all of them 0.
_MAX_CONFUSION_CLASSES = 100


@dataclass(frozen=True)
class ScoredPredictions:
    """The answers for N images and their true labels; C columns in the order of `classes`.

    `probabilities` is float32 [N, C]; `truth`, `label_mask` (False: unknown) and `decided` are bool [N, C]; `uncertain`
    and `correct` are bool [N]; `lanes` has N entries.
    """

    classes: tuple[str, ...]
    mode: Mode
    policy: Policy
    probabilities: Floats
    truth: Bools
    label_mask: Bools
    decided: Bools
    uncertain: Bools
    correct: Bools
    lanes: tuple[str, ...]

    @property
    def top(self) -> Indices:
        """The column of each image's most probable class, [N]."""
        return np.asarray(self.probabilities.argmax(axis=1))

    def threshold(self, name: str) -> float | None:
        """The threshold of class `name`; None for the `good` of `multi`, which has none."""
        if self.mode == "multi" and name == GOOD:
            return None
        return self.policy.thresholds.get(name, DEFAULT_THRESHOLD)

    def labels(self, row: int) -> list[str]:
        """The labels decided on for one image, in the order of the classes."""
        return [name for name, chosen in zip(self.classes, self.decided[row].tolist(), strict=True) if chosen]


class Bins(NamedTuple):
    """A reliability diagram. Per non-empty bin: mean confidence, share of correct answers, number of answers."""

    confidence: Doubles
    frequency: Doubles
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
    label_mask: Bools | None = None,
) -> dict[str, Any]:
    """All metrics of N >= 1 images; `probabilities` is [N, C] in the order of `classes`, `label_mask` bool [N, C].

    Raises:
        BadDataset: there are no images, or one has a label that the model doesn't know.
    """
    return compute_metrics(
        score(probabilities, labels, classes=classes, mode=mode, policy=policy, label_mask=label_mask)
    )


def score(
    probabilities: Floats,
    labels: Sequence[tuple[str, ...]],
    *,
    classes: Sequence[str],
    mode: Mode,
    policy: Policy,
    label_mask: Bools | None = None,
    unknown_labels: Literal["refuse", "wrong"] = "refuse",
) -> ScoredPredictions:
    """Decide on every image and compare with its true labels.

    Args:
        probabilities: float32 [N, C] in the order of `classes`, N >= 1.
        labels: the true labels of each image.
        classes: the classes of the model.
        mode: the mode of the model.
        policy: decides the labels.
        label_mask: bool [N, C], False where it is unknown whether the label applies; None: all are known.
        unknown_labels: how to treat a label that the model doesn't know: `refuse` the dataset, or count every answer
            to the image as `wrong`.

    Raises:
        BadDataset: there are no images, or one has a label that the model doesn't know and `unknown_labels` is
            `refuse`.
    """
    if not labels:
        raise BadDataset("there is no usable image to evaluate on.")
    if unknown_labels == "refuse":
        check_labels_known(labels, classes)
    unknown = {name for names in labels for name in names} - set(classes)
    truth = np.array([[name in names for name in classes] for names in labels], bool)
    answerable = np.array([not set(names).intersection(unknown) for names in labels], bool)
    decided, uncertain, lanes = _decisions(probabilities, classes=classes, mode=mode, policy=policy)
    label_mask = np.ones_like(truth) if label_mask is None else label_mask | truth
    correct = ((truth == decided) | ~label_mask).all(axis=1) & answerable
    return ScoredPredictions(
        tuple(classes), mode, policy, probabilities, truth, label_mask, decided, uncertain, correct, lanes
    )


def check_labels_known(labels: Iterable[tuple[str, ...]], classes: Sequence[str]) -> None:
    """Raise unless the model has a class for every label.

    Raises:
        BadDataset: names a label that it doesn't know.
    """
    unknown = sorted({name for names in labels for name in names} - set(classes))
    if unknown:
        raise BadDataset(
            f"the dataset has the label {unknown[0]!r}, which the model doesn't know: its classes are "
            f"{', '.join(classes)}. Rename the label, or train on this dataset."
        )


def compute_metrics(scored: ScoredPredictions) -> dict[str, Any]:
    """The metrics listed at the top of this file."""
    per_class = {name: _class_metrics(scored, column) for column, name in enumerate(scored.classes)}
    f1 = [scores["f1"] for scores in per_class.values() if scores["support"] or scores["given"]]
    precisions = [scores["average_precision"] for scores in per_class.values()]
    hit, certain = scored.truth[np.arange(len(scored.truth)), scored.top], ~scored.uncertain
    return {
        "accuracy": _rounded(hit.mean()),
        "macro_f1": _rounded(np.mean(f1)) if f1 else 0.0,
        "map": _mean([value for value in precisions if value is not None]),
        "exact_match": _rounded(scored.correct.mean()),
        "ece": _rounded(reliability(scored.probabilities, scored.truth, scored.label_mask, mode=scored.mode).error),
        "uncertain": _rounded(scored.uncertain.mean()),
        "sure_accuracy": _mean(hit[certain]),
        "sure_exact_match": _mean(scored.correct[certain]),
        "known_share": _rounded(scored.label_mask.mean()),
        "per_class": per_class,
        "confusion": _confusion(scored),
        "images": len(scored.truth),
    }


def label_mask_of(dataset: Dataset, samples: Sequence[Sample], *, classes: Sequence[str], mode: Mode) -> Bools | None:
    """Which labels are known (`Dataset.known_labels`), bool [N, C]; None: all of them.

    For a `single` model one label says everything: no other class applies.
    """
    if mode == "single" or dataset.complete:
        return None
    known = ({*dataset.known_labels(sample, classes)} for sample in samples)
    return np.array([[name in names for name in classes] for names in known], bool).reshape(-1, len(classes))


def average_precision(scores: Floats, truth: Bools) -> float | None:
    """Area under the precision-recall curve by the step rule, Σ (R_n - R_{n-1}) P_n over the distinct scores.

    As scikit-learn's `average_precision_score`: without interpolation, which would give too high values. None without
    a positive.
    """
    positives = int(truth.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.diff(scores[order]) != 0, True)  # the last of each run of equal scores
    hits = truth[order].cumsum()[ends]
    precision, recall = hits / (np.flatnonzero(ends) + 1), hits / positives
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def reliability(probabilities: Floats, truth: Bools, label_mask: Bools, *, mode: Mode) -> Bins:
    """How often answers of each confidence are correct, in ten bins; the arrays given are [N, C]."""
    if mode == "single":
        rows, top = np.arange(len(truth)), probabilities.argmax(axis=1)
        confidence, correct, known = probabilities[rows, top], truth[rows, top], label_mask[rows, top]
    else:
        confidence, correct, known = probabilities.ravel(), truth.ravel(), label_mask.ravel()
    confidence, correct = confidence[known], correct[known]
    # In float32 0.7 times ten is seven. In float64 it is a little less, and would fall into the bin below.
    bins = np.minimum((confidence * np.float32(BINS)).astype(int), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    filled = count > 0
    confidences = np.bincount(bins, confidence, BINS)[filled] / count[filled]
    frequencies = np.bincount(bins, correct, BINS)[filled] / count[filled]
    return Bins(confidences, frequencies, count[filled])


def _decisions(
    probabilities: Floats, *, classes: Sequence[str], mode: Mode, policy: Policy
) -> tuple[Bools, Bools, tuple[str, ...]]:
    """The decided labels [N, C], whether the policy is uncertain [N], and the N lanes."""
    column = {name: index for index, name in enumerate(classes)}
    decided = np.zeros(probabilities.shape, bool)
    decisions = [decide(values, classes, mode=mode, policy=policy) for values in probabilities.tolist()]
    for row, decision in enumerate(decisions):
        for name, _ in decision.labels:
            decided[row, column[name]] = True
    uncertain = np.array([decision.uncertain for decision in decisions], bool)
    return decided, uncertain, tuple(decision.lane for decision in decisions)


def _class_metrics(scored: ScoredPredictions, column: int) -> dict[str, Any]:
    known = scored.label_mask[:, column]
    truth, decided = scored.truth[known, column], scored.decided[known, column]
    hits, wanted, given = int((truth & decided).sum()), int(truth.sum()), int(decided.sum())
    precision = average_precision(scored.probabilities[known, column], truth)
    return {
        "precision": _rounded(hits / given if given else 0.0),
        "recall": _rounded(hits / wanted if wanted else 0.0),
        "f1": _rounded(2 * hits / (wanted + given) if wanted + given else 0.0),
        "support": wanted,
        "given": given,
        "average_precision": None if precision is None else _rounded(precision),
        "threshold": scored.threshold(scored.classes[column]),
    }


def _confusion(scored: ScoredPredictions) -> dict[str, Any]:
    classes = scored.classes
    rank_of = {name: rank for rank, name in enumerate(scored.policy.precedence)}
    order = sorted(range(len(classes)), key=lambda index: rank_of[classes[index]])
    matrix = np.zeros((len(classes), len(classes)), int)
    for names, answer in zip(scored.truth, scored.top, strict=True):
        row = answer if names[answer] else next((index for index in order if names[index]), None)
        if row is not None:  # otherwise it has no label that the model knows
            matrix[row, answer] += 1
    if len(classes) > _MAX_CONFUSION_CLASSES:
        occurring = np.flatnonzero(matrix.any(axis=0) | matrix.any(axis=1))
        matrix, classes = matrix[np.ix_(occurring, occurring)], tuple(classes[index] for index in occurring)
    return {"classes": list(classes), "matrix": matrix.tolist()}


def _mean(values: Any) -> float | None:
    return _rounded(np.mean(values)) if len(values) else None


def _rounded(value: Any) -> float:
    return round(float(value), 6)
