"""What training is given: regions that training sees too, and frames of the usual size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.datasets import Dataset, load_dataset
from model_store.material import check_regions, frame_sizes
from shared.errors import BadSetting
from shared.regions import Region
from tests.model_store.tiny_backbone import SIZE_PX, write_labelled

CAMERAS = {"a.png": "top", "b.png": "side", "c.png": "", "d.png": "spare"}
PART = Region(0, 0, 0.5, 1)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Images of the cameras `top` and `side`, one of none, and one of `spare` that is held out."""
    write_labelled(tmp_path, dict.fromkeys(CAMERAS, "good"))
    lines = [f"{name},good,{camera}" for name, camera in CAMERAS.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,labels,camera", *lines]))
    (tmp_path / "held_out.txt").write_text("d.png")
    return load_dataset(tmp_path)


@pytest.mark.parametrize("cameras", [(), ("*",), ("top",), ("side", "top", "*")])
def test_regions_of_cameras_that_are_trained_on_are_taken(dataset: Dataset, cameras: tuple[str, ...]) -> None:
    check_regions(dict.fromkeys(cameras, PART), dataset)


@pytest.mark.parametrize("camera", ["cam-2", "spare", "TOP"])
def test_a_region_that_only_serving_would_see_is_refused(dataset: Dataset, camera: str) -> None:
    with pytest.raises(BadSetting, match=f"--region {camera}=0,0,0.5,1: .*'{camera}', they are of side, top"):
        check_regions({"top": PART, camera: PART}, dataset)


def test_sizes_are_those_of_readable_images(dataset: Dataset) -> None:
    folder = dataset.files.path
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "b.png")
    (folder / "c.png").write_bytes(b"no image")
    assert sorted(frame_sizes(dataset.files, dataset.samples)) == [(SIZE_PX, SIZE_PX)] * 2 + [(60, 40)]
    for name in CAMERAS:
        (folder / name).write_bytes(b"no image")
    assert frame_sizes(dataset.files, dataset.samples) == [(224, 224)]
