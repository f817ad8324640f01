"""Each of the four methods of transfer, from frames to a head."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.runtime.progress import ProgressSteps
from model_store.training import feature_extractor, plan
from model_store.training.crop_geometry import CropSize
from model_store.training.feature_extractor import opaque_extractor
from model_store.training.head import HeadSettings, logits_of
from model_store.training.history import Epoch, OnEpoch
from model_store.training.plan import TransferOptions
from model_store.training.transfer import TrainedModel, train_model
from shared.errors import BadSetting
from shared.progress import ignore
from tests.model_store.conftest import CachedModule
from tests.model_store.tiny_backbone import SIZE_PX as OPAQUE_PX
from tests.model_store.tiny_network import colored_frames

pytestmark = pytest.mark.training

CLASSES = ("good", "no cap", "pigmented")
SIZE_PX = 96
TRAINED = 32


@dataclass(frozen=True)
class Bench:
    """The arguments of `train_model`, except the options."""

    backbone: Backbone
    network: Network | None
    cache: Path
    size_px: int

    def train(self, options: TransferOptions, *, on_epoch: OnEpoch = ignore) -> tuple[TrainedModel, ProgressSteps]:
        steps = ProgressSteps()
        # Only whole batches: TensorFlow would trace another graph for another size, which takes seconds.
        train, validation = (colored_frames(count, seed=count, size_px=self.size_px) for count in (TRAINED, 12))
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
            on_epoch=on_epoch,
        )
        return model, steps

    def right(self, model: TrainedModel) -> float:
        held_out = colored_frames(30, seed=77, size_px=self.size_px)
        logits = logits_of(model.head, np.asarray(model.extractor.features(held_out.images)))
        return float((logits.argmax(axis=1) == held_out.targets.argmax(axis=1)).mean())


@pytest.fixture
def bench(tiny_network: Network, network_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(feature_extractor, "UPRIGHT_SIZE", CropSize(96, 64))
    monkeypatch.setattr(feature_extractor, "FULL_FRAME_SIZE", CropSize(96, 96))
    return Bench(network_backbone, tiny_network, tmp_path / "cache", SIZE_PX)


@pytest.fixture(scope="module")
def opaque(tmp_path_factory: pytest.TempPathFactory, opaque_module: CachedModule) -> Bench:
    return Bench(opaque_module.resolved(), None, tmp_path_factory.mktemp("opaque") / "cache", OPAQUE_PX)


@pytest.mark.parametrize(
    ("options", "phases"),
    [
        (TransferOptions(fine_tune="none", crop="auto", epochs=20), ["head"]),
        (TransferOptions(fine_tune="top", crop="auto", epochs=5), ["head", "fine-tuning"]),
        (TransferOptions(fine_tune="all", crop="full", epochs=5), ["head", "fine-tuning"]),
        (TransferOptions(fine_tune="scratch", crop="detected", epochs=15), ["fine-tuning"]),
    ],
    ids=lambda value: value.fine_tune if isinstance(value, TransferOptions) else "",
)
def test_each_method_learns(bench: Bench, options: TransferOptions, phases: list[str]) -> None:
    model, _ = bench.train(options)
    assert [phase.name for phase in model.phases] == phases
    assert model.plan.fine_tune == options.fine_tune
    compared = {"full"} if options.fine_tune == "none" else {"detected", "full"}
    assert set(model.plan.separability) == (compared if options.crop == "auto" else {options.crop})
    assert model.extractor.crop == model.plan.crop
    assert (model.fine_tune_settings is None) == (options.fine_tune == "none")
    assert model.phases[-1].history["acc"][-1] > 0.6  # a third would be right by chance
    if options.fine_tune != "none":  # the last layer of this network, which has random weights, tells new images little
        assert bench.right(model) > 0.6


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
def test_options_that_an_opaque_module_cannot_fulfil_are_refused(
    opaque: Bench, options: TransferOptions, named: str
) -> None:
    with pytest.raises(BadSetting, match=f"{named}: .*{opaque.backbone.handle}.*opaque module.* Use "):
        opaque.train(options)


def test_a_module_without_trainable_weights_is_not_tuned(opaque: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed = Bench(opaque.backbone.model_copy(update={"trainable": False}), None, opaque.cache, opaque.size_px)
    with pytest.raises(BadSetting, match=r"--fine-tune all: .*without trainable weights\. Use none"):
        fixed.train(TransferOptions(fine_tune="all"))
    # That is also so if the plan would otherwise choose fine-tuning.
    monkeypatch.setattr(plan, "_FEW_IMAGES", 2)
    monkeypatch.setattr(plan, "_MANY_IMAGES", 3)
    monkeypatch.setattr(plan, "_SEPARABLE", 1.1)
    model, _ = fixed.train(TransferOptions(epochs=2))
    assert model.plan.fine_tune == "none"
    assert "without trainable weights" in model.plan.reasons[-1]


def test_learning_rate_and_batch_size_are_the_users(opaque: Bench) -> None:
    """The learning rate is for the last phase: a rate that suits fine-tuning is too low for the head."""
    usual = HeadSettings(epochs=2)
    tuned, _ = opaque.train(TransferOptions(fine_tune="all", epochs=2, learning_rate=2e-5, batch_size=6))
    assert tuned.head_settings == replace(usual, batch_size=6)
    assert tuned.phases[-1].history["learning_rate"][0] == pytest.approx(2e-5)
    head_only, _ = opaque.train(TransferOptions(fine_tune="none", epochs=2, learning_rate=2e-3))
    assert head_only.head_settings == replace(usual, learning_rate=2e-3)
    assert head_only.phases[-1].history["learning_rate"][0] == pytest.approx(2e-3)


def test_every_epoch_of_every_phase_is_reported(opaque: Bench) -> None:
    reported: list[Epoch] = []
    model, _ = opaque.train(TransferOptions(fine_tune="all", epochs=5), on_epoch=reported.append)
    assert [(epoch.phase, epoch.number) for epoch in reported] == [
        *(("head", number) for number in range(5)),
        *(("fine-tuning", number) for number in range(3)),
    ]
    for phase in model.phases:
        for name, values in phase.history.items():
            assert [epoch.values[name] for epoch in reported if epoch.phase == phase.name] == values
    line = r"epoch 3/3 - loss: \d+\.\d{4} \(val \d+\.\d{4}\) - accuracy: \d\.\d{3} \(val \d\.\d{3}\)"
    assert re.fullmatch(line, str(reported[-1]))
