"""Compares the plain recipe with Sortline's on the same splits. Called by `sortline models compare-recipes`.

The plain recipe is that of tutorials on TF-Hub: a frozen backbone and one dense layer, 25 epochs.

In: a dataset and seeds. Out: metrics fit for JSON. Publishes nothing, so the images of held_out.txt are used too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from model_store.backbones.keras_graphs import Network, open_network
from model_store.backbones.resolve import DEFAULT_HANDLE, Backbone, resolve_backbone
from model_store.bundle.policy import Mode, Policy
from model_store.datasets.dataset import Dataset, Sample, load_dataset
from model_store.datasets.image_loading import DecodedSamples, DecodeSettings, decode_samples
from model_store.datasets.splitting import Split, split
from model_store.evaluation.metrics import evaluate
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.tensorflow_imports import import_keras
from model_store.training.feature_cache import FeatureCache, extract_features
from model_store.training.feature_extractor import FeatureExtractor, opaque_extractor
from model_store.training.head import TUTORIAL, Examples, logits_of, probabilities_of, targets_of, train_head
from model_store.training.plan import TransferOptions
from model_store.training.prepared_data import PreparedData
from model_store.training.transfer import train_model
from shared.arrays import Floats, Indices
from shared.errors import BadDataset
from shared.images.arrays import Pixels
from shared.printable import printable
from shared.progress import ignore

# By the name in the results: the name for people.
RECIPES = {"tutorial": "plain", "ours": "Sortline's"}
METRICS = ("accuracy", "macro_f1", "map", "exact_match", "ece")


def compare_recipes(
    path: Path,
    seeds: Sequence[int],
    *,
    cache: Path,
    decode_settings: DecodeSettings,
    backbone: str = DEFAULT_HANDLE,
    insecure_http: bool = False,
    steps: ProgressSteps | None = None,
) -> dict[str, Any]:
    """Train both recipes for each mode and seed, and evaluate them on a stratified fifth that the seed chooses.

    `single` uses the images with exactly one label, `multi` all of them. Neither recipe sees the fifth before it is
    evaluated on it: the plain recipe keeps its last epoch, and Sortline's chooses its epoch on a fifth of its images.
    Thresholds are 0.5, and probabilities are not calibrated. Images are checked and split as for training.

    Returns:
        {mode: {recipe: {metric: [one per seed], metric + "_mean": …}, "images": …, "unreadable": …, "excluded": …}},
        or {mode: {"untrainable": reason}} for a mode that the dataset can't be trained in.

    Raises:
        BadDataset: the dataset can't be trained on in either mode.
    """
    steps = steps or ProgressSteps()
    dataset = load_dataset(path)
    dataset = dataset.with_samples(replace(sample, held_out=False) for sample in dataset.samples)
    resolved = resolve_backbone(backbone, cache=cache, steps=steps, insecure_http=insecure_http)
    subsets: dict[Mode, Dataset] = {"single": _one_label(dataset), "multi": dataset}
    result: dict[str, Any] = {}
    refused: list[BadDataset] = []
    for mode, subset in subsets.items():
        try:
            experiment = _Experiment.prepare(
                subset,
                mode,
                backbone=resolved,
                cache=cache,
                decode_settings=decode_settings,
                seed=seeds[0],
                steps=steps,
            )
            result[mode] = _compare(experiment, seeds, steps=steps)
        except BadDataset as error:
            refused.append(error)
            result[mode] = {"untrainable": str(error)}
    if len(refused) == len(subsets):
        raise refused[0]
    return result


def time_head(
    path: Path,
    *,
    cache: Path,
    decode_settings: DecodeSettings,
    seed: int,
    backbone: str = DEFAULT_HANDLE,
    insecure_http: bool = False,
    steps: ProgressSteps,
) -> dict[str, Any]:
    """Time two ways to train the plain recipe's head: run the backbone in every epoch, or compute features only once.

    Both use the images with exactly one label, a frozen backbone, the same split and the same 25 epochs, and run one
    after the other.

    Returns:
        recomputed_s; cached_s, which includes computing the features, and ratio; head_s, the epochs alone, and
        head_ratio; the accuracy of both ways on the held-back fifth; the unreadable files.
    """
    resolved = resolve_backbone(backbone, cache=cache, steps=steps, insecure_http=insecure_http)
    dataset = _one_label(load_dataset(path))
    pictures = _read(dataset, size_px=resolved.input_size_px, decode_settings=decode_settings, steps=steps)
    labels = [sample.labels for sample in pictures.samples]
    targets = targets_of(labels, dataset.classes, "single")
    extractor, parts = opaque_extractor(resolved), split(labels, seed=seed)
    with steps.step("Training on features computed once"):
        started = time.perf_counter()
        features = extract_features(extractor, pictures.images)
        computed_s = time.perf_counter() - started
        train, held_back = (Examples(features[part], targets[part]) for part in parts)
        head = train_head(
            train,
            held_back,
            classes=dataset.classes,
            mode="single",
            settings=TUTORIAL,
            seed=seed,
            on_progress=ignore,
        ).head
        head_s = time.perf_counter() - started - computed_s
    with steps.step("Training with the base computed in every epoch"):
        started = time.perf_counter()
        accuracy_recomputed = _fit_recomputing(extractor, pictures.images, targets=targets, parts=parts, seed=seed)
        recomputed_s = time.perf_counter() - started
    correct = logits_of(head, held_back.features).argmax(axis=1) == held_back.targets.argmax(axis=1)
    return {
        "images": len(labels),
        "epochs": TUTORIAL.epochs,
        "recomputed_s": round(recomputed_s, 2),
        "cached_s": round(computed_s + head_s, 2),
        "ratio": round(recomputed_s / (computed_s + head_s), 1),
        "head_s": round(head_s, 2),
        "head_ratio": round(recomputed_s / head_s, 1),
        "accuracy_recomputed": round(accuracy_recomputed, 4),
        "accuracy_cached": round(float(correct.mean()), 4),
        "unreadable": [item.as_dict() for item in pictures.unreadable],
    }


def _read(dataset: Dataset, *, size_px: int, decode_settings: DecodeSettings, steps: ProgressSteps) -> DecodedSamples:
    with steps.step("Reading the images", total=len(dataset.samples)) as on_progress:
        return decode_samples(
            dataset.files,
            dataset.samples,
            size_px=size_px,
            decode_settings=decode_settings,
            on_progress=on_progress,
        )


def _one_label(dataset: Dataset) -> Dataset:
    """The images with exactly one label, without the classes that only occur together with others."""
    alone = [sample for sample in dataset.samples if len(sample.labels) == 1]
    lost = {*_labels(dataset.samples)} - {*_labels(alone)}
    return replace(dataset.with_samples(alone), classes=tuple(name for name in dataset.classes if name not in lost))


def _labels(samples: Iterable[Sample]) -> Iterator[str]:
    return (name for sample in samples for name in sample.labels)


def _fit_recomputing(extractor: FeatureExtractor, frames: Pixels, *, targets: Floats, parts: Split, seed: int) -> float:
    """Train as tutorials do: `Sequential([KerasLayer, Dense])`, `fit`. Returns the held-back fifth's accuracy."""
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
    return float(fitted.history["val_acc"][-1])


def _compare(experiment: _Experiment, seeds: Sequence[int], *, steps: ProgressSteps) -> dict[str, Any]:
    data = experiment.data
    result: dict[str, Any] = {
        "images": len(experiment.rows),
        "seeds": list(seeds),
        "unreadable": [item.as_dict() for item in data.pictures.unreadable],
        "excluded": list(map(printable, data.report.excluded)),
    }
    for name, title in RECIPES.items():
        rows = []
        with steps.step(f"{title} recipe ({data.mode})", total=len(seeds)) as on_progress:
            for seed in seeds:
                rows.append(experiment.run(name, seed=seed))
                on_progress(1)
        result[name] = {metric: [row[metric] for row in rows] for metric in METRICS}
        result[name] |= {f"{metric}_mean": round(float(np.mean(result[name][metric])), 4) for metric in METRICS}
    return result


@dataclass(frozen=True)
class _Experiment:
    """One mode's images: `data`, prepared as for training, and `squashed`, the same for the plain recipe's backbone."""

    data: PreparedData
    squashed: Pixels
    backbone: Backbone
    network: Network | None
    cache: Path

    @classmethod
    def prepare(
        cls,
        dataset: Dataset,
        mode: Mode,
        *,
        backbone: Backbone,
        cache: Path,
        decode_settings: DecodeSettings,
        seed: int,
        steps: ProgressSteps,
    ) -> _Experiment:
        """Decode the images: once for an opaque module, where both recipes use the same pixels, else in two sizes.

        Raises:
            BadDataset: the dataset can't be trained on.
        """
        network = open_network(backbone)
        data = PreparedData.prepare(
            dataset,
            mode,
            backbone=backbone,
            network=network,
            regions={},
            decode_settings=decode_settings,
            seed=seed,
            cache=cache,
            steps=steps,
        )
        pictures = data.pictures
        if network is not None:
            with steps.step(f"Reading the images again ({mode})", total=len(pictures.samples)) as on_progress:
                pictures = decode_samples(
                    dataset.files,
                    pictures.samples,
                    size_px=backbone.input_size_px,
                    decode_settings=decode_settings,
                    on_progress=on_progress,
                    scratch=cache,
                )
        return cls(data, pictures.images, backbone, network, cache)

    @property
    def rows(self) -> Indices:
        """The rows of `data.pictures` that may be used."""
        return np.sort(np.concatenate(self.data.split))

    def run(self, recipe: str, *, seed: int) -> dict[str, Any]:
        """The metrics of `evaluate` for one recipe on one split."""
        data = self.data
        parts = data.split_rows(self.rows, seed=seed)
        train_and_predict = self._tutorial_logits if recipe == "tutorial" else self._our_logits
        return evaluate(
            probabilities_of(train_and_predict(parts, seed=seed), classes=data.classes, mode=data.mode),
            data.labels(parts.validation),
            classes=data.classes,
            mode=data.mode,
            policy=Policy.default(data.classes, data.mode),
            label_mask=data.label_mask(data.samples(parts.validation)),
        )

    def _tutorial_logits(self, parts: Split, *, seed: int) -> Floats:
        """Logits of the validation images by the plain recipe."""
        cache = FeatureCache(opaque_extractor(self.backbone), cache=self.cache)
        features = cache.features(self.squashed, on_progress=ignore)
        train, held_back = (Examples(features[part], self.data.frames(part).targets) for part in parts)
        result = train_head(
            train,
            held_back,
            classes=self.data.classes,
            mode=self.data.mode,
            settings=TUTORIAL,
            seed=seed,
            on_progress=ignore,
        )
        return logits_of(result.head, held_back.features)

    def _our_logits(self, parts: Split, *, seed: int) -> Floats:
        """Logits of the validation images by our recipe."""
        network = None if self.network is None else self.network.clone()  # fine-tuning changes it
        train, validation = map(self.data.frames, self.data.split_rows(parts.train, seed=seed))
        model = train_model(
            self.backbone,
            network,
            train=train,
            validation=validation,
            classes=self.data.classes,
            mode=self.data.mode,
            options=TransferOptions(seed=seed),
            cache=self.cache,
            steps=ProgressSteps(),
        )
        return logits_of(model.head, extract_features(model.extractor, self.data.frames(parts.validation).images))
