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
from model_store.datasets import Dataset, load_dataset
from model_store.evaluation import evaluate
from model_store.features import FeatureExtractor, looked_at
from model_store.fine_tuning import Frames
from model_store.networks import open_network
from model_store.pixels import decode_samples
from model_store.policy import GOOD, Mode, Policy
from model_store.progress import Steps
from model_store.publishing import features_of, frame_sizes
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
    one_label = dataset.only(sample for sample in dataset.samples if len(sample.labels) == 1)
    subsets: dict[Mode, Dataset] = {"single": one_label, "multi": dataset}
    return {mode: _compare(subset, mode, seeds, resolved, cache, steps) for mode, subset in subsets.items()}


def time_head(path: Path, *, cache: Path, seed: int, backbone: str = DEFAULT_HANDLE, steps: Steps) -> dict[str, Any]:
    """The tutorial's head trained the tutorial's way, the base computed anew in every epoch, and on cached features.

    Both on the images with at most one label, frozen base, same split, same 25 epochs, one after the other. The
    features are computed within the cached way's time.

    Returns:
        recomputed_s, cached_s, ratio; head_s (the epochs alone), head_ratio; accuracy of both on the held-back fifth.
    """
    dataset = load_dataset(path)
    resolved = resolve_backbone(backbone, cache=cache, steps=steps)
    one_label = dataset.only(sample for sample in dataset.samples if len(sample.labels) == 1)
    trial = _Trial.of(one_label, "single", resolved, cache, steps)
    chosen = split(trial.labels, seed=seed)
    sight = closed_box(resolved)
    targets = targets_of(trial.labels, trial.classes, "single")
    with steps.step("Training on features computed once"):
        started = time.perf_counter()
        features = features_of(sight, trial.squashed)
        computed_s = time.perf_counter() - started
        examples = [Examples(features[part], targets[part]) for part in chosen]
        kind: dict[str, Any] = {"classes": trial.classes, "mode": "single", "settings": TUTORIAL, "seed": seed}
        head = train_head(*examples, advance=_unwatched, **kind).head
        head_s = time.perf_counter() - started - computed_s
    with steps.step("Training with the base computed in every epoch"):
        started = time.perf_counter()
        recomputed = _fit_recomputing(sight, trial.squashed, targets, chosen, seed=seed)
        recomputed_s = time.perf_counter() - started
    truth = targets[chosen.validation].argmax(axis=1)
    accuracy = float((logits_of(head, features[chosen.validation]).argmax(axis=1) == truth).mean())
    return {
        "images": len(trial.labels),
        "epochs": TUTORIAL.epochs,
        "recomputed_s": round(recomputed_s, 2),
        "cached_s": round(computed_s + head_s, 2),
        "ratio": round(recomputed_s / (computed_s + head_s), 1),
        "head_s": round(head_s, 2),
        "head_ratio": round(recomputed_s / head_s, 1),
        "accuracy_recomputed": round(recomputed, 4),
        "accuracy_cached": round(accuracy, 4),
    }


def _fit_recomputing(
    sight: Sight, frames: NDArray[np.uint8], targets: NDArray[np.float32], chosen: Split, *, seed: int
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


def _compare(
    dataset: Dataset, mode: Mode, seeds: Sequence[int], backbone: Backbone, cache: Path, steps: Steps
) -> dict[str, Any]:
    trial = _Trial.of(dataset, mode, backbone, cache, steps)
    result: dict[str, Any] = {"images": len(trial.labels), "seeds": list(seeds)}
    for name in RECIPES:
        rows = []
        with steps.step(f"Recipe {name} ({mode})", total=len(seeds)) as advance:
            for seed in seeds:
                rows.append(trial.run(name, seed))
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
    cache: Path

    @classmethod
    def of(cls, dataset: Dataset, mode: Mode, backbone: Backbone, cache: Path, steps: Steps) -> _Trial:
        size_px = frame_size_px(frame_sizes(dataset.files, dataset.samples))
        with steps.step(f"Reading the images ({mode})", total=2 * len(dataset.samples)) as advance:
            squashed = decode_samples(dataset.files, dataset.samples, size_px=backbone.input_size_px, advance=advance)
            frames = decode_samples(dataset.files, dataset.samples, size_px=size_px, fit="pad", advance=advance)
        classes = tuple(sorted({*dataset.classes, GOOD})) if mode == "multi" else dataset.classes
        labels = [sample.labels for sample in squashed.samples]
        return cls(mode, classes, labels, squashed.images, frames.images, backbone, cache)

    def run(self, recipe: str, seed: int) -> dict[str, Any]:
        """The figures of `evaluate` for one recipe on one split."""
        chosen = split(self.labels, seed=seed)
        targets = targets_of(self.labels, self.classes, self.mode)
        learnt = self._tutorial if recipe == "tutorial" else self._ours
        logits = learnt(chosen, targets, seed)
        truth = [self.labels[index] for index in chosen.validation]
        kind: dict[str, Any] = {"classes": self.classes, "mode": self.mode}
        policy = Policy.default(self.classes, self.mode)
        return evaluate(activated(logits, **kind), truth, policy=policy, **kind)

    def _tutorial(self, chosen: Split, targets: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        sight = closed_box(self.backbone)
        seen = FeatureExtractor(sight, cache=self.cache).features(looked_at(sight, self.squashed), advance=_unwatched)
        train, held_back = (Examples(seen[part], targets[part]) for part in chosen)
        kind: dict[str, Any] = {"classes": self.classes, "mode": self.mode, "settings": TUTORIAL, "seed": seed}
        head: Head = train_head(train, held_back, advance=_unwatched, **kind).head
        return logits_of(head, held_back.features)

    def _ours(self, chosen: Split, targets: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
        network = open_network(self.backbone)
        images = self.squashed if network is None else self.frames
        inner = split([self.labels[index] for index in chosen.train], seed=seed)
        rows = (chosen.train[part] for part in inner)
        train, validation = (Frames(images[part], targets[part]) for part in rows)
        kind: dict[str, Any] = {"classes": self.classes, "mode": self.mode, "cache": self.cache, "steps": Steps()}
        learnt = learn(self.backbone, network, train, validation, wish=Wish(seed=seed), **kind)
        return logits_of(learnt.head, features_of(learnt.sight, images[chosen.validation]))


def _unwatched(_: int) -> None:
    """Progress is shown by the split, not by the epoch."""
