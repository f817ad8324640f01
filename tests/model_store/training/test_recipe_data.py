"""The images that recipes learn from, and those that they are judged by."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model_store.backbones.resolve import Backbone
from model_store.bundle.policy import Mode
from model_store.datasets.dataset import Dataset, load_dataset
from model_store.datasets.image_loading import DecodeSettings
from model_store.runtime.progress import ProgressSteps
from model_store.training.prepared_data import PreparedData
from model_store.training.recipe_data import (
    Resources,
    audit_for_comparison,
    dataset_fingerprint,
    judged_dataset,
    mode_subset,
    split_off_fifth,
)
from shared.errors import BadDataset
from tests.model_store.tiny_backbone import write_class_folders, write_labeled

KINDS = ("good", "no cap", "pigmented", "no cap|pigmented")


@pytest.fixture
def learn(tmp_path: Path) -> Dataset:
    rows = {f"{index:02}.png": KINDS[index % 4] for index in range(24)}
    return load_dataset(write_labeled(tmp_path / "learn", rows, first_seed=5000))


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    return Resources(tmp_path / "cache", DecodeSettings(), ProgressSteps())


def prepared(dataset: Dataset, mode: Mode, resources: Resources, *, size_px: int = 48) -> PreparedData:
    backbone = Backbone(handle="b", path=Path("b"), sha256="s", input_size_px=size_px, feature_width=8)
    subset = mode_subset(dataset, mode)
    report = audit_for_comparison(subset, mode, resources)
    return resources.prepare(subset, mode, backbone=backbone, network=None, report=report)


def test_the_judged_images_have_the_size_that_is_learned_from(
    tmp_path: Path, learn: Dataset, resources: Resources
) -> None:
    rows = {"a.png": "no cap", "b.png": "good", "c.png": "no cap|pigmented", "d.png": "good"}
    judge = load_dataset(write_labeled(tmp_path / "judge", rows, first_seed=700))
    (tmp_path / "judge" / "b.png").write_bytes(b"no image")
    for mode, names in (("multi", ["a.png", "c.png", "d.png"]), ("single", ["a.png", "d.png"])):
        judged = judged_dataset(prepared(learn, mode, resources), mode_subset(judge, mode), resources)
        assert judged.decoded is not None
        assert [sample.name for sample in judged.decoded.samples] == names
        assert [item.name for item in judged.decoded.unreadable] == ["b.png"]
        assert judged.images.shape == (len(names), 48, 48, 3)
        assert judged.labels == [sample.labels for sample in judged.decoded.samples]


def test_unknown_labels_of_the_judged_images_stay_unknown(tmp_path: Path, learn: Dataset, resources: Resources) -> None:
    judge = load_dataset(write_class_folders(tmp_path / "folders", per_class=2))
    judged = judged_dataset(prepared(learn, "multi", resources), judge, resources)
    assert judged.label_mask is not None
    # The columns are good, no cap, pigmented. Of the bottles in `no cap`, it is unknown whether they are pigmented.
    assert judged.label_mask[2:4].tolist() == [[True, True, False]] * 2


def test_an_image_that_is_learned_from_judges_nothing(tmp_path: Path, learn: Dataset, resources: Resources) -> None:
    judge = write_labeled(tmp_path / "judge", {"a.png": "good", "b.png": "good"}, first_seed=700)
    shutil.copy(tmp_path / "learn" / "00.png", judge / "b.png")
    with pytest.raises(BadDataset, match=r"judge has 1 image in common with .*learn, e\.g\. b\.png"):
        judged_dataset(prepared(learn, "multi", resources), load_dataset(judge), resources)


def test_labels_that_are_not_learned_and_no_images_are_refused(
    tmp_path: Path, learn: Dataset, resources: Resources
) -> None:
    write_labeled(tmp_path / "judge", {"a.png": "no cap|pigmented"}, first_seed=700)
    judge = load_dataset(tmp_path / "judge")
    with pytest.raises(BadDataset, match="no usable image with exactly one label to judge by"):
        judged_dataset(prepared(learn, "single", resources), mode_subset(judge, "single"), resources)
    (tmp_path / "judge" / "labels.csv").write_text("filename,labels\na.png,dirty\n")
    with pytest.raises(BadDataset, match="has the label 'dirty', which the model doesn't know"):
        judged_dataset(prepared(learn, "multi", resources), load_dataset(tmp_path / "judge"), resources)


def test_all_sizes_get_the_same_splits(learn: Dataset, resources: Resources) -> None:
    (small, judged), (large, others) = (
        split_off_fifth(prepared(learn, "multi", resources, size_px=size_px), 3) for size_px in (32, 96)
    )
    assert small.tolist() == large.tolist()
    assert judged.labels == others.labels
    assert len(small) + len(judged.labels) == 24


def test_the_fingerprint_is_of_the_files_and_what_is_said_of_them(tmp_path: Path, learn: Dataset) -> None:
    def fingerprint() -> str:
        return dataset_fingerprint(load_dataset(tmp_path / "learn"), decode_settings=DecodeSettings())

    before = fingerprint()
    assert fingerprint() == before
    (tmp_path / "learn" / "held_out.txt").write_text("01.png\n")
    assert fingerprint() != before
    (tmp_path / "learn" / "held_out.txt").unlink()
    table = tmp_path / "learn" / "labels.csv"
    plain = table.read_text()
    heading, *rows = plain.splitlines()
    table.write_text("\n".join([f"{heading},split", *(f"{row},train" for row in rows)]))
    assert fingerprint() == before
    table.write_text(table.read_text().replace("01.png,no cap,train", "01.png,no cap,valid"))
    assert fingerprint() != before
    table.write_text(plain)
    (tmp_path / "learn" / "02.png").write_bytes(b"another")
    assert fingerprint() != before
