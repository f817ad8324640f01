"""Tuning a small network on frames of colored bottles: which weights change, and which epoch is kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training import fine_tuning, losses
from model_store.training.crop_geometry import CropSize
from model_store.training.feature_extractor import FeatureExtractor, graph_extractor, opaque_extractor
from model_store.training.fine_tuning import SETTINGS, FineTuneSettings, Frames, fine_tune
from model_store.training.head import Head, Scaler, TrainResult, logits_of
from model_store.training.object_localizer import ObjectLocalizer, resize_frames
from shared.errors import BadSetting
from tests.model_store.conftest import CachedModule
from tests.model_store.tiny_backbone import SIZE_PX as OPAQUE_PX
from tests.model_store.tiny_network import colored_frames

pytestmark = pytest.mark.training

CLASSES = ("good", "no cap", "pigmented")
CROP_SIZE = CropSize(96, 64)
SIZE_PX = 96


@dataclass(frozen=True)
class Tuned:
    """A tuning run, with the network's arrays and the localizer's maps before and after it."""

    extractor: FeatureExtractor
    result: TrainResult
    validation: Frames
    before: dict[str, NDArray[np.float32]]
    after: dict[str, NDArray[np.float32]]
    maps_before: NDArray[np.float32]
    maps_after: NDArray[np.float32]

    def moved(self, names: set[str]) -> set[str]:
        return {name for name in names if not np.array_equal(self.before[name], self.after[name])}


def arrays(network: Network) -> dict[str, NDArray[np.float32]]:
    return {variable.name: variable.numpy() for variable in network.graph.weights}


def names(variables: Any) -> set[str]:
    return {variable.name for variable in variables}


def blank_head(width: int) -> Head:
    return Head("single", CLASSES, np.zeros((width, 3), np.float32), np.zeros(3, np.float32))


def tuned(
    network: Network,
    settings: FineTuneSettings,
    *,
    everything: bool,
    localizer_network: Network | None = None,
) -> Tuned:
    train, validation = colored_frames(24, seed=1, size_px=SIZE_PX), colored_frames(12, seed=2, size_px=SIZE_PX)
    localizer = ObjectLocalizer.fit(localizer_network or network, train.images, on_progress=lambda count: None)
    extractor = replace(
        graph_extractor(network, localizer=localizer, localizer_network=localizer_network), crop_size=CROP_SIZE
    )
    features = np.asarray(extractor.features(train.images))
    shown = resize_frames(import_tensorflow().constant(validation.images), network.architecture)
    before, maps = arrays(network), np.asarray(extractor.localizer_graph(shown, training=False))
    told: list[int] = []
    result = fine_tune(
        extractor,
        blank_head(extractor.feature_width),
        variables=extractor.variables if everything else extractor.top_variables,
        train=train,
        validation=validation,
        settings=settings,
        scaler=Scaler.of(features),
        seed=5,
        on_progress=told.append,
    )
    assert sum(told) == settings.epochs * len(train.images)
    after = np.asarray(extractor.localizer_graph(shown, training=False))
    return Tuned(extractor, result, validation, before, arrays(network), maps, after)


QUICK = replace(SETTINGS["top"], epochs=4, batch_size=8, learning_rate=1e-3)


@pytest.fixture(scope="module")
def top(tiny_network: Network) -> Tuned:
    return tuned(tiny_network.clone(), QUICK, everything=False)


@pytest.fixture(scope="module")
def everything(tiny_network: Network) -> Tuned:
    settings = replace(SETTINGS["all"], epochs=1, batch_size=8)
    return tuned(tiny_network.clone(), settings, everything=True)


@pytest.fixture(scope="module")
def scratch(tiny_network: Network) -> Tuned:
    settings = replace(SETTINGS["scratch"], epochs=2, batch_size=8)
    blank = tiny_network.clone(pretrained=False)
    return tuned(blank, settings, everything=True, localizer_network=tiny_network)


def test_top_moves_only_the_layers_after_the_localizers(top: Tuned) -> None:
    moved = top.moved(set(top.before))
    assert moved == names(top.extractor.top_variables)
    assert any(name.startswith("block_13") for name in moved)
    assert any(name.startswith("block_6_depthwise") for name in moved)
    assert not any(name.startswith(("Conv1", "block_6_expand", "Conv_1", "block_14")) for name in moved)


def test_all_moves_every_layer_up_to_the_feature_layer(everything: Tuned) -> None:
    assert everything.moved(set(everything.before)) == names(everything.extractor.variables)
    assert any(name.startswith("Conv1/") for name in names(everything.extractor.variables))


@pytest.mark.parametrize("method", ["top", "everything", "scratch"])
def test_the_localizer_keeps_the_weights_it_was_fitted_on(method: str, request: pytest.FixtureRequest) -> None:
    run: Tuned = request.getfixturevalue(method)
    np.testing.assert_array_equal(run.maps_after, run.maps_before)
    assert np.ptp(run.maps_before) > 0


def statistics(run: Tuned) -> set[str]:
    return {name for name in run.before if "moving_" in name and "_14" not in name and "Conv_1" not in name}


@pytest.mark.parametrize("method", ["top", "everything"])
def test_pretrained_statistics_are_not_changed(method: str, request: pytest.FixtureRequest) -> None:
    run: Tuned = request.getfixturevalue(method)
    assert run.moved({name for name in run.before if "moving_" in name}) == set()


def test_from_scratch_gathers_its_own_statistics(scratch: Tuned) -> None:
    used = {name.split("/")[0] for name in names(scratch.extractor.variables)}
    seen = {name for name in statistics(scratch) if name.split("/")[0] in used}
    assert len(seen) > 60
    assert scratch.moved(seen) == seen


@pytest.mark.parametrize("method", ["top", "scratch"])
def test_the_weights_of_the_kept_epoch_are_those_of_the_model(method: str, request: pytest.FixtureRequest) -> None:
    run: Tuned = request.getfixturevalue(method)
    told = run.result.history["val_loss"]
    kept = told[run.result.best_epoch]
    assert run.result.best_epoch in (int(np.argmin(told)), len(told) - 1)
    features = np.asarray(run.extractor.features(run.validation.images))
    logits, targets = logits_of(run.result.head, features), run.validation.targets
    weights = losses.class_weights(colored_frames(24, seed=1, size_px=SIZE_PX).targets, "single")
    found = float(np.mean(losses.loss(targets, logits, mode="single", smoothing=0.02, weights=weights)))
    assert found == pytest.approx(kept, rel=1e-3)


@pytest.fixture(scope="module")
def opaque_backbone(opaque_module: CachedModule) -> Backbone:
    """Eight convolutions, which are traced in a moment, while the network takes seconds."""
    return opaque_module.resolved()


@dataclass(frozen=True)
class TunedOpaque:
    """A tuning run of an opaque module, with its arrays before and after it."""

    result: TrainResult
    before: list[NDArray[np.float32]]
    after: list[NDArray[np.float32]]

    @property
    def has_moved(self) -> list[bool]:
        return [not np.array_equal(*pair) for pair in zip(self.before, self.after, strict=True)]


def tuned_opaque(backbone: Backbone, settings: FineTuneSettings, *, images: int = 8) -> TunedOpaque:
    extractor = opaque_extractor(backbone, trainable=True)
    train, validation = (colored_frames(count, seed=count, size_px=OPAQUE_PX) for count in (images, images // 2))
    before = [variable.numpy() for variable in extractor.variables]
    result = fine_tune(
        extractor,
        blank_head(extractor.feature_width),
        variables=extractor.variables,
        train=train,
        validation=validation,
        settings=settings,
        scaler=Scaler.of(np.asarray(extractor.features(train.images))),
        seed=5,
        on_progress=lambda count: None,
    )
    return TunedOpaque(result, before, [variable.numpy() for variable in extractor.variables])


class Scripted:
    """Replaces the evaluation of a run: returns these losses in turn, and keeps the weights at each call.

    The accuracy is 1, and at last `last_accuracy`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *losses: float, last_accuracy: float = 1.0) -> None:
        self.seen: list[list[Any]] = []

        def evaluate(run: Any, pixels: object, targets: object) -> tuple[float, float]:
            self.seen.append(run.weights())
            return losses[len(self.seen) - 1], last_accuracy if len(self.seen) == len(losses) else 1.0

        monkeypatch.setattr(fine_tuning._Run, "evaluate", evaluate)


@pytest.mark.parametrize(
    ("losses", "last_accuracy", "best_epoch"),
    [
        ((2.0, 1.9, 1.5, 1.6, 1.7), 1.0, 3),  # the last one is as accurate as the one with the lowest loss
        ((2.0, 1.9, 1.5, 1.6, 2.7), 0.5, 3),  # two answers of four fewer
        ((2.0, 1.9, 1.5, 1.6, 1.7), 0.25, 1),
        ((2.0, 2.9, 2.5, 1.7, 1.8), 0.25, 2),  # worse than the start for several epochs
        ((2.0, 2.1, 2.2), 1.0, -1),
        ((2.0, 2.1, float("nan")), 1.0, -1),
    ],
)
def test_the_last_epoch_is_kept_unless_it_is_less_accurate_than_the_lowest_loss(
    opaque_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    losses: tuple[float, ...],
    last_accuracy: float,
    best_epoch: int,
) -> None:
    script = Scripted(monkeypatch, *losses, last_accuracy=last_accuracy)
    run = tuned_opaque(opaque_backbone, replace(QUICK, epochs=len(losses) - 1))
    assert (run.result.best_epoch, run.result.loss_before) == (best_epoch, losses[0])
    assert {name: len(values) for name, values in run.result.history.items()} == dict.fromkeys(
        ("loss", "acc", "val_loss", "val_acc", "learning_rate"), len(losses) - 1
    )
    *kept, kernel, bias = script.seen[best_epoch + 1]
    assert len({array.tobytes() for array, *_ in script.seen}) == len(script.seen), "each epoch changes the layers"
    for array, expected in zip(run.after, kept, strict=True):
        np.testing.assert_array_equal(array, expected)
    assert run.has_moved == [best_epoch >= 0] * len(kept)
    assert np.allclose(run.result.head.kernel, 0, atol=1e-6) == np.allclose(kernel, 0) == (best_epoch == -1)
    assert np.any(bias) == (best_epoch >= 0)


FROM_SCRATCH = replace(SETTINGS["scratch"], batch_size=8)


def test_the_random_initial_weights_are_never_the_best_epoch(
    opaque_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scripted(monkeypatch, 1.0, 3.0, 2.0)
    assert tuned_opaque(opaque_backbone, replace(FROM_SCRATCH, epochs=2)).result.best_epoch == 1


def test_a_training_from_scratch_that_learns_nothing_fails(
    opaque_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scripted(monkeypatch, 1.0, float("nan"))
    with pytest.raises(BadSetting, match="no epoch of 1 had a finite validation loss"):
        tuned_opaque(opaque_backbone, replace(FROM_SCRATCH, epochs=1))


def test_the_rate_falls_along_a_cosine(top: Tuned) -> None:
    told = top.result.history["learning_rate"]
    np.testing.assert_allclose(told, QUICK.learning_rate / 2 * (1 + np.cos(np.pi * np.arange(4) / 4)), rtol=1e-5)


def test_a_seed_reproduces_a_tuning(top: Tuned, tiny_network: Network) -> None:
    again = tuned(tiny_network.clone(), QUICK, everything=False)
    assert again.result.history == top.result.history
    np.testing.assert_array_equal(again.result.head.kernel, top.result.head.kernel)
    for name, array in top.after.items():
        np.testing.assert_array_equal(again.after[name], array, err_msg=name)


def test_an_opaque_module_is_tuned_as_a_whole(opaque_backbone: Backbone) -> None:
    run = tuned_opaque(opaque_backbone, replace(SETTINGS["all"], epochs=12, learning_rate=1e-3), images=32)
    assert run.has_moved == [True] * 8
    losses = run.result.history["val_loss"]
    assert min(losses) < 0.8 * losses[0]


def test_unknown_targets_do_not_affect_the_tuning(opaque_backbone: Backbone) -> None:
    extractor = opaque_extractor(opaque_backbone, trainable=True)
    frames = colored_frames(24, seed=3, size_px=OPAQUE_PX)
    targets = frames.targets[:, 1:].copy()
    targets[:, 1] = np.nan
    head = Head("multi", CLASSES, np.zeros((extractor.feature_width, 2), np.float32), np.zeros(2, np.float32))
    known = Frames(frames.images, targets)
    result = fine_tune(
        extractor,
        head,
        variables=extractor.variables,
        train=known,
        validation=known,
        settings=replace(SETTINGS["all"], epochs=2),
        scaler=Scaler.identity(extractor.feature_width),
        seed=5,
        on_progress=lambda count: None,
    )
    assert np.isfinite([*result.history["loss"], *result.history["val_loss"]]).all()
    assert (result.head.kernel[:, 1] == 0).all()
    assert (result.head.kernel[:, 0] != 0).any()
