"""A published model measured on a dataset, through the decoder, engine and policy that workers use.

In: an opened bundle, an engine, a dataset. Out: its answers, or the object that `sortline evaluate --json` prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.files import Bundle
from model_store.bundle.training_digests import read_trained_on
from model_store.datasets.dataset import Dataset, Sample
from model_store.datasets.image_loading import Limits, Unreadable, decode_samples
from model_store.engines.loading import Engine
from model_store.evaluation.metrics import check_known, evaluate, known_truth
from model_store.runtime.progress import ProgressSteps
from shared.errors import BadDataset

# Images decoded before they are run: some 40 MB, so that a dataset of any size can be measured.
_CHUNK = 256


@dataclass(frozen=True)
class Answered:
    """What a model answered for every usable image of a dataset.

    `samples`, `digests` (SHA-256 of the files) and the rows of `probabilities`, float32 [N, C], belong together.
    """

    samples: tuple[Sample, ...]
    digests: tuple[str, ...]
    probabilities: NDArray[np.float32]
    unreadable: tuple[Unreadable, ...]

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """The true labels of each image."""
        return [sample.labels for sample in self.samples]


def answer_dataset(
    dataset: Dataset,
    bundle: Bundle,
    engine: Engine,
    *,
    max_batch: int,
    limits: Limits,
    steps: ProgressSteps,
    what: str = "Classifying",
) -> Answered:
    """Run every image of the dataset through the model; `what` names the step to whoever watches.

    Raises:
        BadDataset: no usable image.
        EngineFailed: the model failed on a batch.
    """
    manifest = bundle.manifest
    samples: list[Sample] = []
    digests: list[str] = []
    answers: list[NDArray[np.float32]] = []
    unreadable: list[Unreadable] = []
    with steps.step(what, total=len(dataset.samples)) as on_progress:
        for start in range(0, len(dataset.samples), _CHUNK):
            chunk = dataset.samples[start : start + _CHUNK]
            pictures = decode_samples(
                dataset.files,
                chunk,
                size_px=manifest.input_size_px,
                limits=limits,
                fit=manifest.fit,
                regions=manifest.regions,
                on_progress=on_progress,
            )
            samples += pictures.samples
            digests += pictures.digests
            unreadable += pictures.unreadable
            answers += _answers(engine, pictures.images, max_batch=max_batch)
    if not answers:
        raise BadDataset(
            f"{dataset.files.path} has no usable image: none of {len(unreadable):,} can be read; the first, "
            f"{unreadable[0].name}: {unreadable[0].reason}"
        )
    return Answered(tuple(samples), tuple(digests), np.concatenate(answers), tuple(unreadable))


def evaluate_dataset(
    dataset: Dataset, bundle: Bundle, engine: Engine, *, max_batch: int, limits: Limits, steps: ProgressSteps
) -> dict[str, Any]:
    """The figures of `evaluation.evaluate`, which model made them, and the files that could not be read.

    `seen_in_training` counts the images that this version was trained on or chosen by (`train`, `validation`):
    figures with such images flatter it. None where the bundle doesn't say.

    Raises:
        BadDataset: no usable image, or a label that the model doesn't know.
        EngineFailed: the model failed on a batch.
    """
    manifest = bundle.manifest
    check_known((sample.labels for sample in dataset.samples), manifest.classes)  # not after an hour of classifying
    answered = answer_dataset(dataset, bundle, engine, max_batch=max_batch, limits=limits, steps=steps)
    figures = evaluate(
        answered.probabilities,
        answered.labels,
        classes=manifest.classes,
        mode=manifest.mode,
        policy=manifest.policy,
        known=known_truth(dataset, answered.samples, classes=manifest.classes, mode=manifest.mode),
    )
    return figures | {
        "model": bundle.ref(engine.name).model_dump(),
        "seen_in_training": seen_in_training(answered, bundle),
        "unreadable": [{"file": item.name, "reason": item.reason} for item in answered.unreadable],
        "unlabelled": list(dataset.unlabelled),
    }


def seen_in_training(answered: Answered, bundle: Bundle) -> dict[str, int] | None:
    """How many of the images the version was trained on or chosen by; None where the bundle doesn't say."""
    trained_on = read_trained_on(bundle.path)
    return None if trained_on is None else trained_on.seen(answered.digests)


def seen_warning(seen: dict[str, int] | None, *, images: int) -> str | None:
    """What to tell whoever reads the figures, or None when there is nothing to tell."""
    if seen is None or not any(seen.values()):
        return None
    return (
        f"of these {images:,} images the model was trained on {seen['train']:,} and chosen by {seen['validation']:,}: "
        "the figures flatter it. Measure on images it never saw (--held-out, or another dataset)."
    )


def _answers(engine: Engine, images: NDArray[np.uint8], *, max_batch: int) -> list[NDArray[np.float32]]:
    return [engine.predict(images[start : start + max_batch]) for start in range(0, len(images), max_batch)]
