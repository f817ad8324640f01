"""Which method of transfer is chosen and why, and each of the four from frames to a head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.runtime.progress import ProgressSteps
from model_store.training import feature_extractor, transfer
from model_store.training.cropping import CropSize
from model_store.training.feature_extractor import opaque_extractor
from model_store.training.fine_tuning import FineTuneMethod
from model_store.training.head import logits_of
from model_store.training.transfer import TrainedModel, TransferOptions, feature_separability, make_plan, train_model
from shared.errors import BadSetting
from tests.model_store.tiny_backbone import SIZE_PX as OPAQUE_PX
from tests.model_store.tiny_backbone import save_tiny_backbone
from tests.model_store.tiny_network import coloured_frames

CLASSES = ("good", "no cap", "pigmented")
SIZE_PX = 96
TRAINED = 32


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
def test_auto_goes_by_size_and_likeness(
    images: int, score: float, is_network: bool, expected: FineTuneMethod, numbers: tuple[str, ...]
) -> None:
    plan = make_plan({"full": score}, options=TransferOptions(), images=images, is_network=is_network)
    assert plan.fine_tune == expected
    reason = plan.reasons[-1]
    assert f"--fine-tune {expected}" in reason
    for number in numbers:
        assert number in reason


@pytest.mark.parametrize(("images", "expected"), [(60, "top"), (2_000, "all"), (50_000, "scratch")])
def test_a_known_network_is_tuned_however_its_module_was_saved(images: int, expected: FineTuneMethod) -> None:
    """The network is built anew as a Keras graph: what the module lets be trained is of no account."""
    plan = make_plan({"full": 0.3}, options=TransferOptions(), images=images, is_network=True, is_trainable=False)
    assert plan.fine_tune == expected
    assert (
        make_plan(
            {"full": 0.3}, options=TransferOptions(), images=images, is_network=False, is_trainable=False
        ).fine_tune
        == "none"
    )


@pytest.mark.parametrize("method", ["none", "top", "all", "scratch"])
def test_an_explicit_method_is_used_whatever_the_figures(method: FineTuneMethod) -> None:
    plan = make_plan({"detected": 1.0}, options=TransferOptions(fine_tune=method), images=10, is_network=True)
    assert plan.fine_tune == method
    assert f"--fine-tune {method}, as asked" in plan.reasons[-1]


@pytest.mark.parametrize(
    ("scores", "crop"),
    [
        ({"detected": 0.80, "full": 0.90}, "full"),
        ({"detected": 0.90, "full": 0.80}, "detected"),
        ({"detected": 0.84, "full": 0.88}, "detected"),  # about equal: the cropped bottle
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
    # Also with as many features as images, which a fit learns by heart: the folds keep that from counting.
    for width in (8, 300):
        noise = np.random.default_rng(8).normal(0, 1, (400, width)).astype(np.float32)
        assert feature_separability(noise, targets) == pytest.approx(targets.mean(axis=0).mean(), abs=0.08)


def test_unknown_targets_do_not_count(targets: NDArray[np.float32]) -> None:
    features = features_of(targets, signal=3)
    unknown = targets.copy()
    unknown[::3, 0] = np.nan
    unknown[:, 1] = np.nan
    assert feature_separability(features, unknown) == pytest.approx(1.0, abs=1e-6)
    # Taken for an answer either way, they would pull the score down.
    noisy = features.copy()
    noisy[::3, -2] = np.random.default_rng(1).normal(0, 3, len(noisy[::3]))
    assert feature_separability(noisy, unknown) > 0.95
    assert feature_separability(noisy, np.nan_to_num(unknown, nan=1.0)[:, :1]) < 0.9


def test_copies_of_a_photograph_are_in_one_fold(targets: NDArray[np.float32]) -> None:
    """Else noise would tell apart what it has learnt by heart."""
    noise = np.random.default_rng(8).normal(0, 1, (400, 300)).astype(np.float32)
    twice, both = np.repeat(noise, 2, axis=0), np.repeat(targets, 2, axis=0)
    groups = np.repeat(np.arange(400), 2).tolist()
    assert feature_separability(twice, both) > 0.8
    assert feature_separability(twice, both, groups=groups) == pytest.approx(targets.mean(axis=0).mean(), abs=0.08)


def test_nothing_known_scores_nothing(targets: NDArray[np.float32]) -> None:
    assert feature_separability(features_of(targets, signal=3), np.full_like(targets, np.nan)) == 0.0


@dataclass(frozen=True)
class Bench:
    """What `train_model` is given, except the options."""

    backbone: Backbone
    network: Network | None
    cache: Path
    size_px: int

    def train(self, options: TransferOptions) -> tuple[TrainedModel, ProgressSteps]:
        steps = ProgressSteps()
        # Whole batches only: another size is another graph, traced for seconds.
        train, validation = (coloured_frames(count, seed=count, size_px=self.size_px) for count in (TRAINED, 12))
        network = None if self.network is None else self.network.clone()
        model = train_model(
            self.backbone,
            network,
            train=train,
            validation=validation,
            classes=CLASSES,
            mode="single",
            options=options,
            cache=self.cache,
            steps=steps,
        )
        return model, steps

    def right(self, model: TrainedModel) -> float:
        held_out = coloured_frames(30, seed=77, size_px=self.size_px)
        logits = logits_of(model.head, np.asarray(model.extractor.features(held_out.images)))
        return float((logits.argmax(axis=1) == held_out.targets.argmax(axis=1)).mean())


@pytest.fixture
def bench(tiny_network: Network, network_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(feature_extractor, "UPRIGHT_SIZE", CropSize(96, 64))
    monkeypatch.setattr(feature_extractor, "FULL_FRAME_SIZE", CropSize(96, 96))
    return Bench(network_backbone, tiny_network, tmp_path / "cache", SIZE_PX)


@pytest.fixture(scope="module")
def opaque(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("opaque")
    backbone = resolve_backbone(str(save_tiny_backbone(folder / "module")), cache=folder / "cache")
    return Bench(backbone, None, folder / "cache", OPAQUE_PX)


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        (TransferOptions(fine_tune="none", crop="auto", epochs=20), ["head"]),
        (TransferOptions(fine_tune="top", crop="detected", epochs=5), ["head", "fine-tuning"]),
        (TransferOptions(fine_tune="all", crop="full", epochs=5), ["head", "fine-tuning"]),
        (TransferOptions(fine_tune="scratch", crop="detected", epochs=15), ["fine-tuning"]),
    ],
    ids=lambda value: value.fine_tune if isinstance(value, TransferOptions) else "",
)
def test_each_method_learns(bench: Bench, options: TransferOptions, phases: list[str]) -> None:
    model, _ = bench.train(options)
    assert [phase.name for phase in model.phases] == phases
    assert model.plan.fine_tune == options.fine_tune
    assert set(model.plan.separability) == ({"detected", "full"} if options.crop == "auto" else {options.crop})
    assert model.extractor.crop == model.plan.crop
    assert (model.fine_tune_settings is None) == (options.fine_tune == "none")
    assert bench.right(model) > 0.6  # by chance: a third


def test_features_are_computed_once(opaque: Bench) -> None:
    options = TransferOptions(fine_tune="none", epochs=3)
    first, _ = opaque.train(options)
    files = sorted(opaque.cache.rglob("features/**/*.npy"))
    assert len(files) == 4 * TRAINED + 12
    stamps = [path.stat().st_mtime_ns for path in files]
    again, _ = opaque.train(options)
    assert sorted(opaque.cache.rglob("features/**/*.npy")) == files
    assert [path.stat().st_mtime_ns for path in files] == stamps
    np.testing.assert_array_equal(first.head.kernel, again.head.kernel)


def test_an_opaque_module_is_tuned_as_a_whole_if_asked(opaque: Bench) -> None:
    untouched = opaque_extractor(opaque.backbone, trainable=True)
    model, steps = opaque.train(TransferOptions(fine_tune="all", epochs=8))
    assert [phase.name for phase in model.phases] == ["head", "fine-tuning"]
    assert "Fine-tuning (all)" in steps.seconds
    assert opaque.right(model) > 0.6
    for before, after in zip(untouched.variables, model.extractor.variables, strict=True):
        assert not np.array_equal(before.numpy(), after.numpy())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (TransferOptions(fine_tune="top"), "--fine-tune top"),
        (TransferOptions(fine_tune="scratch"), "--fine-tune scratch"),
        (TransferOptions(crop="detected"), "--crop detected"),
    ],
)
def test_an_opaque_module_says_what_it_cannot(opaque: Bench, options: TransferOptions, named: str) -> None:
    with pytest.raises(BadSetting, match=f"{named}: .*{opaque.backbone.handle}.*opaque module.* Use "):
        opaque.train(options)


def test_weights_that_cannot_be_trained_are_not(opaque: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Bench(opaque.backbone.model_copy(update={"trainable": False}), None, opaque.cache, opaque.size_px)
    with pytest.raises(BadSetting, match=r"--fine-tune all: .*without trainable weights\. Use none"):
        fixed.train(TransferOptions(fine_tune="all"))
    # Nor where so many unlike images would have them tuned.
    monkeypatch.setattr(transfer, "_FEW_IMAGES", 2)
    monkeypatch.setattr(transfer, "_MANY_IMAGES", 3)
    monkeypatch.setattr(transfer, "_SEPARABLE", 1.1)
    model, _ = fixed.train(TransferOptions(epochs=2))
    assert model.plan.fine_tune == "none"
    assert "without trainable weights" in model.plan.reasons[-1]
