"""Trains by one recipe, and answers images that the training did not see.

In: a recipe, its backbone, the images of one mode. Out: metrics. Reads no files but the cache's, and publishes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.bundle.policy import GOOD, Policy
from model_store.datasets.splitting import Split
from model_store.evaluation.metrics import evaluate
from model_store.runtime.progress import ProgressSteps
from model_store.training.calibration import identity
from model_store.training.decision_tuning import tune_decisions
from model_store.training.feature_cache import FeatureCache, extract_features
from model_store.training.feature_extractor import opaque_extractor
from model_store.training.head import TUTORIAL, Examples, logits_of, probabilities_of, train_head
from model_store.training.plan import FineTuneChoice, TransferOptions
from model_store.training.prepared_data import PreparedData
from model_store.training.recipe_data import Judged
from model_store.training.recipes import Recipe
from model_store.training.transfer import train_model
from shared.arrays import Floats, Indices
from shared.progress import ignore


class _Answers(NamedTuple):
    """Probabilities of the judged images, the policy that decides, and what the training chose."""

    probabilities: Floats
    policy: Policy
    chosen: dict[str, str]


@dataclass(frozen=True)
class RecipeTrainer:
    """One recipe, with its backbone and the images of one mode.

    `tunes`: train as for a model that is published: validate by the dataset's own validation split if it has one to
    use, and calibrate and choose thresholds after the training. Otherwise a fifth of the rows validates, and thresholds
    are 0.5. The plain recipe does neither.
    """

    recipe: Recipe
    backbone: Backbone
    network: Network | None
    data: PreparedData
    cache: Path
    tunes: bool
    clock: Callable[[], float] = time.perf_counter

    def train_and_judge(self, rows: Indices, judged: Judged, *, seed: int) -> dict[str, Any]:
        """Train on these rows of the data, and return the metrics of the judged images.

        They are those of `evaluate`, `macro_f1_defects` (the mean F1 of the classes but `good` that occur), `seconds`
        (the training, with computing what is not in the feature cache), and `chosen`: the crop and the method.
        """
        started = self.clock()
        answer = self._plain if self.recipe.fine_tune == "plain" else self._transferred
        answers, seconds = answer(rows, judged, seed=seed, started=started)
        metrics = evaluate(
            answers.probabilities,
            judged.labels,
            classes=self.data.classes,
            mode=self.data.mode,
            policy=answers.policy,
            label_mask=judged.label_mask,
        )
        metrics["macro_f1_defects"] = _macro_f1_of_defects(metrics["per_class"])
        return metrics | {"seconds": round(seconds, 1), "chosen": answers.chosen}

    def _plain(self, rows: Indices, judged: Judged, *, seed: int, started: float) -> tuple[_Answers, float]:
        """The plain recipe learns from all rows: it keeps its last epoch, so it needs no images to choose one by."""
        data, cache = self.data, FeatureCache(opaque_extractor(self.backbone), cache=self.cache)
        frames = data.frames(rows)
        examples = Examples(cache.features(frames.images, on_progress=ignore), frames.targets)
        head = train_head(
            examples,
            examples,  # only for a curve that nobody reads
            classes=data.classes,
            mode=data.mode,
            settings=TUTORIAL,
            seed=seed,
            on_progress=ignore,
        ).head
        seconds = self.clock() - started
        logits = logits_of(head, cache.features(judged.images, on_progress=ignore))
        probabilities = probabilities_of(logits, classes=data.classes, mode=data.mode)
        chosen = {"crop": "full", "fine_tune": "plain"}
        return _Answers(probabilities, Policy.default(data.classes, data.mode), chosen), seconds

    def _transferred(self, rows: Indices, judged: Judged, *, seed: int, started: float) -> tuple[_Answers, float]:
        """As `sortline train`: validation chooses the epoch, and the calibration and thresholds if tuned."""
        data = self.data
        train, validation = map(data.frames, self._split(rows, seed=seed))
        model = train_model(
            self.backbone,
            None if self.network is None else self.network.clone(),  # fine-tuning changes it
            train=train,
            validation=validation,
            classes=data.classes,
            mode=data.mode,
            options=_options(self.recipe, seed=seed),
            cache=self.cache,
            steps=ProgressSteps(),
        )
        policy, calibration = Policy.default(data.classes, data.mode), identity(train.targets.shape[1])
        if self.tunes:
            logits = logits_of(model.head, extract_features(model.extractor, validation.images))
            tuning = tune_decisions(logits, validation.targets, classes=data.classes, mode=data.mode)
            policy, calibration = tuning.policy, tuning.calibration
        seconds = self.clock() - started
        logits = calibration.apply(logits_of(model.head, extract_features(model.extractor, judged.images)))
        probabilities = probabilities_of(logits, classes=data.classes, mode=data.mode)
        return _Answers(probabilities, policy, {"crop": model.plan.crop, "fine_tune": model.plan.fine_tune}), seconds

    def _split(self, rows: Indices, *, seed: int) -> Split:
        data = self.data
        given = data.report.given_split(data.pictures.samples, rows) if self.tunes else None
        return given or data.split_rows(rows, seed=seed)


def _options(recipe: Recipe, *, seed: int) -> TransferOptions:
    return TransferOptions(fine_tune=cast(FineTuneChoice, recipe.fine_tune), crop=recipe.crop, seed=seed)


def _macro_f1_of_defects(per_class: dict[str, Any]) -> float:
    """Mean F1 of the classes that occur, in truth or in a decision, without `good`."""
    f1 = [scores["f1"] for name, scores in per_class.items() if name != GOOD and (scores["support"] or scores["given"])]
    return round(sum(f1) / len(f1), 6) if f1 else 0.0
