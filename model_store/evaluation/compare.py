"""Compares two versions on a dataset: metrics side by side, which one is correct where, and where they differ.

In: two models and a dataset. Out: a Comparison, fit for JSON. Both run with the decoder, engine and policy that workers
use; each may have its own classes, mode and image size, as long as they have a label in common. A class that the two
spell in different ways, `Good` and `good`, is one class, under A's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from model_store.bundle.files import Bundle
from model_store.datasets.comparable import comparable
from model_store.datasets.dataset import Dataset
from model_store.datasets.image_loading import DecodeSettings
from model_store.engines.protocol import Engine
from model_store.evaluation.evaluate import DatasetPredictions, predict_dataset, seen_in_training
from model_store.evaluation.metrics import ScoredPredictions, compute_metrics, label_mask_of, score
from model_store.runtime.progress import ProgressSteps
from shared.arrays import Indices
from shared.errors import BadSetting
from shared.printable import printable
from shared.schemas import ModelRef

METRICS = ("accuracy", "exact_match", "macro_f1", "map", "ece", "uncertain", "sure_accuracy", "sure_exact_match")
CLASS_METRICS = ("precision", "recall", "f1", "average_precision")


@dataclass(frozen=True)
class ComparedModel:
    """One of the two models, its predictions, and their comparison with the true labels."""

    ref: ModelRef
    predictions: DatasetPredictions
    scored: ScoredPredictions
    seen: dict[str, int] | None

    @property
    def title(self) -> str:
        """NAME@VERSION (ENGINE)."""
        return f"{self.ref.name}@{self.ref.version} ({self.ref.engine})"

    def renamed(self, name_of: Mapping[str, str]) -> ComparedModel:
        """The same answers with other names of some classes."""

        def named(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(name_of.get(name, name) for name in names)

        policy = self.scored.policy
        changes = {
            "thresholds": {name_of.get(name, name): value for name, value in policy.thresholds.items()},
            "precedence": named(policy.precedence),
            "lanes": {name_of.get(name, name): lane for name, lane in policy.lanes.items()},
        }
        scored = replace(self.scored, classes=named(self.scored.classes), policy=policy.model_copy(update=changes))
        return replace(self, scored=scored)

    def answer(self, row: int) -> dict[str, Any]:
        """The answer for one image, in the form of `--json`."""
        scores = dict(zip(self.scored.classes, self.scored.probabilities[row].tolist(), strict=True))
        labels = sorted(self.scored.labels(row), key=lambda name: -scores[name])
        return {
            "labels": [{"label": name, "probability": scores[name]} for name in labels],
            "lane": self.scored.lanes[row],
            "uncertain": bool(self.scored.uncertain[row]),
            "right": bool(self.scored.correct[row]),
        }


@dataclass(frozen=True)
class Comparison:
    """Two models on the same N images. An answer is right if the decided labels are correct (`exact_match`)."""

    dataset: Dataset
    a: ComparedModel
    b: ComparedModel
    name_of: dict[str, str] = field(default_factory=dict)  # A's name of each class of B that is spelled otherwise

    @cached_property
    def shared(self) -> tuple[str, ...]:
        """The classes that both models have, in A's order."""
        return tuple(name for name in self.a.scored.classes if name in self.b.scored.classes)

    @cached_property
    def differing(self) -> Indices:
        """The rows of the images to which the models give different labels or lanes."""
        a, b = self.a.scored, self.b.scored
        rows = range(len(a.lanes))
        differ = [a.lanes[row] != b.lanes[row] or {*a.labels(row)} != {*b.labels(row)} for row in rows]
        return np.flatnonzero(differ)

    def as_dict(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        labels = {name for sample in self.a.predictions.samples for name in sample.labels}
        known = {*self.a.scored.classes, *self.b.scored.classes}
        return {
            "images": len(self.a.predictions.samples),
            "a": self.a.ref.model_dump() | {"seen_in_training": self.a.seen},
            "b": self.b.ref.model_dump() | {"seen_in_training": self.b.seen},
            "labels": {
                "shared": list(self.shared),
                "only_a": [name for name in self.a.scored.classes if name not in self.shared],
                "only_b": [name for name in self.b.scored.classes if name not in self.shared],
                "unknown_to_both": sorted(labels - known),
                "same": {ours: theirs for theirs, ours in self.name_of.items()},
            },
            "figures": self.metrics(),
            "per_class": self.per_class(),
            "right": self.count_correct(),
            "differences": [self.difference(int(row)) for row in self.differing],
            "unreadable": [item.as_dict() for item in self.a.predictions.unreadable],
        }

    def metrics(self) -> dict[str, dict[str, float | None]]:
        """{metric: {a, b, difference}}; macro F1 and mean average precision are over the shared classes."""
        both = [self._metrics_over_shared(side.scored) for side in (self.a, self.b)]
        return {name: _with_difference(both[0][name], both[1][name]) for name in METRICS}

    def per_class(self) -> dict[str, dict[str, Any]]:
        """{class: {metric: {a, b, difference}, images}}; None for a model that doesn't have the class."""
        a, b = (compute_metrics(side.scored)["per_class"] for side in (self.a, self.b))
        rows: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys((*a, *b)):
            of_a, of_b = a.get(name, {}), b.get(name, {})
            rows[name] = {metric: _with_difference(of_a.get(metric), of_b.get(metric)) for metric in CLASS_METRICS}
            rows[name]["images"] = (of_a or of_b)["support"]
        return rows

    def count_correct(self) -> dict[str, Any]:
        """How many images both, only one, or neither answered correctly, and McNemar's p-value."""
        a, b = self.a.scored.correct, self.b.scored.correct
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        return {
            "both": int((a & b).sum()),
            "only_a": only_a,
            "only_b": only_b,
            "neither": int((~a & ~b).sum()),
            "p_value": mcnemar(only_a, only_b),
        }

    def difference(self, row: int) -> dict[str, Any]:
        """One image with both answers, in the form of `--json`."""
        sample = self.a.predictions.samples[row]
        return {
            "file": printable(sample.name),
            "truth": list(sample.labels),
            "a": self.a.answer(row),
            "b": self.b.answer(row),
        }

    def _metrics_over_shared(self, scored: ScoredPredictions) -> dict[str, Any]:
        found = compute_metrics(scored)
        if len(self.shared) < len(scored.classes):
            columns = [scored.classes.index(name) for name in self.shared]
            shared = replace(
                scored,
                classes=self.shared,
                probabilities=scored.probabilities[:, columns],
                truth=scored.truth[:, columns],
                label_mask=scored.label_mask[:, columns],
                decided=scored.decided[:, columns],
            )
            found |= {name: value for name, value in compute_metrics(shared).items() if name in ("macro_f1", "map")}
        return found


def compare_versions(
    dataset: Dataset,
    a: tuple[Bundle, Engine],
    b: tuple[Bundle, Engine],
    *,
    max_batch: int,
    decode_settings: DecodeSettings,
    steps: ProgressSteps,
) -> Comparison:
    """Run both models on every image.

    An image with a label that a model doesn't know counts as wrong for that model.

    Raises:
        BadSetting: the two have no label in common, it is unclear which class of one is that of the other, or they
            can't read the same images.
        BadDataset: no usable image.
        EngineFailed: a model failed on a batch.
    """
    classes_a, classes_b = a[0].manifest.classes, b[0].manifest.classes
    name_of = _common_names(classes_a, classes_b)
    named_b = [name_of.get(name, name) for name in classes_b]
    if not {*classes_a} & {*named_b}:
        raise BadSetting(
            f"the two models have no label in common: one has {', '.join(classes_a)}, the other "
            f"{', '.join(classes_b)}. Compare versions that sort the same things."
        )
    run = partial(_compared_model, max_batch=max_batch, decode_settings=decode_settings, steps=steps)
    # A class that only B knows has B's name in the answers too.
    for_a, for_b = dataset.named_like(classes_a).named_like([*classes_a, *named_b]), dataset.named_like(classes_b)
    found = Comparison(for_a, run(for_a, *a), run(for_b, *b).renamed(name_of), name_of)
    names_a, names_b = ({sample.name for sample in side.predictions.samples} for side in (found.a, found.b))
    if differing := names_a ^ names_b:
        raise _different_images_error(
            sorted(map(printable, differing)),
            [decode_settings.for_model(bundle.manifest).sample_bits for bundle, _ in (a, b)],
        )
    return found


def _common_names(classes_a: Sequence[str], classes_b: Sequence[str]) -> dict[str, str]:
    """A's name of each class of B that A has in another spelling; names that both have stand for themselves."""
    only_a = [name for name in classes_a if name not in classes_b]
    only_b = [name for name in classes_b if name not in classes_a]
    name_of = {}
    for name in only_b:
        ours = [one for one in only_a if comparable(one) == comparable(name)]
        theirs = [one for one in only_b if comparable(one) == comparable(name)]
        if len(ours) > 1 or (ours and len(theirs) > 1):
            several, one = (ours, name) if len(ours) > 1 else (theirs, ours[0])
            raise BadSetting(
                f"it is unclear which of {' and '.join(map(repr, several))} of one model is {one!r} of the other, as "
                "these names differ only in case and separators. Train one of the models again with one class for them."
            )
        if ours:
            name_of[name] = ours[0]
    return name_of


def _different_images_error(names: list[str], sample_bits: list[int]) -> BadSetting:
    """The error for images that only one of two models could read; `sample_bits` are the two models'."""
    count = f"{len(names):,}"
    if sample_bits[0] == sample_bits[1]:
        return BadSetting(f"{count} files were changed while the two models ran, e.g. {names[0]}. Compare again.")
    a, b = (f"at {bits} bits per sample" if bits else "at the bits that each file shows" for bits in sample_bits)
    return BadSetting(
        f"the two models read 16-bit images {a} and {b}, and only one of them can read {count} of these, e.g. "
        f"{names[0]}. Set sample_bits to the number of bits that the camera gives."
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact McNemar p-value (McNemar 1947): a binomial test with probability 1/2.

    Args:
        only_a: images on which only model A is correct.
        only_b: images on which only model B is correct.
    """
    count, fewer = only_a + only_b, min(only_a, only_b)
    # In logarithms, because 2 ** -count underflows from 1,075 images on.
    log_ways = (math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(fewer + 1))
    tail = math.fsum(math.exp(log_way - count * math.log(2)) for log_way in log_ways)
    return min(1.0, 2 * tail)


def _compared_model(
    dataset: Dataset,
    bundle: Bundle,
    engine: Engine,
    *,
    max_batch: int,
    decode_settings: DecodeSettings,
    steps: ProgressSteps,
) -> ComparedModel:
    manifest, ref = bundle.manifest, bundle.ref(engine.name)
    what = f"Classifying with {ref.name}@{ref.version}"
    predictions = predict_dataset(
        dataset, bundle, engine, max_batch=max_batch, decode_settings=decode_settings, steps=steps, what=what
    )
    scored = score(
        predictions.probabilities,
        predictions.labels,
        classes=manifest.classes,
        mode=manifest.mode,
        policy=manifest.policy,
        label_mask=label_mask_of(dataset, predictions.samples, classes=manifest.classes, mode=manifest.mode),
        unknown_labels="wrong",
    )
    return ComparedModel(ref, predictions, scored, seen_in_training(predictions, bundle))


def _with_difference(a: float | None, b: float | None) -> dict[str, float | None]:
    return {"a": a, "b": b, "difference": None if a is None or b is None else round(b - a, 6)}
