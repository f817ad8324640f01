"""The tutorial's recipe and ours, side by side on the same splits. Called by `sortline models compare-recipes`.

In: a dataset and seeds. Out: figures fit for JSON. Publishes nothing, so images of held_out.txt take part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.backbones import DEFAULT_HANDLE, Backbone, resolve_backbone
from model_store.batches import Chosen
from model_store.datasets import Dataset, load_dataset
from model_store.evaluation import evaluate
from model_store.features import FeatureExtractor, features_of
from model_store.fine_tuning import Frames
from model_store.material import frame_sizes
from model_store.networks import Network, open_network
from model_store.pixels import Limits, decode_samples
from model_store.policy import Mode, Policy
from model_store.progress import Steps
from model_store.sight import Sight, closed_box, frame_size_px
from model_store.split import Split, split
from model_store.tf import import_keras
from model_store.training import TUTORIAL, Examples, Head, activated, logits_of, targets_of, train_head
from model_store.transfer import Wish, learn

RECIPES = ("tutorial", "ours")
FIGURES = ("accuracy", "macro_f1", "map", "exact_match", "ece")


def compare_recipes(
    path: Path,
    seeds: Sequence[int],
    *,
    cache: Path,
    limits: Limits,
    backbone: str = DEFAULT_HANDLE,
    steps: Steps | None = None,
) -> dict[str, Any]:
    """Train and evaluate both recipes per mode and seed, on a stratified fifth by that seed.

    `single` takes the images with at most one label, `multi` all of them. Neither recipe sees the fifth before it is
    judged by it: the tutorial's takes its last epoch, ours chooses its epochs by a fifth of what it may train on.
    Thresholds are 0.5 and probabilities as the heads give them.

    Returns:
        {mode: {recipe: {figure: [one per seed], figure + "_mean": …}, "images": …}}
    """
    steps = steps or Steps()
    dataset = load_dataset(path)
    resolved = resolve_backbone(backbone, cache=cache, steps=steps)
    subsets: dict[Mode, Dataset] = {"single": _one_label(dataset), "multi": dataset}
    return {
        mode: _compare(
            _Trial.of(subset, mode, backbone=resolved, cache=cache, limits=limits, steps=steps), seeds, steps=steps
        )
        for mode, subset in subsets.items()
    }


def time_head(
    path: Path, *, cache: Path, limits: Limits, seed: int, backbone: str = DEFAULT_HANDLE, steps: Steps
) -> dict[str, Any]:
    """The tutorial's head trained the tutorial's way, the base computed anew in every epoch, and on cached features.

    Both on the images with at most one label, frozen base, same split, same 25 epochs, one after the other. The
    features are computed within the cached way's time.

    Returns:
        recomputed_s, cached_s, ratio; head_s (the epochs alone), head_ratio; accuracy of both on the held-back fifth.
    """
    resolved = resolve_backbone(backbone, cache=cache, steps=steps)
    dataset = _one_label(load_dataset(path))
    with steps.step("Reading the images", total=len(dataset.samples)) as advance:
        pictures = decode_samples(
            dataset.files, dataset.samples, size_px=resolved.input_size_px, limits=limits, advance=advance
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
        head = train_head(*examples, advance=_unwatched, **kind).head
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
    }


def _one_label(dataset: Dataset) -> Dataset:
    return dataset.only(sample for sample in dataset.samples if len(sample.labels) == 1)


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


def _compare(trial: _Trial, seeds: Sequence[int], *, steps: Steps) -> dict[str, Any]:
    result: dict[str, Any] = {"images": len(trial.labels), "seeds": list(seeds)}
    for name in RECIPES:
        rows = []
        with steps.step(f"Recipe {name} ({trial.mode})", total=len(seeds)) as advance:
            for seed in seeds:
                rows.append(trial.run(name, seed=seed))
                advance(1)
        result[name] = {figure: [row[figure] for row in rows] for figure in FIGURES}
        result[name] |= {f"{figure}_mean": round(float(np.mean(result[name][figure])), 4) for figure in FIGURES}
    return result


@dataclass(frozen=True)
class _Trial:
    """One subset in one mode. `squashed` are the frames as the backbone takes them, `frames` as our recipe does."""

    mode: Mode
    classes: tuple[str, ...]
    labels: list[tuple[str, ...]]
    squashed: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    backbone: Backbone
    network: Network | None
    cache: Path

    @classmethod
    def of(
        cls, dataset: Dataset, mode: Mode, *, backbone: Backbone, cache: Path, limits: Limits, steps: Steps
    ) -> _Trial:
        """Decode the images: once for a closed box, which both recipes show the same, else in two sizes."""
        files, samples, network = dataset.files, dataset.samples, open_network(backbone)
        total = len(samples) * (1 if network is None else 2)
        with steps.step(f"Reading the images ({mode})", total=total) as advance:
            squashed = decode_samples(files, samples, size_px=backbone.input_size_px, limits=limits, advance=advance)
            frames = squashed
            if network is not None:
                size_px = frame_size_px(frame_sizes(files, samples))
                frames = decode_samples(files, samples, size_px=size_px, limits=limits, fit="pad", advance=advance)
        labels = [sample.labels for sample in squashed.samples]
        classes = dataset.classes_for(mode)
        return cls(mode, classes, labels, squashed.images, frames.images, backbone, network, cache)

    def run(self, recipe: str, *, seed: int) -> dict[str, Any]:
        """The figures of `evaluate` for one recipe on one split."""
        chosen = split(self.labels, seed=seed)
        targets = targets_of(self.labels, self.classes, self.mode)
        learnt = self._tutorial if recipe == "tutorial" else self._ours
        logits = learnt(chosen, targets, seed=seed)
        truth = [self.labels[index] for index in chosen.validation]
        kind: dict[str, Any] = {"classes": self.classes, "mode": self.mode}
        policy = Policy.default(self.classes, self.mode)
        return evaluate(activated(logits, **kind), truth, policy=policy, **kind)

    def _tutorial(self, chosen: Split, targets: NDArray[np.float32], *, seed: int) -> NDArray[np.float32]:
        sight = closed_box(self.backbone)
        seen = FeatureExtractor(sight, cache=self.cache).features(self.squashed, advance=_unwatched)
        train, held_back = (Examples(seen[part], targets[part]) for part in chosen)
        kind: dict[str, Any] = {"classes": self.classes, "mode": self.mode, "settings": TUTORIAL, "seed": seed}
        head: Head = train_head(train, held_back, advance=_unwatched, **kind).head
        return logits_of(head, held_back.features)

    def _ours(self, chosen: Split, targets: NDArray[np.float32], *, seed: int) -> NDArray[np.float32]:
        network = None if self.network is None else self.network.clone()  # tuning changes it
        inner = split([self.labels[index] for index in chosen.train], seed=seed)
        parts = (chosen.train[part] for part in inner)
        train, validation = (Frames(Chosen(self.frames, rows), targets[rows]) for rows in parts)
        learnt = learn(
            self.backbone,
            network,
            train=train,
            validation=validation,
            classes=self.classes,
            mode=self.mode,
            wish=Wish(seed=seed),
            cache=self.cache,
            steps=Steps(),
        )
        return logits_of(learnt.head, features_of(learnt.sight, Chosen(self.frames, chosen.validation)))


def _unwatched(_: int) -> None:
    """Progress is shown by the split, not by the epoch."""
