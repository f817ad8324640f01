"""What a published version says about itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_store.evaluation.metrics import compute_metrics, score
from model_store.publishing.publish import Training, report_data
from model_store.publishing.train_options import TrainOptions
from model_store.training.decision_tuning import tune_decisions
from model_store.training.head import targets_of
from tests.model_store.reports.report_data import manifest_of

pytestmark = pytest.mark.training

CLASSES = ("bent", "good", "no cap")


def training_with_noise(images: int) -> Training:
    """A training whose validation images were hard: its thresholds differ from fold to fold."""
    rng = np.random.default_rng(5)
    labels = [(CLASSES[number],) for number in rng.integers(0, len(CLASSES), images)]
    targets = targets_of(labels, CLASSES, "multi")
    logits = (rng.normal(0, 1.5, targets.shape) + 1.5 * targets - 1).astype(np.float32)
    samples = [SimpleNamespace(name=f"{number}.jpg") for number in range(images)]
    data: Any = SimpleNamespace(
        split=SimpleNamespace(validation=np.arange(images)),
        samples=lambda rows: [samples[row] for row in rows],
        labels=lambda rows: [labels[row] for row in rows],
        label_mask=lambda samples: None,
        pictures=SimpleNamespace(images=np.zeros((images, 8, 8, 3), np.uint8)),
    )
    model: Any = SimpleNamespace(head=SimpleNamespace(kernel=logits, bias=logits), phases=())
    backbone: Any = None
    decisions = tune_decisions(logits, targets, classes=CLASSES, mode="multi")
    return Training(TrainOptions(), backbone, data, model, decisions)


def test_the_reports_pictures_show_the_answers_that_the_metrics_are_of() -> None:
    training = training_with_noise(60)
    validation = report_data(manifest_of(CLASSES, "multi"), training).validation
    assert validation is not None
    metrics = compute_metrics(training.scored)
    assert compute_metrics(validation.scored) == metrics
    assert int((~validation.scored.correct).sum()) == round(60 * (1 - metrics["exact_match"]))
    # The final thresholds were chosen on these very images, and would give other answers.
    by_final_policy = score(
        training.decisions.after, validation.labels, classes=CLASSES, mode="multi", policy=training.decisions.policy
    )
    assert compute_metrics(by_final_policy)["per_class"] != metrics["per_class"]
