"""The tutorial's recipe and ours, side by side on the same splits. Called by `sortline models compare-recipes`.

In: a dataset and seeds. Out: figures fit for JSON. Publishes nothing, so images of held_out.txt take part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.backbones import DEFAULT_HANDLE, resolve_backbone
from model_store.datasets import Dataset, load_dataset
from model_store.evaluation import evaluate
from model_store.features import FeatureExtractor
from model_store.pixels import decode_samples
from model_store.policy import GOOD, Mode, Policy
from model_store.progress import Steps
from model_store.publishing import examples
from model_store.split import split
from model_store.training import TUTORIAL, HeadSettings, probabilities, targets_of, train_head

RECIPES = {"tutorial": TUTORIAL, "ours": HeadSettings()}
FIGURES = ("accuracy", "macro_f1", "exact_match", "ece")


def compare_recipes(
    path: Path,
    seeds: Sequence[int],
    *,
    cache: Path,
    backbone: str = DEFAULT_HANDLE,
    steps: Steps | None = None,
) -> dict[str, Any]:
    """Train and evaluate both recipes per mode and seed, on a stratified fifth by that seed.

    `single` takes the images with at most one label, `multi` all of them.

    Returns:
        {mode: {recipe: {figure: [one per seed], figure + "_mean": …}, "images": …}}
    """
    steps = steps or Steps()
    dataset = load_dataset(path)
    extractor = FeatureExtractor(resolve_backbone(backbone, cache=cache, steps=steps), cache=cache)
    one_label = dataset.only(sample for sample in dataset.samples if len(sample.labels) == 1)
    subsets: dict[Mode, Dataset] = {"single": one_label, "multi": dataset}
    return {mode: _compare(subset, mode, seeds, extractor, steps) for mode, subset in subsets.items()}


def _compare(
    dataset: Dataset, mode: Mode, seeds: Sequence[int], extractor: FeatureExtractor, steps: Steps
) -> dict[str, Any]:
    with steps.step(f"Reading the images ({mode})", total=len(dataset.samples)) as advance:
        size_px = extractor.backbone.input_size_px
        pictures = decode_samples(dataset.files, dataset.samples, size_px=size_px, advance=advance)
    labels = [sample.labels for sample in pictures.samples]
    classes = tuple(sorted({*dataset.classes, GOOD})) if mode == "multi" else dataset.classes
    trial = _Trial(mode, classes, labels, pictures.images, targets_of(labels, classes, mode), extractor)
    result: dict[str, Any] = {"images": len(labels), "seeds": list(seeds)}
    for name, settings in RECIPES.items():
        rows = []
        with steps.step(f"Recipe {name} ({mode})", total=len(seeds)) as advance:
            for seed in seeds:
                rows.append(trial.run(settings, seed))
                advance(1)
        result[name] = {figure: [row[figure] for row in rows] for figure in FIGURES}
        result[name] |= {f"{figure}_mean": round(float(np.mean(result[name][figure])), 4) for figure in FIGURES}
    return result


@dataclass(frozen=True)
class _Trial:
    """One subset in one mode; `images` is uint8 [N, S, S, 3], `targets` float32 [N, outputs]."""

    mode: Mode
    classes: tuple[str, ...]
    labels: list[tuple[str, ...]]
    images: NDArray[np.uint8]
    targets: NDArray[np.float32]
    extractor: FeatureExtractor

    def run(self, settings: HeadSettings, seed: int) -> dict[str, Any]:
        """The figures of `evaluate` for one recipe on one split."""
        chosen = split(self.labels, seed=seed)
        kind: dict[str, Any] = {"classes": self.classes, "mode": self.mode}
        train, validation = examples(
            self.images, self.targets, chosen, settings=settings, extractor=self.extractor, advance=_unwatched
        )
        head, _ = train_head(train, validation, settings=settings, seed=seed, advance=_unwatched, **kind)
        truth = [self.labels[index] for index in chosen.validation]
        answers = probabilities(head, validation.features)
        return evaluate(answers, truth, policy=Policy.default(self.classes, self.mode), **kind)


def _unwatched(_: int) -> None:
    """Progress is shown by the split, not by the epoch."""
