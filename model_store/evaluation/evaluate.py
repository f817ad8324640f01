"""Evaluates a published model on a dataset, with the decoder, engine and policy that workers use.

In: an opened bundle, an engine, a dataset. Out: its predictions, or the object that `sortline evaluate --json` prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from model_store.bundle.files import Bundle
from model_store.bundle.training_digests import read_training_digests
from model_store.datasets.dataset import Dataset, Sample
from model_store.datasets.image_loading import DecodeSettings, Unreadable, decode_samples
from model_store.engines.protocol import Engine
from model_store.evaluation.metrics import check_labels_known, evaluate, label_mask_of
from model_store.runtime.progress import ProgressSteps
from shared.arrays import Floats
from shared.errors import BadDataset
from shared.images.arrays import Pixels

# Images that are decoded at a time: about 40 MB, so that a dataset of any size can be evaluated.
_CHUNK_IMAGES = 256


@dataclass(frozen=True)
class DatasetPredictions:
    """The probabilities of a model for every usable image of a dataset.

    `samples`, `digests` (SHA-256 of the files) and the rows of `probabilities`, float32 [N, C], belong together.
    """

    samples: tuple[Sample, ...]
    digests: tuple[str, ...]
    probabilities: Floats
    unreadable: tuple[Unreadable, ...]

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """The true labels of each image."""
        return [sample.labels for sample in self.samples]


def predict_dataset(
    dataset: Dataset,
    bundle: Bundle,
    engine: Engine,
    *,
    max_batch: int,
    decode_settings: DecodeSettings,
    steps: ProgressSteps,
    what: str = "Classifying",
) -> DatasetPredictions:
    """Run every image of the dataset through the model; `what` names the step in the progress display.

    Raises:
        BadDataset: no usable image.
        EngineFailed: the model failed on a batch.
    """
    manifest = bundle.manifest
    samples: list[Sample] = []
    digests: list[str] = []
    probabilities: list[Floats] = []
    unreadable: list[Unreadable] = []
    with steps.step(what, total=len(dataset.samples)) as on_progress:
        for start in range(0, len(dataset.samples), _CHUNK_IMAGES):
            chunk = dataset.samples[start : start + _CHUNK_IMAGES]
            decoded = decode_samples(
                dataset.files,
                chunk,
                size_px=manifest.input_size_px,
                decode_settings=decode_settings.for_model(manifest),
                fit=manifest.fit,
                regions=manifest.regions,
                on_progress=on_progress,
            )
            samples += decoded.samples
            digests += decoded.digests
            unreadable += decoded.unreadable
            probabilities += _predict(engine, decoded.images, max_batch=max_batch)
    if not probabilities:
        raise BadDataset(
            f"{dataset.files.path} has no usable image: none of {len(unreadable):,} can be read. The first is "
            f"{unreadable[0].name}: {unreadable[0].reason}"
        )
    return DatasetPredictions(tuple(samples), tuple(digests), np.concatenate(probabilities), tuple(unreadable))


def evaluate_dataset(
    dataset: Dataset,
    bundle: Bundle,
    engine: Engine,
    *,
    max_batch: int,
    decode_settings: DecodeSettings,
    steps: ProgressSteps,
) -> dict[str, Any]:
    """The metrics of `metrics.evaluate`, the model, and the files that could not be read.

    `seen_in_training` counts the images that this version was trained on (`train`) or validated with (`validation`),
    because they make the metrics too optimistic. None if the bundle doesn't say.

    Raises:
        BadDataset: no usable image, or a label that the model doesn't know.
        EngineFailed: the model failed on a batch.
    """
    manifest = bundle.manifest
    # Checked before the images are classified, which may take an hour.
    check_labels_known((sample.labels for sample in dataset.samples), manifest.classes)
    predictions = predict_dataset(
        dataset, bundle, engine, max_batch=max_batch, decode_settings=decode_settings, steps=steps
    )
    metrics = evaluate(
        predictions.probabilities,
        predictions.labels,
        classes=manifest.classes,
        mode=manifest.mode,
        policy=manifest.policy,
        label_mask=label_mask_of(dataset, predictions.samples, classes=manifest.classes, mode=manifest.mode),
    )
    return metrics | {
        "model": bundle.ref(engine.name).model_dump(),
        "seen_in_training": seen_in_training(predictions, bundle),
        "unreadable": [item.as_dict() for item in predictions.unreadable],
        "unlabelled": list(dataset.unlabelled),
    }


def seen_in_training(predictions: DatasetPredictions, bundle: Bundle) -> dict[str, int] | None:
    """How many of the images were training or validation images of the version; None if the bundle doesn't say."""
    training = read_training_digests(bundle.path)
    return None if training is None else training.count_seen(predictions.digests)


def seen_warning(seen: dict[str, int] | None, *, images: int) -> str | None:
    """A warning that the model has seen some of these images, or None."""
    if seen is None or not any(seen.values()):
        return None
    return (
        f"the model was trained on {seen['train']:,} of these {images:,} images and validated on "
        f"{seen['validation']:,}, so the metrics are too optimistic. Measure on images that it has never seen "
        "(--held-out, or another dataset)."
    )


def _predict(engine: Engine, images: Pixels, *, max_batch: int) -> list[Floats]:
    return [engine.predict(images[start : start + max_batch]) for start in range(0, len(images), max_batch)]
