"""Which layers are trained and which crop is used, and why."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.training.fine_tuning import FineTuneMethod
from model_store.training.plan import FineTuneChoice, TransferOptions, feature_separability, is_frozen, make_plan


@pytest.mark.parametrize(
    ("images", "score", "is_network", "expected", "numbers"),
    [
        (59, 0.10, True, "none", ("59", "60")),
        (59, 0.10, False, "none", ("59", "60")),
        (60, 0.90, True, "top", ("60", "0.90")),
        (60_000, 0.99, True, "none", ("0.99",)),
        (60_000, 0.99, False, "none", ("0.99",)),
        (1_999, 0.69, True, "top", ("1,999", "0.69")),
        (2_000, 0.69, True, "all", ("2,000", "0.69")),
        (2_000, 0.70, True, "top", ("2,000", "0.70")),
        (49_999, 0.39, True, "all", ("49,999", "0.39")),
        (50_000, 0.39, True, "scratch", ("50,000", "0.39")),
        (50_000, 0.40, True, "all", ("50,000", "0.40")),
        (1_999, 0.39, False, "none", ("1,999", "2,000", "0.39", "opaque module")),
        (2_000, 0.90, False, "all", ("2,000", "0.90")),
        (50_000, 0.39, False, "all", ("50,000", "0.39")),
    ],
)
def test_auto_depends_on_dataset_size_and_separability(
    images: int, score: float, is_network: bool, expected: FineTuneMethod, numbers: tuple[str, ...]
) -> None:
    plan = make_plan({"full": score}, options=TransferOptions(), images=images, is_network=is_network)
    assert plan.fine_tune == expected
    reason = plan.reasons[-1]
    assert f"--fine-tune {expected}" in reason
    for number in numbers:
        assert number in reason


@pytest.mark.parametrize(
    ("fine_tune", "images", "frozen"),
    [
        ("none", 10, True),
        ("none", 10_000, True),
        ("auto", 59, True),
        ("auto", 60, False),
        ("top", 10, False),
        ("all", 10_000, False),
        ("scratch", 10, False),
    ],
)
def test_a_network_stays_as_it_is_if_asked_or_with_few_images(
    fine_tune: FineTuneChoice, images: int, frozen: bool
) -> None:
    options = TransferOptions(fine_tune=fine_tune)
    assert is_frozen(options, images=images) is frozen
    if frozen:  # what is known before any measurement is what the plan says after it
        plan = make_plan({"full": 0.5}, options=options, images=images, is_network=True)
        assert plan.fine_tune == "none"


@pytest.mark.parametrize(("images", "expected"), [(60, "top"), (2_000, "all"), (50_000, "scratch")])
def test_a_known_network_is_tuned_however_its_module_was_saved(images: int, expected: FineTuneMethod) -> None:
    """The network is built again as a Keras graph, so it doesn't matter which weights the module lets be trained."""
    plan = make_plan({"full": 0.3}, options=TransferOptions(), images=images, is_network=True, is_trainable=False)
    assert plan.fine_tune == expected
    assert (
        make_plan(
            {"full": 0.3}, options=TransferOptions(), images=images, is_network=False, is_trainable=False
        ).fine_tune
        == "none"
    )


@pytest.mark.parametrize("method", ["none", "top", "all", "scratch"])
def test_an_explicit_method_is_used_whatever_was_measured(method: FineTuneMethod) -> None:
    plan = make_plan({"detected": 1.0}, options=TransferOptions(fine_tune=method), images=10, is_network=True)
    assert plan.fine_tune == method
    assert f"--fine-tune {method}, as asked" in plan.reasons[-1]


@pytest.mark.parametrize(
    ("scores", "crop"),
    [
        ({"detected": 0.80, "full": 0.90}, "full"),
        ({"detected": 0.90, "full": 0.80}, "detected"),
        ({"detected": 0.84, "full": 0.88}, "detected"),  # if they are about equal, the cropped bottle is used
        ({"full": 0.3}, "full"),
    ],
)
def test_the_better_crop_is_chosen(scores: dict[str, float], crop: str) -> None:
    plan = make_plan(scores, options=TransferOptions(), images=100, is_network=True)
    assert (plan.crop, plan.separability) == (crop, scores)
    for name, score in scores.items():
        assert f"{name} {score:.2f}" in plan.reasons[0]
    assert ("full has to be 0.05 ahead" in plan.reasons[0]) == (len(scores) > 1)


def features_of(targets: NDArray[np.float32], *, signal: float, seed: int = 3) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(0, 1, (len(targets), 8))
    return np.concatenate([noise, np.nan_to_num(targets) * signal + 0.01 * noise[:, :1]], axis=1).astype(np.float32)


@pytest.fixture
def targets() -> NDArray[np.float32]:
    return (np.random.default_rng(5).uniform(size=(400, 2)) < [0.2, 0.5]).astype(np.float32)


def test_separable_features_score_one(targets: NDArray[np.float32]) -> None:
    assert feature_separability(features_of(targets, signal=3), targets) == pytest.approx(1.0, abs=1e-6)


def test_noise_scores_the_base_rate(targets: NDArray[np.float32]) -> None:
    # That holds even with almost as many features as images, where a fit learns every image by heart: thanks to folds.
    for width in (8, 300):
        noise = np.random.default_rng(8).normal(0, 1, (400, width)).astype(np.float32)
        assert feature_separability(noise, targets) == pytest.approx(targets.mean(axis=0).mean(), abs=0.08)


def test_unknown_targets_do_not_count(targets: NDArray[np.float32]) -> None:
    features = features_of(targets, signal=3)
    unknown = targets.copy()
    unknown[::3, 0] = np.nan
    unknown[:, 1] = np.nan
    assert feature_separability(features, unknown) == pytest.approx(1.0, abs=1e-6)
    # If unknown targets were taken for 0 or 1, the score would be lower.
    noisy = features.copy()
    noisy[::3, -2] = np.random.default_rng(1).normal(0, 3, len(noisy[::3]))
    assert feature_separability(noisy, unknown) > 0.95
    assert feature_separability(noisy, np.nan_to_num(unknown, nan=1.0)[:, :1]) < 0.9


def test_copies_of_a_photograph_are_in_one_fold(targets: NDArray[np.float32]) -> None:
    """Otherwise a fit to noise would recognize copies of the images that it has learned by heart."""
    noise = np.random.default_rng(8).normal(0, 1, (400, 300)).astype(np.float32)
    twice, both = np.repeat(noise, 2, axis=0), np.repeat(targets, 2, axis=0)
    groups = np.repeat(np.arange(400), 2).tolist()
    assert feature_separability(twice, both) > 0.8
    assert feature_separability(twice, both, groups=groups) == pytest.approx(targets.mean(axis=0).mean(), abs=0.08)


def test_the_score_is_zero_if_no_target_is_known(targets: NDArray[np.float32]) -> None:
    assert feature_separability(features_of(targets, signal=3), np.full_like(targets, np.nan)) == 0.0
