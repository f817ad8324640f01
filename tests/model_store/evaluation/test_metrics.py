"""The metrics, compared with values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_store.bundle.policy import Mode, Policy
from model_store.datasets.dataset import Dataset, Sample, load_dataset
from model_store.evaluation.metrics import average_precision, evaluate, label_mask_of, reliability, score
from shared.errors import BadDataset

CLASSES = ("good", "no cap", "pigmented")


def floats(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def of(mode: Mode) -> dict[str, object]:
    return {"classes": CLASSES, "mode": mode, "policy": Policy.default(CLASSES, mode)}


def test_single() -> None:
    answers = floats([0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8])
    truth = [("good",), ("no cap",), ("no cap",), ("pigmented",)]
    metrics = evaluate(answers, truth, **of("single"))
    assert metrics["accuracy"] == metrics["exact_match"] == 0.75
    assert metrics["per_class"]["no cap"] == {
        "precision": 1.0,
        "recall": 0.5,
        "f1": 0.666667,
        "support": 2,
        "given": 1,
        # The scores are 0.1, 0.7, 0.3 and 0.1; the two highest belong to the two bottles without a cap.
        "average_precision": 1.0,
        "threshold": 0.5,
    }
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3, abs=1e-6)
    assert metrics["confusion"]["matrix"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    # Bins of confidence: two answers of 0.8 are right, one of 0.7 is right, one of 0.6 is wrong.
    assert metrics["ece"] == pytest.approx((2 * 0.2 + 0.3 + 0.6) / 4, abs=1e-5)
    assert (metrics["uncertain"], metrics["known_share"], metrics["images"]) == (0.0, 1.0, 4)


def test_multi() -> None:
    answers = floats([0.05, 0.9, 0.8], [0.7, 0.2, 0.1], [0.1, 0.6, 0.3])
    truth = [("no cap", "pigmented"), ("good",), ("pigmented",)]
    metrics = evaluate(answers, truth, **of("multi"))
    assert metrics["accuracy"] == pytest.approx(2 / 3, abs=1e-6)
    assert metrics["exact_match"] == pytest.approx(2 / 3, abs=1e-6)
    scores = metrics["per_class"]["pigmented"]
    assert (scores["precision"], scores["recall"], scores["f1"], scores["support"]) == (1.0, 0.5, 0.666667, 2)
    assert metrics["per_class"]["good"]["threshold"] is None
    assert metrics["confusion"]["matrix"] == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_uncertain_answers_are_counted_and_left_out_of_the_sure_metrics() -> None:
    answers = floats([0.9, 0.05, 0.05], [0.45, 0.4, 0.15], [0.1, 0.2, 0.7])
    metrics = evaluate(answers, [("good",), ("no cap",), ("no cap",)], **of("single"))
    assert metrics["uncertain"] == pytest.approx(1 / 3, abs=1e-6)
    assert metrics["sure_accuracy"] == metrics["sure_exact_match"] == 0.5
    unsure = evaluate(answers[1:2], [("no cap",)], **of("single"))
    assert (unsure["uncertain"], unsure["sure_accuracy"], unsure["sure_exact_match"]) == (1.0, None, None)


def test_data_with_one_label_for_a_multi_model_and_the_reverse() -> None:
    answers = floats([0.1, 0.8, 0.1])
    assert evaluate(answers, [("no cap",)], **of("multi"))["exact_match"] == 1.0
    single = evaluate(answers, [("no cap", "pigmented")], **of("single"))
    assert (single["accuracy"], single["exact_match"]) == (1.0, 0.0)


def test_a_label_the_model_does_not_know() -> None:
    answers = np.ones((1, 3), np.float32)
    with pytest.raises(BadDataset, match="label 'bent'"):
        evaluate(answers, [("bent",)], **of("single"))
    scored = score(answers, [("bent",)], unknown_labels="wrong", **of("single"))
    assert not scored.correct[0]
    # The image's other label still counts.
    both = score(floats([0.0, 0.9, 0.0]), [("bent", "no cap")], unknown_labels="wrong", **of("multi"))
    assert (both.correct[0], both.labels(0)) == (False, ["no cap"])


@pytest.mark.parametrize(
    ("scores", "truth", "expected"),
    [
        ([0.9, 0.8, 0.7], [1, 1, 0], 1.0),
        ([0.9, 0.8, 0.7], [0, 1, 1], 1 / 2 * 1 / 2 + 1 / 2 * 2 / 3),
        # scikit-learn's own example: precision 1, 2/3 at recall 1/2, 1.
        ([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 1 / 2 * 1 + 1 / 2 * 2 / 3),
        # Equal scores can't be ordered: they make one step, at the precision of all of them.
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 1 / 4),
        ([0.9, 0.5, 0.5], [0, 1, 1], 2 / 3),
        ([0.3, 0.2], [0, 0], None),
    ],
)
def test_average_precision(scores: list[float], truth: list[int], expected: float | None) -> None:
    found = average_precision(np.array(scores, np.float32), np.array(truth, bool))
    assert found == (None if expected is None else pytest.approx(expected))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_average_precision_does_not_depend_on_the_order_of_the_images(
    pairs: list[tuple[int, bool]], random: object
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    values = []
    for rows in (pairs, shuffled):
        scores, truth = (np.array(column) for column in zip(*rows, strict=True))
        values.append(average_precision(scores.astype(np.float32), truth))
    assert values[0] == pytest.approx(values[1]) if any(truth for _, truth in pairs) else values == [None, None]


def test_mean_average_precision_is_over_the_classes_that_occur() -> None:
    answers = floats([0.9, 0.05, 0.05], [0.6, 0.3, 0.1])
    metrics = evaluate(answers, [("good",), ("no cap",)], **of("single"))
    assert metrics["per_class"]["pigmented"]["average_precision"] is None
    assert metrics["map"] == 1.0


def test_unknown_labels_count_neither_for_nor_against() -> None:
    # The second bottle is in the folder `no cap`: nobody has said whether it is pigmented.
    answers, truth = floats([0.9, 0.05, 0.05], [0.02, 0.9, 0.8]), [("good",), ("no cap",)]
    known = np.array([[True, True, True], [True, True, False]])
    metrics = evaluate(answers, truth, label_mask=known, **of("multi"))
    assert metrics["exact_match"] == 1.0
    assert metrics["per_class"]["pigmented"]["given"] == 0
    assert metrics["known_share"] == pytest.approx(5 / 6, abs=1e-6)
    assert metrics["macro_f1"] == 1.0
    # Of the known labels, the two with 0.9 apply, those with 0.05, 0.05 and 0.02 don't. The 0.8 is left out.
    assert metrics["ece"] == pytest.approx((2 * 0.1 + 2 * 0.05 + 0.02) / 5, abs=1e-5)
    all_known = evaluate(answers, truth, **of("multi"))
    assert all_known["exact_match"] == 0.5
    assert all_known["per_class"]["pigmented"]["precision"] == 0.0


def folders(root: Path, *names: str) -> Dataset:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "1.jpg").write_bytes(b"never opened")
    return load_dataset(root)


def test_folders_of_one_label_leave_other_defects_unknown_to_a_multi_model(tmp_path: Path) -> None:
    dataset = folders(tmp_path / "one", "good", "no cap", "pigmented")
    classes = (*CLASSES, "bent")
    known = label_mask_of(dataset, dataset.samples, classes=classes, mode="multi")
    assert known is not None
    assert known.tolist() == [[True] * 4, [True, True, False, False], [True, False, True, False]]
    assert label_mask_of(dataset, dataset.samples, classes=classes, mode="single") is None
    empty: list[Sample] = []
    nothing = label_mask_of(dataset, empty, classes=classes, mode="multi")
    assert nothing is not None and nothing.shape == (0, 4)


def test_folders_that_join_labels_state_everything(tmp_path: Path) -> None:
    dataset = folders(tmp_path / "joined", "good", "no cap+pigmented", "pigmented")
    assert label_mask_of(dataset, dataset.samples, classes=CLASSES, mode="multi") is None


def test_reliability_bins() -> None:
    answers = floats([0.91, 0.0, 0.0], [0.95, 0.0, 0.0], [0.32, 0.3, 0.3], [1.0, 0.0, 0.0])
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]], bool)
    bins = reliability(answers, truth, np.ones_like(truth), mode="single")
    assert bins.answers.tolist() == [1, 3]
    assert bins.confidence == pytest.approx([0.32, 0.953333], abs=1e-5)
    assert bins.frequency == pytest.approx([0.0, 2 / 3])
    assert bins.error == pytest.approx((0.32 + 3 * abs(0.953333 - 2 / 3)) / 4, abs=1e-5)
    nothing = reliability(answers, truth, np.zeros_like(truth), mode="multi")
    assert (len(nothing.answers), nothing.error) == (0, 0.0)


def test_the_confusion_of_a_thousand_classes_has_only_those_that_occur() -> None:
    classes = tuple(f"class {number}" for number in range(1001))
    answers = np.zeros((2, 1001), np.float32)
    answers[0, 7] = answers[1, 900] = 0.9
    policy = Policy.default(classes, "single")
    metrics = evaluate(answers, [("class 7",), ("class 8",)], classes=classes, mode="single", policy=policy)
    assert metrics["confusion"] == {
        "classes": ["class 7", "class 8", "class 900"],
        "matrix": [[1, 0, 0], [0, 0, 1], [0, 0, 0]],
    }
