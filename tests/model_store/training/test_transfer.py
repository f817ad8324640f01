"""Which way of transfer is taken and why, and each of the four from frames to a head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.runtime.progress import ProgressSteps
from model_store.training import feature_extractor as sights
from model_store.training import transfer
from model_store.training.cropping import Canvas
from model_store.training.feature_extractor import closed_box
from model_store.training.fine_tuning import FineTune
from model_store.training.head import logits_of
from model_store.training.transfer import Learnt, Wish, learn, plan_for, separation
from shared.errors import BadSetting
from tests.model_store.tiny_backbone import SIZE_PX as CLOSED_PX
from tests.model_store.tiny_backbone import save_tiny_backbone
from tests.model_store.tiny_network import coloured_frames

CLASSES = ("good", "no cap", "pigmented")
SIZE_PX = 96
TRAINED = 32


@pytest.mark.parametrize(
    ("images", "score", "is_network", "expected", "figures"),
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
        (1_999, 0.39, False, "none", ("1,999", "2,000", "0.39", "closed box")),
        (2_000, 0.90, False, "all", ("2,000", "0.90")),
        (50_000, 0.39, False, "all", ("50,000", "0.39")),
    ],
)
def test_auto_goes_by_size_and_likeness(
    images: int, score: float, is_network: bool, expected: FineTune, figures: tuple[str, ...]
) -> None:
    plan = plan_for({"whole": score}, wish=Wish(), images=images, is_network=is_network)
    assert plan.fine_tune == expected
    reason = plan.reasons[-1]
    assert f"--fine-tune {expected}" in reason
    for figure in figures:
        assert figure in reason


@pytest.mark.parametrize(("images", "expected"), [(60, "top"), (2_000, "all"), (50_000, "scratch")])
def test_a_known_network_is_tuned_however_its_module_was_saved(images: int, expected: FineTune) -> None:
    """The network is built anew as a Keras graph: what the module lets be trained is of no account."""
    plan = plan_for({"whole": 0.3}, wish=Wish(), images=images, is_network=True, is_trainable=False)
    assert plan.fine_tune == expected
    assert (
        plan_for({"whole": 0.3}, wish=Wish(), images=images, is_network=False, is_trainable=False).fine_tune == "none"
    )


@pytest.mark.parametrize("way", ["none", "top", "all", "scratch"])
def test_a_wish_is_granted_whatever_the_figures(way: FineTune) -> None:
    plan = plan_for({"found": 1.0}, wish=Wish(fine_tune=way), images=10, is_network=True)
    assert plan.fine_tune == way
    assert f"--fine-tune {way}, as asked" in plan.reasons[-1]


@pytest.mark.parametrize(
    ("scores", "looks"),
    [
        ({"found": 0.80, "whole": 0.90}, "whole"),
        ({"found": 0.90, "whole": 0.80}, "found"),
        ({"found": 0.84, "whole": 0.88}, "found"),  # about alike: the bottle, cut out
        ({"whole": 0.3}, "whole"),
    ],
)
def test_the_better_way_of_looking_is_taken(scores: dict[str, float], looks: str) -> None:
    plan = plan_for(scores, wish=Wish(), images=100, is_network=True)
    assert (plan.looks, plan.separation) == (looks, scores)
    for name, score in scores.items():
        assert f"{name} {score:.2f}" in plan.reasons[0]
    assert ("whole has to be 0.05 ahead" in plan.reasons[0]) == (len(scores) > 1)


def features_of(targets: NDArray[np.float32], *, signal: float, seed: int = 3) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(0, 1, (len(targets), 8))
    return np.concatenate([noise, np.nan_to_num(targets) * signal + 0.01 * noise[:, :1]], axis=1).astype(np.float32)


@pytest.fixture
def targets() -> NDArray[np.float32]:
    return (np.random.default_rng(5).uniform(size=(400, 2)) < [0.2, 0.5]).astype(np.float32)


def test_separable_features_score_one(targets: NDArray[np.float32]) -> None:
    assert separation(features_of(targets, signal=3), targets) == pytest.approx(1.0, abs=1e-6)


def test_noise_scores_the_base_rate(targets: NDArray[np.float32]) -> None:
    # Also with as many features as images, which a fit learns by heart: the folds keep that from counting.
    for width in (8, 300):
        noise = np.random.default_rng(8).normal(0, 1, (400, width)).astype(np.float32)
        assert separation(noise, targets) == pytest.approx(targets.mean(axis=0).mean(), abs=0.08)


def test_unknown_targets_do_not_count(targets: NDArray[np.float32]) -> None:
    features = features_of(targets, signal=3)
    unknown = targets.copy()
    unknown[::3, 0] = np.nan
    unknown[:, 1] = np.nan
    assert separation(features, unknown) == pytest.approx(1.0, abs=1e-6)
    # Taken for an answer either way, they would pull the score down.
    noisy = features.copy()
    noisy[::3, -2] = np.random.default_rng(1).normal(0, 3, len(noisy[::3]))
    assert separation(noisy, unknown) > 0.95
    assert separation(noisy, np.nan_to_num(unknown, nan=1.0)[:, :1]) < 0.9


def test_copies_of_a_photograph_are_in_one_fold(targets: NDArray[np.float32]) -> None:
    """Else noise would tell apart what it has learnt by heart."""
    noise = np.random.default_rng(8).normal(0, 1, (400, 300)).astype(np.float32)
    twice, both = np.repeat(noise, 2, axis=0), np.repeat(targets, 2, axis=0)
    groups = np.repeat(np.arange(400), 2).tolist()
    assert separation(twice, both) > 0.8
    assert separation(twice, both, groups=groups) == pytest.approx(targets.mean(axis=0).mean(), abs=0.08)


def test_nothing_known_scores_nothing(targets: NDArray[np.float32]) -> None:
    assert separation(features_of(targets, signal=3), np.full_like(targets, np.nan)) == 0.0


@dataclass(frozen=True)
class Bench:
    """What `learn` is given, but for the wish."""

    backbone: Backbone
    network: Network | None
    cache: Path
    size_px: int

    def learn(self, wish: Wish) -> tuple[Learnt, ProgressSteps]:
        steps = ProgressSteps()
        # Whole batches only: another size is another graph, traced for seconds.
        train, validation = (coloured_frames(count, seed=count, size_px=self.size_px) for count in (TRAINED, 12))
        network = None if self.network is None else self.network.clone()
        learnt = learn(
            self.backbone,
            network,
            train=train,
            validation=validation,
            classes=CLASSES,
            mode="single",
            wish=wish,
            cache=self.cache,
            steps=steps,
        )
        return learnt, steps

    def right(self, learnt: Learnt) -> float:
        held_out = coloured_frames(30, seed=77, size_px=self.size_px)
        logits = logits_of(learnt.head, np.asarray(learnt.sight.features(held_out.images)))
        return float((logits.argmax(axis=1) == held_out.targets.argmax(axis=1)).mean())


@pytest.fixture
def bench(tiny_network: Network, network_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(sights, "UPRIGHT", Canvas(96, 64))
    monkeypatch.setattr(sights, "SQUARE", Canvas(96, 96))
    return Bench(network_backbone, tiny_network, tmp_path / "cache", SIZE_PX)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("closed")
    backbone = resolve_backbone(str(save_tiny_backbone(folder / "module")), cache=folder / "cache")
    return Bench(backbone, None, folder / "cache", CLOSED_PX)


@pytest.mark.parametrize(
    ("wish", "phases"),
    [
        (Wish(fine_tune="none", looks="auto", epochs=20), ["head"]),
        (Wish(fine_tune="top", looks="found", epochs=5), ["head", "fine-tuning"]),
        (Wish(fine_tune="all", looks="whole", epochs=5), ["head", "fine-tuning"]),
        (Wish(fine_tune="scratch", looks="found", epochs=15), ["fine-tuning"]),
    ],
    ids=lambda value: value.fine_tune if isinstance(value, Wish) else "",
)
def test_each_way_learns(bench: Bench, wish: Wish, phases: list[str]) -> None:
    learnt, _ = bench.learn(wish)
    assert [phase.name for phase in learnt.phases] == phases
    assert learnt.plan.fine_tune == wish.fine_tune
    assert set(learnt.plan.separation) == ({"found", "whole"} if wish.looks == "auto" else {wish.looks})
    assert learnt.sight.region == learnt.plan.looks
    assert (learnt.tuning is None) == (wish.fine_tune == "none")
    assert bench.right(learnt) > 0.6  # by chance: a third


def test_features_are_computed_once(closed: Bench) -> None:
    wish = Wish(fine_tune="none", epochs=3)
    first, _ = closed.learn(wish)
    files = sorted(closed.cache.rglob("features/**/*.npy"))
    assert len(files) == 4 * TRAINED + 12
    stamps = [path.stat().st_mtime_ns for path in files]
    again, _ = closed.learn(wish)
    assert sorted(closed.cache.rglob("features/**/*.npy")) == files
    assert [path.stat().st_mtime_ns for path in files] == stamps
    np.testing.assert_array_equal(first.head.kernel, again.head.kernel)


def test_a_closed_box_is_tuned_as_a_whole_if_asked(closed: Bench) -> None:
    untouched = closed_box(closed.backbone, trainable=True)
    learnt, steps = closed.learn(Wish(fine_tune="all", epochs=8))
    assert [phase.name for phase in learnt.phases] == ["head", "fine-tuning"]
    assert "Fine-tuning (all)" in steps.seconds
    assert closed.right(learnt) > 0.6
    for before, after in zip(untouched.variables, learnt.sight.variables, strict=True):
        assert not np.array_equal(before.numpy(), after.numpy())


@pytest.mark.parametrize(
    ("wish", "named"),
    [
        (Wish(fine_tune="top"), "--fine-tune top"),
        (Wish(fine_tune="scratch"), "--fine-tune scratch"),
        (Wish(looks="found"), "--look found"),
    ],
)
def test_a_closed_box_says_what_it_cannot(closed: Bench, wish: Wish, named: str) -> None:
    with pytest.raises(BadSetting, match=f"{named}: .*{closed.backbone.handle}.*closed box.* Use "):
        closed.learn(wish)


def test_weights_that_cannot_be_trained_are_not(closed: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Bench(closed.backbone.model_copy(update={"trainable": False}), None, closed.cache, closed.size_px)
    with pytest.raises(BadSetting, match=r"--fine-tune all: .*without trainable weights\. Use none"):
        fixed.learn(Wish(fine_tune="all"))
    # Nor where so many unlike images would have them tuned.
    monkeypatch.setattr(transfer, "_FEW_IMAGES", 2)
    monkeypatch.setattr(transfer, "_MANY_IMAGES", 3)
    monkeypatch.setattr(transfer, "_ALIKE", 1.1)
    learnt, _ = fixed.learn(Wish(epochs=2))
    assert learnt.plan.fine_tune == "none"
    assert "without trainable weights" in learnt.plan.reasons[-1]
