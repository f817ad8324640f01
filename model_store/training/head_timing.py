"""Times the training of a head on cached features. Called by `sortline models time-head`.

In: a dataset. Out: seconds and accuracies, fit for JSON.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model_store.backbones.resolve import DEFAULT_HANDLE, resolve_backbone
from model_store.datasets.dataset import Dataset
from model_store.datasets.image_loading import DecodeSettings
from model_store.datasets.splitting import Split, split
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.tensorflow_imports import import_keras
from model_store.training.feature_cache import extract_features
from model_store.training.feature_extractor import FeatureExtractor, opaque_extractor
from model_store.training.head import TUTORIAL, Examples, logits_of, targets_of, train_head
from model_store.training.recipe_data import Resources, one_label
from shared.arrays import Floats
from shared.images.arrays import Pixels
from shared.progress import ignore


def time_head(
    dataset: Dataset,
    *,
    cache: Path,
    decode_settings: DecodeSettings,
    seed: int,
    backbone: str = DEFAULT_HANDLE,
    insecure_http: bool = False,
    steps: ProgressSteps,
) -> dict[str, Any]:
    """Time two ways to train the plain recipe's head: run the backbone in every epoch, or compute features only once.

    Both use all images with exactly one label, a frozen backbone, the same split and the same 25 epochs, and run one
    after the other.

    Returns:
        recomputed_s; cached_s, which includes computing the features, and ratio; head_s, the epochs alone, and
        head_ratio; the accuracy of both ways on the held-back fifth; the unreadable files.
    """
    resolved = resolve_backbone(backbone, cache=cache, steps=steps, insecure_http=insecure_http)
    dataset = one_label(dataset)
    pictures = Resources(cache, decode_settings, steps).decode(
        dataset, dataset.samples, title="Reading the images", size_px=resolved.input_size_px, fit="stretch"
    )
    labels = [sample.labels for sample in pictures.samples]
    targets = targets_of(labels, dataset.classes, "single")
    extractor, parts = opaque_extractor(resolved), split(labels, seed=seed)
    with steps.step("Training on features computed once"):
        cached = _fit_cached(
            extractor, pictures.images, classes=dataset.classes, targets=targets, parts=parts, seed=seed
        )
    with steps.step("Training with the base computed in every epoch"):
        recomputed = _fit_recomputing(extractor, pictures.images, targets=targets, parts=parts, seed=seed)
    return {
        "images": len(labels),
        "epochs": TUTORIAL.epochs,
        **_figures(recomputed, cached),
        "unreadable": [item.as_dict() for item in pictures.unreadable],
    }


class _CachedRun(NamedTuple):
    """The held-back fifth's accuracy, and how long it took to compute the features and to train the head on them."""

    accuracy: float
    features_s: float
    head_s: float


class _RecomputedRun(NamedTuple):
    """The held-back fifth's accuracy, and how long all epochs took."""

    accuracy: float
    seconds: float


def _figures(recomputed: _RecomputedRun, cached: _CachedRun) -> dict[str, float]:
    recomputed_s = recomputed.seconds
    return {
        "recomputed_s": round(recomputed_s, 2),
        "cached_s": round(cached.features_s + cached.head_s, 2),
        "ratio": round(recomputed_s / (cached.features_s + cached.head_s), 1),
        "head_s": round(cached.head_s, 2),
        "head_ratio": round(recomputed_s / cached.head_s, 1),
        "accuracy_recomputed": round(recomputed.accuracy, 4),
        "accuracy_cached": round(cached.accuracy, 4),
    }


def _fit_cached(
    extractor: FeatureExtractor, frames: Pixels, *, classes: tuple[str, ...], targets: Floats, parts: Split, seed: int
) -> _CachedRun:
    started = time.perf_counter()
    features = extract_features(extractor, frames)
    computed_at = time.perf_counter()
    train, held_back = (Examples(features[part], targets[part]) for part in parts)
    head = train_head(
        train, held_back, classes=classes, mode="single", settings=TUTORIAL, seed=seed, on_progress=ignore
    ).head
    head_s = time.perf_counter() - computed_at
    correct = logits_of(head, held_back.features).argmax(axis=1) == held_back.targets.argmax(axis=1)
    return _CachedRun(float(correct.mean()), computed_at - started, head_s)


def _fit_recomputing(
    extractor: FeatureExtractor, frames: Pixels, *, targets: Floats, parts: Split, seed: int
) -> _RecomputedRun:
    """Train as tutorials do: `Sequential([KerasLayer, Dense])`, `fit`."""
    started = time.perf_counter()
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    (layer,) = extractor.tracked
    model = keras.Sequential([keras.Input(frames.shape[1:]), layer, keras.layers.Dense(targets.shape[1])])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(), loss=loss, metrics=["acc"])
    scaled = frames.astype(np.float32) / 255
    train, held_back = ((scaled[part], targets[part]) for part in parts)
    fitted = model.fit(
        *train, validation_data=held_back, epochs=TUTORIAL.epochs, batch_size=TUTORIAL.batch_size, verbose=0
    )
    return _RecomputedRun(float(fitted.history["val_acc"][-1]), time.perf_counter() - started)
