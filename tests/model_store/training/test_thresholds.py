"""Thresholds chosen on validation images for an objective."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_store.bundle.policy import Mode
from model_store.training.calibration import cross_fitted, fit
from model_store.training.thresholds import (
    HIGHEST,
    LOWEST,
    ChosenThresholds,
    Objective,
    choose_thresholds,
    parse_objective,
)
from shared.errors import BadSetting

Array = NDArray[np.float64]


def sigmoid(z: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-z)))


def perfect(seed: int, images: int = 20_000) -> tuple[Array, Array]:
    """Perfectly calibrated probabilities, [N, 1], and answers drawn from them."""
    rng = np.random.default_rng(seed)
    p = rng.beta(0.4, 0.9, (images, 1))
    return p, (rng.random(p.shape) < p).astype(np.float64)


def chosen_for(text: str, p: Array, y: Array) -> float:
    return choose_thresholds(p, y, outputs=["x"], mode="multi", objective=parse_objective(text)).thresholds["x"]


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [("f1", "f1", None), (" precision:0.98 ", "precision", 0.98), ("recall:1", "recall", 1.0), ("cost:5", "cost", 5.0)],
)
def test_an_objective_is_read_and_shown(text: str, kind: Any, target: float | None) -> None:
    objective = parse_objective(text)
    assert objective == Objective(kind, target)
    assert str(objective) == text.strip()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "should be f1, precision:P"),
        ("accuracy:0.9", "'accuracy:0.9' should be f1"),
        ("f1:0.9", "should be just f1"),
        ("precision", "needs a number, e.g. precision:0.95"),
        ("recall:much", "needs a number, e.g. recall:0.95"),
        ("recall:95", "above 0 and up to 1"),
        ("confidence:0", "above 0 and up to 1"),
        ("sure:0", "above 0 and up to 1"),
        ("cost:-1", "above 0 and up to 1000, e.g. cost:5"),
        ("cost:nan", "above 0 and up to 1000"),
    ],
)
def test_an_invalid_objective_is_refused_with_an_example(text: str, what: str) -> None:
    with pytest.raises(BadSetting, match=what):
        parse_objective(text)


@pytest.mark.parametrize(
    ("text", "mode"),
    [("recall:0.9", "single"), ("cost:5", "single"), ("confidence:0.9", "multi")],
)
def test_an_objective_for_the_other_mode_is_refused(text: str, mode: Mode) -> None:
    objective = parse_objective(text)
    with pytest.raises(BadSetting, match=f"{text} is not for a {mode} model. Use one of: f1"):
        choose_thresholds(np.ones((2, 2)), np.eye(2), outputs=["a", "b"], mode=mode, objective=objective)


def f1_of(decided: Any, truth: Any) -> float:
    return float(2 * (decided & truth).sum() / (decided.sum() + truth.sum()))


def test_f1_comes_near_the_best_possible_for_the_defect_and_good() -> None:
    p, y = perfect(1)
    fresh, truth = (values[:, 0] for values in perfect(2))

    def f1(threshold: float) -> float:
        return f1_of(fresh >= threshold, truth == 1) + f1_of(fresh < threshold, truth == 0)

    best = max(f1(threshold) for threshold in np.arange(0.05, 0.95, 0.01))
    assert f1(chosen_for("f1", p, y)) > best - 0.005
    assert best > f1(0.6) + 0.01


def test_a_threshold_also_considers_the_f1_of_good() -> None:
    """For the defect alone a lower threshold would be best, but it would call many good bottles defective."""
    rng = np.random.default_rng(11)
    p = np.column_stack([np.full(8000, 0.02), rng.beta(0.7, 0.9, 8000)])
    y = (rng.random(p.shape) < p).astype(np.float64)
    defect, good = y[:, 1] == 1, y.sum(axis=1) == 0
    grid = np.arange(0.1, 0.9, 0.01)
    alone = max(grid, key=lambda threshold: f1_of(p[:, 1] >= threshold, defect))
    both = max(grid, key=lambda threshold: f1_of(p[:, 1] >= threshold, defect) + f1_of(p[:, 1] < threshold, good))
    assert both > alone + 0.03
    chosen = choose_thresholds(p, y, outputs=["a", "b"], mode="multi")
    assert chosen.thresholds["b"] == pytest.approx(both, abs=0.025)
    # If it is unknown for every image whether it is good, only the defect counts.
    y[:, 0] = np.nan
    y[y[:, 1] == 1, 0] = 0
    blind = choose_thresholds(p, y, outputs=["a", "b"], mode="multi")
    assert blind.thresholds["b"] == pytest.approx(alone, abs=0.025)


@pytest.mark.parametrize("target", [0.7, 0.9])
def test_precision_is_the_lowest_threshold_that_reaches_it(target: float) -> None:
    p, y = perfect(3)
    fresh, truth = perfect(4)
    threshold = chosen_for(f"precision:{target}", p, y)
    assert truth[fresh >= threshold].mean() == pytest.approx(target, abs=0.015)
    assert chosen_for("precision:0.01", p, y) == LOWEST


@pytest.mark.parametrize("target", [0.8, 0.95])
def test_recall_is_the_highest_threshold_that_reaches_it(target: float) -> None:
    p, y = perfect(5)
    fresh, truth = perfect(6)
    threshold = chosen_for(f"recall:{target}", p, y)
    assert (fresh >= threshold)[truth == 1].mean() == pytest.approx(target, abs=0.015)
    assert chosen_for("recall:0.1", p, y) == HIGHEST


@pytest.mark.parametrize("ratio", [0.25, 1, 4])
def test_cost_gives_bayes_threshold_if_probabilities_are_calibrated(ratio: float) -> None:
    assert chosen_for(f"cost:{ratio}", *perfect(7)) == pytest.approx(1 / (1 + ratio), abs=0.03)


def test_a_cost_whose_threshold_is_out_of_bounds_is_reported() -> None:
    p, y = perfect(8)
    chosen = choose_thresholds(p, y, outputs=["x"], mode="multi", objective=parse_objective("cost:99"))
    assert chosen.thresholds == {"x": LOWEST}
    assert chosen.notes == ("x: cost:99 asks for a threshold of 0.010, but thresholds stay between 0.1 and 0.9.",)


def test_if_the_target_cannot_be_reached_the_nearest_is_taken_and_reported() -> None:
    p = np.array([[0.9], [0.7], [0.3], [0.2]])
    y = np.array([[0.0], [1.0], [0.0], [0.0]])
    # The estimate mixes answers and probabilities, 0.25 * y + 0.75 * p. Above 0.3, the first two have a mean of 0.725.
    precisely = choose_thresholds(p, y, outputs=["x"], mode="multi", objective=parse_objective("precision:0.99"))
    assert precisely.thresholds["x"] == 0.31
    assert precisely.notes == (
        "x: a precision of 0.99 is not reached with thresholds from 0.1 to 0.9; 0.31 comes nearest, "
        "with an estimated 0.725.",
    )
    p[2:] = 0.05
    all_ = choose_thresholds(p, np.ones_like(y) - y, outputs=["x"], mode="multi", objective=parse_objective("recall:1"))
    assert all_.thresholds["x"] == LOWEST
    assert "a recall of 1 is not reached" in all_.notes[0]


def test_when_no_image_reaches_any_threshold_the_default_stays() -> None:
    p, y = np.full((4, 1), 0.05), np.array([[1.0], [0.0], [0.0], [0.0]])
    chosen = choose_thresholds(p, y, outputs=["x"], mode="multi", objective=parse_objective("precision:0.9"))
    assert chosen.thresholds == {"x": 0.5}
    assert "no validation image reaches a probability of 0.1" in chosen.notes[0]


@pytest.mark.parametrize("answer", [0.0, 1.0, np.nan])
def test_a_class_without_both_kinds_of_images_keeps_the_default(answer: float) -> None:
    p = np.random.default_rng(1).random((10, 2))
    y = np.column_stack([np.full(10, answer), np.arange(10) % 2])
    chosen = choose_thresholds(p, y, outputs=["rare", "x"], mode="multi")
    assert chosen.thresholds["rare"] == 0.5
    (note,) = chosen.notes
    known = 0 if np.isnan(answer) else 10
    assert note.startswith(f"rare: of {known} validation images with a known answer, {int(np.nansum(y[:, 0]))} have")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(0, 30),
    text=st.sampled_from(["f1", "precision:0.98", "recall:0.95", "cost:5", "cost:100", "cost:0.01"]),
)
def test_thresholds_stay_within_bounds_whatever_the_order_and_the_unknown_answers(
    seed: int, images: int, text: str
) -> None:
    rng = np.random.default_rng(seed)
    p = rng.beta(0.3, 0.5, (images, 2))
    y = (rng.random(p.shape) < p).astype(np.float64)
    objective = parse_objective(text)

    def choose(p: Array, y: Array) -> ChosenThresholds:
        return choose_thresholds(p, y, outputs=["a", "b"], mode="multi", objective=objective)

    chosen = choose(p, y)
    assert all(LOWEST <= threshold <= HIGHEST for threshold in chosen.thresholds.values())
    order = rng.permutation(images)
    assert choose(p[order], y[order]) == chosen
    unknown = np.concatenate([p, rng.random((7, 2))]), np.concatenate([y, np.full((7, 2), np.nan)])
    assert choose(*unknown) == chosen


def test_single_answers_the_most_probable_class_so_f1_leaves_the_thresholds() -> None:
    p = np.random.default_rng(2).dirichlet([0.4] * 3, 50)
    chosen = choose_thresholds(p, np.eye(3)[p.argmax(axis=1)], outputs=["a", "b", "c"], mode="single")
    assert chosen == ChosenThresholds({"a": 0.5, "b": 0.5, "c": 0.5}, ())


def confident_predictions(seed: int) -> tuple[Array, Array]:
    """Perfectly calibrated probabilities of three classes, and answers drawn from them."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([0.2] * 3, 8000)
    y = np.eye(3)[(rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=2)]
    return p, y


def test_the_former_name_of_confidence_is_understood() -> None:
    assert parse_objective("sure:0.95") == parse_objective("confidence:0.95") == Objective("confidence", 0.95)


def test_confidence_sets_the_share_of_confident_answers_that_are_right() -> None:
    p, y = confident_predictions(3)
    y[:50] = np.nan
    objective = parse_objective("confidence:0.95")
    chosen = choose_thresholds(p, y, outputs=["a", "b", "c"], mode="single", objective=objective)
    (threshold,) = set(chosen.thresholds.values())
    fresh, truth = confident_predictions(4)
    confident = fresh.max(axis=1) >= threshold
    assert truth[confident, fresh[confident].argmax(axis=1)].mean() == pytest.approx(0.95, abs=0.01)
    assert 0.3 < confident.mean() < 0.9


def test_precision_in_single_holds_for_each_class() -> None:
    p, y = confident_predictions(5)
    # The model never answers c, and half of its b are c.
    p = np.column_stack([p[:, 0], p[:, 1] + p[:, 2] * 0.999, p[:, 2] * 0.001])
    objective = parse_objective("precision:0.95")
    chosen = choose_thresholds(p, y, outputs=["a", "b", "c"], mode="single", objective=objective)
    fresh, truth = confident_predictions(6)
    fresh = np.column_stack([fresh[:, 0], fresh[:, 1] + fresh[:, 2], 0 * fresh[:, 2]])
    mine = (fresh.argmax(axis=1) == 0) & (fresh[:, 0] >= chosen.thresholds["a"])
    assert truth[mine, 0].mean() == pytest.approx(0.95, abs=0.015)
    assert chosen.thresholds["b"] > chosen.thresholds["a"]
    assert chosen.thresholds["c"] == 0.5
    assert [note.partition(":")[0] for note in chosen.notes] == ["b", "c"]
    assert "no validation image got this answer" in chosen.notes[1]


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"both should be \[N, 1\]"):
        choose_thresholds(np.ones((3, 2)), np.ones((3, 2)), outputs=["a"], mode="multi")


def raw_best(p: Array, y: Array) -> float:
    """The threshold with the best F1 on the given images; of several, the one nearest to 0.5."""
    grid = np.arange(LOWEST, HIGHEST + 0.005, 0.01)
    given = p[None] >= grid[:, None]
    f1 = 2 * (given * y).sum(axis=1) / (given.sum(axis=1) + y.sum())
    best = grid[f1 >= f1.max() - 1e-9]
    return float(best[np.abs(best - 0.5).argmin()])


@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_on_fresh_images_the_choice_beats_one_half_and_the_best_on_the_given_images(hidden: float) -> None:
    """Thresholds are chosen on 60 images with calibrated logits. `hidden`: share of positives that look negative."""
    scores: list[list[float]] = []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        rate, separation = rng.choice([0.1, 0.2, 0.35]), rng.choice([1.5, 2.5, 3.5])

        def images(count: int, rng: Any = rng, rate: float = rate, separation: float = separation) -> Any:
            y = (rng.random((count, 1)) < rate).astype(np.float64)
            seen = y * (rng.random(y.shape) >= hidden)
            return rng.normal(size=y.shape) * 1.5 + 1.5 * separation * (seen - 0.5), y

        (logits, targets), (unseen, truth) = images(60), images(2000)
        if not targets.sum():
            continue
        p = sigmoid(cross_fitted(logits, targets, mode="multi").astype(np.float64))
        fresh = sigmoid(fit(logits, targets, mode="multi").apply(unseen).astype(np.float64))
        ours = choose_thresholds(p, targets, outputs=["x"], mode="multi").thresholds["x"]
        decided = [fresh >= threshold for threshold in (ours, 0.5, raw_best(p[:, 0], targets[:, 0]))]
        scores.append([float(2 * (given * truth).sum() / (given.sum() + truth.sum())) for given in decided])
    chosen, half, counted = np.mean(scores, axis=0)
    assert chosen > half + 0.005
    assert chosen > counted + 0.003
