"""Where two versions differ on a dataset: figures side by side, who is right where the other is wrong, image by image.

In: two models and a dataset. Out: a Comparison, fit for JSON. Both run through the decoder, engine and policy
that workers use; each may have its own classes, mode and image size, as long as they have a label in common.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.files import Bundle
from model_store.datasets.dataset import Dataset
from model_store.datasets.image_loading import Limits
from model_store.engines.loading import Engine
from model_store.evaluation.evaluate import Answered, answer_dataset, seen_in_training
from model_store.evaluation.metrics import Bools, Judged, figures, judge, known_truth
from model_store.runtime.progress import ProgressSteps
from shared.errors import BadSetting
from shared.schemas import ModelRef

FIGURES = ("accuracy", "exact_match", "macro_f1", "map", "ece", "uncertain", "sure_accuracy", "sure_exact_match")
CLASS_FIGURES = ("precision", "recall", "f1", "average_precision")


@dataclass(frozen=True)
class Side:
    """One of the two: who it is, what it answered, and how that compares with the truth."""

    ref: ModelRef
    answered: Answered
    judged: Judged
    seen: dict[str, int] | None

    @property
    def title(self) -> str:
        """NAME@VERSION (ENGINE)."""
        return f"{self.ref.name}@{self.ref.version} ({self.ref.engine})"

    def answer(self, row: int) -> dict[str, Any]:
        """What it said of one image, as JSON has it."""
        scores = dict(zip(self.judged.classes, self.judged.probabilities[row].tolist(), strict=True))
        labels = sorted(self.judged.labels(row), key=lambda name: -scores[name])
        return {
            "labels": [{"label": name, "probability": scores[name]} for name in labels],
            "lane": self.judged.lanes[row],
            "uncertain": bool(self.judged.uncertain[row]),
            "right": bool(self.judged.right[row]),
        }


@dataclass(frozen=True)
class Comparison:
    """Two sides on the same N images. An image is right when the labels decided on are right (`exact_match`)."""

    dataset: Dataset
    a: Side
    b: Side

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The classes that both know, in A's order."""
        return tuple(name for name in self.a.judged.classes if name in self.b.judged.classes)

    @cached_property
    def differing(self) -> NDArray[np.intp]:
        """The images that get other labels or another lane."""
        a, b = self.a.judged, self.b.judged
        rows = range(len(a.lanes))
        differ = [a.lanes[row] != b.lanes[row] or {*a.labels(row)} != {*b.labels(row)} for row in rows]
        return np.flatnonzero(differ)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        labels = {name for sample in self.a.answered.samples for name in sample.labels}
        known = {*self.a.judged.classes, *self.b.judged.classes}
        return {
            "images": len(self.a.answered.samples),
            "a": self.a.ref.model_dump() | {"seen_in_training": self.a.seen},
            "b": self.b.ref.model_dump() | {"seen_in_training": self.b.seen},
            "labels": {
                "shared": list(self.shared),
                "only_a": [name for name in self.a.judged.classes if name not in self.shared],
                "only_b": [name for name in self.b.judged.classes if name not in self.shared],
                "unknown_to_both": sorted(labels - known),
            },
            "figures": self.figures(),
            "per_class": self.per_class(),
            "right": self.right(),
            "differences": [self.difference(int(row)) for row in self.differing],
            "unreadable": [{"file": item.name, "reason": item.reason} for item in self.a.answered.unreadable],
        }

    def figures(self) -> dict[str, dict[str, float | None]]:
        """{figure: {a, b, difference}}; macro F1 and mean average precision are over the shared classes."""
        both = [self._figures_of(side.judged) for side in (self.a, self.b)]
        return {name: _beside(both[0][name], both[1][name]) for name in FIGURES}

    def per_class(self) -> dict[str, dict[str, Any]]:
        """{class: {figure: {a, b, difference}, images}}; None on the side of a model that doesn't know the class."""
        a, b = (figures(side.judged)["per_class"] for side in (self.a, self.b))
        rows: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys((*a, *b)):
            of_a, of_b = a.get(name, {}), b.get(name, {})
            rows[name] = {figure: _beside(of_a.get(figure), of_b.get(figure)) for figure in CLASS_FIGURES}
            rows[name]["images"] = (of_a or of_b)["support"]
        return rows

    def right(self) -> dict[str, Any]:
        """How many images each got right that the other did not, and how likely chance alone parts them so."""
        a, b = self.a.judged.right, self.b.judged.right
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        return {
            "both": int((a & b).sum()),
            "only_a": only_a,
            "only_b": only_b,
            "neither": int((~a & ~b).sum()),
            "p_value": mcnemar(only_a, only_b),
        }

    def difference(self, row: int) -> dict[str, Any]:
        """One image with both answers."""
        sample = self.a.answered.samples[row]
        return {
            "file": sample.name,
            "truth": list(sample.labels),
            "a": self.a.answer(row),
            "b": self.b.answer(row),
        }

    def _figures_of(self, judged: Judged) -> dict[str, Any]:
        found = figures(judged)
        if len(self.shared) < len(judged.classes):
            columns = [judged.classes.index(name) for name in self.shared]
            shared = replace(
                judged,
                classes=self.shared,
                probabilities=judged.probabilities[:, columns],
                truth=judged.truth[:, columns],
                known=judged.known[:, columns],
                decided=judged.decided[:, columns],
            )
            found |= {name: value for name, value in figures(shared).items() if name in ("macro_f1", "map")}
        return found


def compare_versions(
    dataset: Dataset,
    a: tuple[Bundle, Engine],
    b: tuple[Bundle, Engine],
    *,
    max_batch: int,
    limits: Limits,
    steps: ProgressSteps,
) -> Comparison:
    """Run both models on every image.

    A label that a model doesn't know makes it wrong on the images that have it.

    Raises:
        BadSetting: the two have no label in common.
        BadDataset: no usable image.
        EngineFailed: a model failed on a batch.
    """
    classes_a, classes_b = a[0].manifest.classes, b[0].manifest.classes
    if not {*classes_a} & {*classes_b}:
        raise BadSetting(
            f"the two models have no label in common: {list(classes_a)} and {list(classes_b)}. "
            "Compare versions that sort the same things."
        )
    kind: dict[str, Any] = {"max_batch": max_batch, "limits": limits, "steps": steps}
    sides = [_side(dataset, bundle, engine, **kind) for bundle, engine in (a, b)]
    return Comparison(dataset, *sides)


def mcnemar(only_a: int, only_b: int) -> float:
    """The chance that images on which one of two equally good models is right part as unevenly as this, or more.

    The exact test of McNemar 1947: two-sided binomial with probability 1/2.
    """
    count, fewer = only_a + only_b, min(only_a, only_b)
    # In logarithms, since 2 ** -count underflows from 1,075 images on.
    log_ways = (math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(fewer + 1))
    tail = math.fsum(math.exp(log_way - count * math.log(2)) for log_way in log_ways)
    return min(1.0, 2 * tail)


def _side(
    dataset: Dataset, bundle: Bundle, engine: Engine, *, max_batch: int, limits: Limits, steps: ProgressSteps
) -> Side:
    manifest, ref = bundle.manifest, bundle.ref(engine.name)
    what = f"Classifying with {ref.name}@{ref.version}"
    answered = answer_dataset(dataset, bundle, engine, max_batch=max_batch, limits=limits, steps=steps, what=what)
    known: Bools | None = known_truth(dataset, answered.samples, classes=manifest.classes, mode=manifest.mode)
    judged = judge(
        answered.probabilities,
        answered.labels,
        classes=manifest.classes,
        mode=manifest.mode,
        policy=manifest.policy,
        known=known,
        strangers="wrong",
    )
    return Side(ref, answered, judged, seen_in_training(answered, bundle))


def _beside(a: float | None, b: float | None) -> dict[str, float | None]:
    return {"a": a, "b": b, "difference": None if a is None or b is None else round(b - a, 6)}
