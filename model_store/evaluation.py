"""How good the answers are: probabilities against true labels, as figures.

In: probabilities of a model and the labels of the same images. Out: a dict fit for JSON. Numpy only.

    accuracy     share of images whose most probable class is one of their true labels
    exact_match  share of images whose decided labels (the policy's) are exactly the true ones
    per_class    precision, recall and F1 of the decided labels; support is the number of images that have the label
    macro_f1     mean F1 over the classes that occur, in truth or in a decision
    ece          expected calibration error: mean |confidence - frequency| over ten bins of confidence, weighted by
                 their size; in `single` of the most probable class, in `multi` of every class of every image
    confusion    rows are true labels, columns the most probable class. An image with several true labels counts
                 where it was right, else in the row of its label that comes first in the policy's precedence
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.policy import Mode, Policy, decide
from shared.errors import BadDataset

# As in Guo et al. 2017, "On Calibration of Modern Neural Networks", with fewer bins for fewer images.
_BINS = 10

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


def evaluate(
    probabilities: Floats,
    labels: Sequence[tuple[str, ...]],
    *,
    classes: Sequence[str],
    mode: Mode,
    policy: Policy,
) -> dict[str, Any]:
    """All figures of N >= 1 images; `probabilities` is [N, C] in the order of `classes`.

    Raises:
        BadDataset: there are no images, or one has a label that the model doesn't know.
    """
    truth = _truth(labels, classes)
    decided = decided_labels(probabilities, classes=classes, mode=mode, policy=policy)
    top = probabilities.argmax(axis=1)
    per_class = {name: _scores(truth[:, column], decided[:, column]) for column, name in enumerate(classes)}
    occurring = (truth | decided).any(axis=0)
    return {
        "accuracy": _rounded(truth[np.arange(len(top)), top].mean()),
        "macro_f1": _rounded(np.mean([per_class[name]["f1"] for name in np.array(classes)[occurring]])),
        "exact_match": _rounded((truth == decided).all(axis=1).mean()),
        "ece": _rounded(_calibration_error(probabilities, truth, mode=mode)),
        "per_class": per_class,
        "confusion": {"classes": list(classes), "matrix": _confusion(truth, top, classes, policy)},
        "images": len(labels),
    }


def decided_labels(probabilities: Floats, *, classes: Sequence[str], mode: Mode, policy: Policy) -> Bools:
    """Which labels the policy decides on, bool [N, C]."""
    column = {name: index for index, name in enumerate(classes)}
    decided = np.zeros(probabilities.shape, bool)
    for row, values in enumerate(probabilities.tolist()):
        for name, _ in decide(values, classes, mode, policy).labels:
            decided[row, column[name]] = True
    return decided


def _truth(labels: Sequence[tuple[str, ...]], classes: Sequence[str]) -> Bools:
    if not labels:
        raise BadDataset("there is no usable image to evaluate on.")
    if unknown := sorted({name for names in labels for name in names} - set(classes)):
        raise BadDataset(
            f"the dataset has the label {unknown[0]!r}, which the model doesn't know: its classes are {list(classes)}. "
            "Rename the label, or train on this dataset."
        )
    return np.array([[name in names for name in classes] for names in labels], bool)


def _scores(truth: Bools, decided: Bools) -> dict[str, float | int]:
    hits, wanted, given = int((truth & decided).sum()), int(truth.sum()), int(decided.sum())
    return {
        "precision": _rounded(hits / given if given else 0.0),
        "recall": _rounded(hits / wanted if wanted else 0.0),
        "f1": _rounded(2 * hits / (wanted + given) if wanted + given else 0.0),
        "support": wanted,
    }


def _calibration_error(probabilities: Floats, truth: Bools, *, mode: Mode) -> float:
    if mode == "single":
        rows, top = np.arange(len(truth)), probabilities.argmax(axis=1)
        confidence, correct = probabilities[rows, top], truth[rows, top]
    else:
        confidence, correct = probabilities.ravel(), truth.ravel()
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [(bins == number).mean() * _gap(confidence, correct, bins == number) for number in np.unique(bins)]
    return float(sum(gaps))


def _gap(confidence: Floats, correct: Bools, chosen: Bools) -> float:
    return abs(float(confidence[chosen].mean()) - float(correct[chosen].mean()))


def _confusion(truth: Bools, top: NDArray[np.intp], classes: Sequence[str], policy: Policy) -> list[list[int]]:
    order = sorted(range(len(classes)), key=lambda index: policy.precedence.index(classes[index]))
    matrix = np.zeros((len(classes), len(classes)), int)
    for names, answer in zip(truth, top, strict=True):
        row = answer if names[answer] else next(index for index in order if names[index])
        matrix[row, answer] += 1
    counts: list[list[int]] = matrix.tolist()
    return counts


def _rounded(value: Any) -> float:
    return round(float(value), 6)
