"""The figures, against ones worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from model_store.evaluation import evaluate
from model_store.policy import Policy
from shared.errors import BadDataset

CLASSES = ("good", "no cap", "pigmented")


def test_single() -> None:
    given = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], np.float32)
    truth = [("good",), ("no cap",), ("no cap",), ("pigmented",)]
    figures = evaluate(given, truth, classes=CLASSES, mode="single", policy=Policy.default(CLASSES, "single"))
    assert figures["accuracy"] == figures["exact_match"] == 0.75
    assert figures["per_class"]["no cap"] == {"precision": 1.0, "recall": 0.5, "f1": 0.666667, "support": 2}
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3, abs=1e-6)
    assert figures["confusion"]["matrix"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    # Bins of confidence: two of 0.8 right, one of 0.7 right, one of 0.6 wrong.
    assert figures["ece"] == pytest.approx((2 * 0.2 + 0.3 + 0.6) / 4, abs=1e-5)


def test_multi() -> None:
    given = np.array([[0.05, 0.9, 0.8], [0.7, 0.2, 0.1], [0.1, 0.6, 0.3]], np.float32)
    truth = [("no cap", "pigmented"), ("good",), ("pigmented",)]
    figures = evaluate(given, truth, classes=CLASSES, mode="multi", policy=Policy.default(CLASSES, "multi"))
    assert figures["accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert figures["exact_match"] == pytest.approx(2 / 3, abs=1e-6)
    assert figures["per_class"]["pigmented"] == {"precision": 1.0, "recall": 0.5, "f1": 0.666667, "support": 2}
    assert figures["confusion"]["matrix"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_one_label_data_for_a_multi_model_and_the_reverse() -> None:
    given = np.array([[0.1, 0.8, 0.1]], np.float32)
    multi = evaluate(given, [("no cap",)], classes=CLASSES, mode="multi", policy=Policy.default(CLASSES, "multi"))
    assert multi["exact_match"] == 1.0
    single = evaluate(
        given, [("no cap", "pigmented")], classes=CLASSES, mode="single", policy=Policy.default(CLASSES, "single")
    )
    assert (single["accuracy"], single["exact_match"]) == (1.0, 0.0)


def test_a_label_the_model_does_not_know() -> None:
    with pytest.raises(BadDataset, match="label 'bent'"):
        evaluate(
            np.ones((1, 3), np.float32),
            [("bent",)],
            classes=CLASSES,
            mode="single",
            policy=Policy.default(CLASSES, "single"),
        )
