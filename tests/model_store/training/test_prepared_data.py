"""Prepared data: regions only of cameras with training images, frames at their usual size, and correct splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.backbones.resolve import Backbone
from model_store.datasets.dataset import Dataset, load_dataset
from model_store.datasets.image_loading import DecodeSettings
from model_store.runtime.progress import ProgressSteps
from model_store.training.prepared_data import PreparedData, check_regions, frame_sizes
from shared.errors import BadSetting
from shared.images.crop_regions import Region
from tests.model_store.tiny_backbone import SIZE_PX, picture, write_labeled

CAMERAS = {"a.png": "top", "b.png": "side", "c.png": "", "d.png": "spare"}
PART = Region(0, 0, 0.5, 1)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Images of the cameras `top` and `side`, one without a camera, and a held-out one of `spare`."""
    write_labeled(tmp_path, dict.fromkeys(CAMERAS, "good"))
    lines = [f"{name},good,{camera}" for name, camera in CAMERAS.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,labels,camera", *lines]))
    (tmp_path / "held_out.txt").write_text("d.png")
    return load_dataset(tmp_path)


@pytest.mark.parametrize("cameras", [(), ("*",), ("top",), ("side", "top", "*")])
def test_regions_of_cameras_with_training_images_are_accepted(dataset: Dataset, cameras: tuple[str, ...]) -> None:
    check_regions(dict.fromkeys(cameras, PART), dataset)


@pytest.mark.parametrize("camera", ["cam-2", "spare", "TOP"])
def test_a_region_of_a_camera_without_training_images_is_refused(dataset: Dataset, camera: str) -> None:
    with pytest.raises(BadSetting, match=f"--region {camera}=0,0,0.5,1: .*'{camera}'; their cameras are side, top"):
        check_regions({"top": PART, camera: PART}, dataset)


def test_sizes_are_those_of_readable_images(dataset: Dataset) -> None:
    folder = dataset.files.path
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "b.png")
    (folder / "c.png").write_bytes(b"no image")
    settings = DecodeSettings()
    assert sorted(frame_sizes(dataset.files, dataset.samples, settings)) == [(SIZE_PX, SIZE_PX)] * 2 + [(60, 40)]
    for name in CAMERAS:
        (folder / name).write_bytes(b"no image")
    assert frame_sizes(dataset.files, dataset.samples, settings) == [(224, 224)]


def test_sizes_are_read_within_the_limits_of_images_and_of_accepted_formats(dataset: Dataset) -> None:
    folder = dataset.files.path
    picture = Image.new("RGB", (60, 40))
    picture.save(folder / "a.png", "GIF")  # Pillow has a plugin for it
    picture.save(folder / "b.png", "PNG")
    with (folder / "b.png").open("ab") as file:
        file.truncate(10_001)
    Image.new("RGB", (100, 50)).save(folder / "c.png", "JPEG")
    picture.resize((50, 40)).save(folder / "d.png", "TIFF")
    settings = DecodeSettings(max_bytes=10_000, max_px=4_000)
    assert frame_sizes(dataset.files, dataset.samples, settings) == [(50, 40)]


def test_every_split_keeps_copies_together_and_contradictions_out(tmp_path: Path) -> None:
    kinds = ("good", "no cap", "pigmented")
    folder = write_labeled(tmp_path / "set", {f"{index:02}.png": kinds[index % 3] for index in range(24)})
    for index in range(0, 12, 2):  # six copies; all but the first have the label of their original
        (folder / f"{index + 12:02}.png").write_bytes((folder / f"{index:02}.png").read_bytes())
    table = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(table.replace("12.png,good", "12.png,no cap"))
    backbone = Backbone(handle="none", path=tmp_path, sha256="0" * 64, input_size_px=SIZE_PX, feature_width=8)
    data = PreparedData.prepare(
        load_dataset(folder),
        "multi",
        backbone=backbone,
        network=None,
        regions={},
        decode_settings=DecodeSettings(),
        seed=1,
        cache=tmp_path,
        steps=ProgressSteps(),
    )
    rows = np.setdiff1d(np.arange(24), [0, 12])
    for seed in range(10):
        chosen = data.split_rows(rows, seed=seed)
        inner = data.split_rows(chosen.train, seed=seed)
        assert sorted([*chosen.train, *chosen.validation]) == rows.tolist()
        assert sorted([*inner.train, *inner.validation]) == chosen.train.tolist()
        for parts in (chosen, inner):
            for part in parts:
                assert {index + 12 for index in (2, 4, 6, 8, 10) if index in part} == {*part} & {14, 16, 18, 20, 22}
    np.testing.assert_array_equal(data.split_rows(rows, seed=1).train, data.split.train)


def test_the_datasets_own_splits_are_used_and_what_is_in_test_is_in_neither(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        for label in ("good", "no cap"):
            rows = {f"{split}-{number}.png": label for number in range(count)}
            write_labeled(tmp_path / "set" / split / label, rows).joinpath("labels.csv").unlink()
    for number, file in enumerate(sorted((tmp_path / "set").rglob("*.png"))):
        file.write_bytes(picture(file.parent.name, 100 + number))
    data = PreparedData.prepare(
        load_dataset(tmp_path / "set"),
        "single",
        backbone=Backbone(handle="none", path=tmp_path, sha256="0" * 64, input_size_px=SIZE_PX, feature_width=8),
        network=None,
        regions={},
        decode_settings=DecodeSettings(),
        seed=1,
        cache=tmp_path,
        steps=ProgressSteps(),
    )
    used = [{sample.name.partition("/")[0] for sample in data.samples(rows)} for rows in data.split]
    assert used == [{"train"}, {"valid"}]
    assert {sample.name.partition("/")[0] for sample in data.held_out.samples} == {"test"}
    assert (len(data.split.train) + len(data.report.validation_copies), len(data.split.validation)) == (8, 4)
