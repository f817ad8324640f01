"""The tutorial's recipe and ours, side by side on the same splits. Called by `sortline models compare-recipes`.

In: a dataset and seeds. Out: figures fit for JSON. Publishes nothing, so images of held_out.txt take part.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.backbones.keras_graphs import Network, open_network
from model_store.backbones.resolve import DEFAULT_HANDLE, Backbone, resolve_backbone
from model_store.bundle.policy import Mode, Policy
from model_store.datasets.dataset import Dataset, Sample, load_dataset
from model_store.datasets.image_loading import Limits, Unreadable, decode_samples
from model_store.datasets.splitting import Split, split
from model_store.evaluation.metrics import evaluate
from model_store.runtime.progress import ProgressSteps, ignore_progress
from model_store.runtime.tensorflow_imports import import_keras
from model_store.training.feature_cache import FeatureExtractor, features_of
from model_store.training.feature_extractor import Sight, closed_box
from model_store.training.head import TUTORIAL, Examples, Head, activated, logits_of, targets_of, train_head
from model_store.training.prepared_data import Material, gather
from model_store.training.transfer import Wish, learn
from shared.errors import BadDataset

RECIPES = ("tutorial", "ours")
FIGURES = ("accuracy", "macro_f1", "map", "exact_match", "ece")


def compare_recipes(
    path: Path,
    seeds: Sequence[int],
    *,
    cache: Path,
    limits: Limits,
    backbone: str = DEFAULT_HANDLE,
    steps: ProgressSteps | None = None,
) -> dict[str, Any]:
    """Train and evaluate both recipes per mode and seed, on a stratified fifth by that seed.

    `single` takes the images with at most one label, `multi` all of them. Neither recipe sees the fifth before it is
    judged by it: the tutorial's takes its last epoch, ours chooses its epochs by a fifth of what it may train on.
    Thresholds are 0.5 and probabilities as the heads give them. Images are looked over and split as for training.

    Returns:
        {mode: {recipe: {figure: [one per seed], figure + "_mean": …}, "images": …, "unreadable": …, "excluded": …}},
        or {mode: {"untrainable": why}} for one that the dataset can't be trained in

    Raises:
        BadDataset: the dataset can't be trained on in either mode.
    """
    steps = steps or ProgressSteps()
    dataset = load_dataset(path)
    dataset = dataset.only(replace(sample, held_out=False) for sample in dataset.samples)
    kind: dict[str, Any] = {"cache": cache, "limits": limits, "steps": steps}
    kind["backbone"] = resolve_backbone(backbone, cache=cache, steps=steps)
    subsets: dict[Mode, Dataset] = {"single": _one_label(dataset), "multi": dataset}
    result: dict[str, Any] = {}
    refused: list[BadDataset] = []
    for mode, subset in subsets.items():
        try:
            result[mode] = _compare(_Trial.of(subset, mode, seed=seeds[0], **kind), seeds, steps=steps)
        except BadDataset as error:
            refused.append(error)
            result[mode] = {"untrainable": str(error)}
    if len(refused) == len(subsets):
        raise refused[0]
    return result


def time_head(
    path: Path, *, cache: Path, limits: Limits, seed: int, backbone: str = DEFAULT_HANDLE, steps: ProgressSteps
) -> dict[str, Any]:
    """The tutorial's head trained the tutorial's way, the base computed anew in every epoch, and on cached features.

    Both on the images with at most one label, frozen base, same split, same 25 epochs, one after the other. The
    features are computed within the cached way's time.

    Returns:
        recomputed_s, cached_s, ratio; head_s (the epochs alone), head_ratio; accuracy of both on the held-back fifth;
        the unreadable files.
    """
    resolved = resolve_backbone(backbone, cache=cache, steps=steps)
    dataset = _one_label(load_dataset(path))
    with steps.step("Reading the images", total=len(dataset.samples)) as on_progress:
        pictures = decode_samples(
            dataset.files, dataset.samples, size_px=resolved.input_size_px, limits=limits, on_progress=on_progress
        )
    labels = [sample.labels for sample in pictures.samples]
    targets = targets_of(labels, dataset.classes, "single")
    sight, chosen = closed_box(resolved), split(labels, seed=seed)
    with steps.step("Training on features computed once"):
        started = time.perf_counter()
        features = features_of(sight, pictures.images)
        computed_s = time.perf_counter() - started
        examples = [Examples(features[part], targets[part]) for part in chosen]
        kind: dict[str, Any] = {"classes": dataset.classes, "mode": "single", "settings": TUTORIAL, "seed": seed}
        head = train_head(*examples, on_progress=ignore_progress, **kind).head
        head_s = time.perf_counter() - started - computed_s
    with steps.step("Training with the base computed in every epoch"):
        started = time.perf_counter()
        recomputed = _fit_recomputing(sight, pictures.images, targets=targets, chosen=chosen, seed=seed)
        recomputed_s = time.perf_counter() - started
    truth = targets[chosen.validation].argmax(axis=1)
    accuracy = float((logits_of(head, features[chosen.validation]).argmax(axis=1) == truth).mean())
    return {
        "images": len(labels),
        "epochs": TUTORIAL.epochs,
        "recomputed_s": round(recomputed_s, 2),
        "cached_s": round(computed_s + head_s, 2),
        "ratio": round(recomputed_s / (computed_s + head_s), 1),
        "head_s": round(head_s, 2),
        "head_ratio": round(recomputed_s / head_s, 1),
        "accuracy_recomputed": round(recomputed, 4),
        "accuracy_cached": round(accuracy, 4),
        "unreadable": _named(pictures.unreadable),
    }


def _one_label(dataset: Dataset) -> Dataset:
    """The images with one label. A class that only occurs beside others is none of theirs."""
    alone = [sample for sample in dataset.samples if len(sample.labels) == 1]
    lost = {*_labels(dataset.samples)} - {*_labels(alone)}
    return replace(dataset.only(alone), classes=tuple(name for name in dataset.classes if name not in lost))


def _labels(samples: Iterable[Sample]) -> Iterator[str]:
    return (name for sample in samples for name in sample.labels)


def _named(unreadable: Iterable[Unreadable]) -> list[dict[str, str]]:
    return [{"file": item.name, "reason": item.reason} for item in unreadable]


def _fit_recomputing(
    sight: Sight, frames: NDArray[np.uint8], *, targets: NDArray[np.float32], chosen: Split, seed: int
) -> float:
    """The tutorial's cells: `Sequential([KerasLayer, Dense])`, `fit`. Its accuracy on the held-back fifth."""
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    (layer,) = sight.keep
    model = keras.Sequential([keras.Input(frames.shape[1:]), layer, keras.layers.Dense(targets.shape[1])])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(), loss=loss, metrics=["acc"])
    scaled = frames.astype(np.float32) / 255
    train, held_back = ((scaled[part], targets[part]) for part in chosen)
    fitted = model.fit(
        *train, validation_data=held_back, epochs=TUTORIAL.epochs, batch_size=TUTORIAL.batch_size, verbose=0
    )
    return float(fitted.history["val_acc"][-1])


def _compare(trial: _Trial, seeds: Sequence[int], *, steps: ProgressSteps) -> dict[str, Any]:
    material = trial.material
    result: dict[str, Any] = {
        "images": len(trial.rows),
        "seeds": list(seeds),
        "unreadable": _named(material.pictures.unreadable),
        "excluded": list(material.report.excluded),
    }
    for name in RECIPES:
        rows = []
        with steps.step(f"Recipe {name} ({material.mode})", total=len(seeds)) as on_progress:
            for seed in seeds:
                rows.append(trial.run(name, seed=seed))
                on_progress(1)
        result[name] = {figure: [row[figure] for row in rows] for figure in FIGURES}
        result[name] |= {f"{figure}_mean": round(float(np.mean(result[name][figure])), 4) for figure in FIGURES}
    return result


@dataclass(frozen=True)
class _Trial:
    """One subset in one mode: as training is given it, and `squashed`, the same frames as the backbone takes them."""

    material: Material
    squashed: NDArray[np.uint8]
    backbone: Backbone
    network: Network | None
    cache: Path

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        mode: Mode,
        *,
        backbone: Backbone,
        cache: Path,
        limits: Limits,
        seed: int,
        steps: ProgressSteps,
    ) -> _Trial:
        """Decode the images: once for a closed box, which both recipes show the same, else in two sizes.

        Raises:
            BadDataset: it can't be trained on.
        """
        network = open_network(backbone)
        kind: dict[str, Any] = {"backbone": backbone, "network": network, "limits": limits, "seed": seed}
        material = gather(dataset, mode, regions={}, cache=cache, steps=steps, **kind)
        pictures = material.pictures
        if network is not None:
            with steps.step(f"Reading the images again ({mode})", total=len(pictures.samples)) as on_progress:
                pictures = decode_samples(
                    dataset.files,
                    pictures.samples,
                    size_px=backbone.input_size_px,
                    limits=limits,
                    on_progress=on_progress,
                    scratch=cache,
                )
        return cls(material, pictures.images, backbone, network, cache)

    @property
    def rows(self) -> NDArray[np.intp]:
        """The pictures that may be used."""
        return np.sort(np.concatenate(self.material.split))

    @property
    def kind(self) -> dict[str, Any]:
        """What is told apart, and how."""
        return {"classes": self.material.classes, "mode": self.material.mode}

    def run(self, recipe: str, *, seed: int) -> dict[str, Any]:
        """The figures of `evaluate` for one recipe on one split."""
        material = self.material
        chosen = material.divided(self.rows, seed=seed)
        learnt = self._tutorial if recipe == "tutorial" else self._ours
        answers = activated(learnt(chosen, seed=seed), **self.kind)
        return evaluate(
            answers,
            material.labels(chosen.validation),
            policy=Policy.default(material.classes, material.mode),
            known=material.known(material.samples(chosen.validation)),
            **self.kind,
        )

    def _tutorial(self, chosen: Split, *, seed: int) -> NDArray[np.float32]:
        sight = closed_box(self.backbone)
        seen = FeatureExtractor(sight, cache=self.cache).features(self.squashed, on_progress=ignore_progress)
        train, held_back = (Examples(seen[part], self.material.frames(part).targets) for part in chosen)
        head: Head = train_head(
            train, held_back, settings=TUTORIAL, seed=seed, on_progress=ignore_progress, **self.kind
        ).head
        return logits_of(head, held_back.features)

    def _ours(self, chosen: Split, *, seed: int) -> NDArray[np.float32]:
        network = None if self.network is None else self.network.clone()  # tuning changes it
        train, validation = map(self.material.frames, self.material.divided(chosen.train, seed=seed))
        learnt = learn(
            self.backbone,
            network,
            train=train,
            validation=validation,
            wish=Wish(seed=seed),
            cache=self.cache,
            steps=ProgressSteps(),
            **self.kind,
        )
        return logits_of(learnt.head, features_of(learnt.sight, self.material.frames(chosen.validation).images))
