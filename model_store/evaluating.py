"""A published model measured on a dataset, through the decoder, engine and policy that workers use.

In: an opened bundle, an engine, a dataset. Out: the object that `sortline evaluate --json` prints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle import Bundle
from model_store.datasets import Dataset
from model_store.engines import Engine
from model_store.evaluation import evaluate
from model_store.pixels import decode_samples
from model_store.progress import Steps
from shared.errors import BadDataset

# Images decoded before they are run: some 40 MB, so that a dataset of any size can be measured.
_CHUNK = 256


def evaluate_dataset(
    dataset: Dataset, bundle: Bundle, engine: Engine, *, max_batch: int, steps: Steps
) -> dict[str, Any]:
    """The figures of `evaluation.evaluate`, which model made them, and the files that could not be read.

    Raises:
        BadDataset: no usable image, or a label that the model doesn't know.
        EngineFailed: the model failed on a batch.
    """
    manifest = bundle.manifest
    answers: list[NDArray[np.float32]] = []
    labels: list[tuple[str, ...]] = []
    unreadable: list[dict[str, str]] = []
    with steps.step("Classifying", total=len(dataset.samples)) as advance:
        for start in range(0, len(dataset.samples), _CHUNK):
            chunk = dataset.samples[start : start + _CHUNK]
            pictures = decode_samples(dataset.files, chunk, size_px=manifest.input_size_px, advance=advance)
            labels += [sample.labels for sample in pictures.samples]
            unreadable += [{"file": item.name, "reason": item.reason} for item in pictures.unreadable]
            answers += _answers(engine, pictures.images, max_batch=max_batch)
    if not answers:
        first = unreadable[0]
        raise BadDataset(
            f"{dataset.files.path} has no usable image: none of {len(unreadable):,} can be read; the first, "
            f"{first['file']}: {first['reason']}"
        )
    figures = evaluate(
        np.concatenate(answers), labels, classes=manifest.classes, mode=manifest.mode, policy=manifest.policy
    )
    return figures | {
        "model": bundle.ref(engine.name).model_dump(),
        "unreadable": unreadable,
        "unlabelled": list(dataset.unlabelled),
    }


def _answers(engine: Engine, images: NDArray[np.uint8], *, max_batch: int) -> list[NDArray[np.float32]]:
    return [engine.predict(images[start : start + max_batch]) for start in range(0, len(images), max_batch)]
