"""Compares recipes for training. Called by `sortline models compare-recipes`.

In: a dataset to learn from, recipes and seeds, and perhaps another dataset to judge by. Out: metrics fit for JSON.

    without another dataset   each seed chooses a stratified fifth to judge by, which no recipe sees before. Thresholds
                              are 0.5, and probabilities are not calibrated. The images of held_out.txt, test/ and
                              valid/ are used like all others
    with another dataset      each recipe makes the model that `sortline train` would publish: epoch, calibration and
                              thresholds are chosen on the dataset's own validation split, or on a fifth of the images
                              to learn from. All usable images of the other dataset judge it, and serve for nothing else

Frames of one belt have its light, its camera and its bottles in common, so a fifth of them promises more than another
belt keeps. Publishes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_store.backbones.keras_graphs import open_network
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.backbones.sources import layers_of
from model_store.backbones.tuned_layers import TunedLayers
from model_store.bundle.policy import Mode
from model_store.bundle.training_digests import count_among
from model_store.datasets.audit import DatasetReport
from model_store.datasets.dataset import Dataset
from model_store.datasets.image_loading import DecodedSamples, DecodeSettings
from model_store.runtime.progress import ProgressSteps
from model_store.training.comparison_metrics import (
    CLASS_METRICS,
    METRICS,
    JudgedFacts,
    ModeFacts,
    TrainingMetrics,
    TunedImages,
    Unreadable,
)
from model_store.training.comparison_record import ComparisonRecord, FinishedTraining
from model_store.training.prepared_data import PreparedData
from model_store.training.recipe_data import (
    Judged,
    Resources,
    audit_for_comparison,
    dataset_fingerprint,
    excluded_reasons,
    judged_dataset,
    mode_subset,
    split_off_fifth,
    without_splits,
)
from model_store.training.recipe_training import RecipeTrainer
from model_store.training.recipes import Recipe
from shared.errors import BadDataset
from shared.printable import printable


@dataclass(frozen=True)
class ComparisonOptions:
    """What is compared. `out`: the file of finished trainings."""

    recipes: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    modes: tuple[Mode, ...] = ("single", "multi")
    out: Path | None = None
    insecure_http: bool = False


def compare_recipes(
    learn: Dataset,
    options: ComparisonOptions,
    *,
    test: Dataset | None = None,
    cache: Path,
    decode_settings: DecodeSettings,
    steps: ProgressSteps | None = None,
) -> dict[str, Any]:
    """Train by each recipe, for each mode and seed, and evaluate by `test` as this module's first lines say.

    `single` uses the images with exactly one label, `multi` all of them. Images are checked and split as for training,
    and all recipes get the same splits.

    Returns:
        {mode: {"recipes": {recipe: {metric: [one per seed], metric + "_mean": …, "per_class": …}}, "images": …, …}},
        or {mode: {"left_out": reason}} for a mode that the datasets can't be used in.

    Raises:
        BadDataset: the datasets can be used in none of the modes.
        BadSetting: `options.out` can't be used, or a backbone can't be trained that way.
    """
    resources = Resources(cache, decode_settings, steps or ProgressSteps())
    comparison = _Comparison.open(learn, test, options, resources=resources)
    result: dict[str, Any] = {}
    refused: list[BadDataset] = []
    for mode in options.modes:
        try:
            result[mode] = comparison.compare(mode)
        except BadDataset as error:
            refused.append(error)
            result[mode] = {"left_out": str(error)}
    if len(refused) == len(result):
        raise refused[0]
    return result


@dataclass(frozen=True)
class _Comparison:
    """The datasets, and the backbones by handle: all are there before the first training, which takes minutes.

    `layers` are the tuned layers of the backbones that have such. The classes of `test` have the names of `learn`.
    """

    options: ComparisonOptions
    learn: Dataset
    test: Dataset | None
    backbones: dict[str, Backbone]
    layers: dict[str, TunedLayers]
    record: ComparisonRecord
    resources: Resources

    @classmethod
    def open(
        cls, learn: Dataset, test: Dataset | None, options: ComparisonOptions, *, resources: Resources
    ) -> _Comparison:
        test = None if test is None else without_splits(test).named_like(learn.classes)
        record = ComparisonRecord.open(
            options.out,
            made_with={} if options.out is None else _made_with(learn, test, resources.decode_settings),
            recipes={recipe.name: recipe.choices for recipe in options.recipes},
        )
        backbones: dict[str, Backbone] = {}
        layers: dict[str, TunedLayers] = {}
        for recipe in options.recipes:
            if recipe.backbone not in backbones:
                backbones[recipe.backbone] = resolve_backbone(
                    recipe.backbone,
                    cache=resources.cache,
                    steps=resources.steps,
                    insecure_http=options.insecure_http,
                )
                if (tuned := layers_of(recipe.backbone)) is not None:
                    layers[recipe.backbone] = tuned
            record.check_backbone(recipe.name, backbones[recipe.backbone].sha256)
        # A model that another dataset judges is the one that `train` publishes: not trained on held-out images, and
        # validated by the dataset's own split.
        learn = without_splits(learn) if test is None else learn
        return cls(options, learn, test, backbones, layers, record, resources)

    def compare(self, mode: Mode) -> dict[str, Any]:
        """Do the trainings that are not in the record, and sum up all."""
        unfinished = {recipe: seeds for recipe in self.options.recipes if (seeds := self._unfinished(mode, recipe))}
        if unfinished:
            learn = mode_subset(self.learn, mode)
            report = audit_for_comparison(learn, mode, self.resources)
            for recipe, seeds in unfinished.items():
                self._train(recipe, seeds, learn, report=report)
        facts = self.record.facts(mode)
        return {
            **facts.model_dump(exclude={"tuned_on"}),
            "seeds": list(self.options.seeds),
            "recipes": {recipe.name: self._summary(mode, recipe, facts) for recipe in self.options.recipes},
        }

    def _unfinished(self, mode: Mode, recipe: Recipe) -> list[int]:
        """The seeds of the trainings that are not in the record."""
        return [seed for seed in self.options.seeds if self.record.find(mode, recipe.name, seed) is None]

    def _train(self, recipe: Recipe, seeds: Sequence[int], learn: Dataset, *, report: DatasetReport) -> None:
        """Train by one recipe for each of the seeds, in the mode of the report."""
        mode, backbone, steps = report.mode, self.backbones[recipe.backbone], self.resources.steps
        network = None if recipe.fine_tune == "plain" else open_network(backbone)
        data = self.resources.prepare(learn, mode, backbone=backbone, network=network, report=report)
        test = None if self.test is None else judged_dataset(data, mode_subset(self.test, mode), self.resources)
        self.record.set_facts(mode, self._facts(data, test, recipe))
        trainer = RecipeTrainer(recipe, backbone, network, data, self.resources.cache, tunes=test is not None)
        with steps.step(f"Recipe {recipe.name} ({mode})", total=len(seeds)) as on_progress:
            for seed in seeds:
                rows, judged = (data.rows, test) if test else split_off_fifth(data, seed)
                metrics = TrainingMetrics.model_validate(trainer.train_and_judge(rows, judged, seed=seed))
                self.record.add(
                    FinishedTraining(
                        mode=mode, recipe=recipe.name, seed=seed, backbone_sha256=backbone.sha256, metrics=metrics
                    )
                )
                steps.print_line(_finished_line(mode, recipe, seed, metrics=metrics))
                on_progress(1)

    def _facts(self, data: PreparedData, test: Judged | None, recipe: Recipe) -> ModeFacts:
        """What is the same for all trainings of a mode, and how much of it tuned the layers of this recipe."""
        report = data.report
        judged = None
        if self.test is not None and test is not None and test.decoded is not None:
            judged = JudgedFacts(
                path=str(self.test.files.path),
                images=len(test.labels),
                unreadable=_unreadable(test.decoded),
            )
        layers = self.layers.get(recipe.backbone)
        return ModeFacts(
            images=len(data.rows),
            unreadable=_unreadable(data.pictures),
            excluded=tuple(map(printable, report.excluded)),
            excluded_reasons=excluded_reasons(report),
            validation_refused=report.validation_refused and printable(report.validation_refused),
            test=judged,
            tuned_on={} if layers is None else {recipe.name: _tuned_images(layers, data, test)},
        )

    def _summary(self, mode: Mode, recipe: Recipe, facts: ModeFacts) -> dict[str, Any]:
        trainings = [self.record.find(mode, recipe.name, seed) for seed in self.options.seeds]
        metrics = [training.metrics.model_dump() for training in trainings if training is not None]
        is_tuned = recipe.backbone in self.layers
        tuned_on = facts.tuned_on.get(recipe.name, TunedImages()).model_dump() if is_tuned else None
        return {"title": recipe.title, **recipe.choices, "tuned_on": tuned_on, **summarize(metrics)}


def summarize(trainings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The metrics of several trainings by one recipe: of each METRICS a list and the mean, also for each class."""
    result: dict[str, Any] = {"chosen": [metrics["chosen"] for metrics in trainings]}
    result |= _lists_and_means(trainings, METRICS)
    names = trainings[0]["per_class"]
    result["per_class"] = {
        name: {"support": names[name]["support"]}
        | _lists_and_means([metrics["per_class"][name] for metrics in trainings], CLASS_METRICS)
        for name in names
    }
    return result


def _lists_and_means(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in names:
        result[name] = [row[name] for row in rows]
        known = [value for value in result[name] if value is not None]
        result[f"{name}_mean"] = round(float(np.mean(known)), 4) if known else None
    return result


def _made_with(learn: Dataset, test: Dataset | None, decode_settings: DecodeSettings) -> dict[str, Any]:
    """What all trainings in one file of `--out` have in common."""
    return {
        "dataset": dataset_fingerprint(learn, decode_settings=decode_settings),
        "test": None if test is None else dataset_fingerprint(test, decode_settings=decode_settings),
        "decoding": decode_settings._asdict(),
    }


def _unreadable(decoded: DecodedSamples) -> tuple[Unreadable, ...]:
    return tuple(Unreadable(**item.as_dict()) for item in decoded.unreadable)


def _tuned_images(layers: TunedLayers, data: PreparedData, test: Judged | None) -> TunedImages:
    """How many of the images to learn from, and of those of another dataset, tuned these layers."""
    if layers.tuned_on is None:
        return TunedImages()
    learned = [data.pictures.digests[row] for row in data.rows]
    judged = None if test is None or test.decoded is None else test.decoded.digests
    return TunedImages(
        learn=count_among(learned, layers.tuned_on),
        test=None if judged is None else count_among(judged, layers.tuned_on),
    )


def _finished_line(mode: Mode, recipe: Recipe, seed: int, *, metrics: TrainingMetrics) -> str:
    return (
        f"{mode}, {recipe.name}, seed {seed}: accuracy {metrics.accuracy:.3f}, macro F1 of the defects "
        f"{metrics.macro_f1_defects:.3f}, exact match {metrics.exact_match:.3f}; {metrics.seconds:.0f} s"
    )
