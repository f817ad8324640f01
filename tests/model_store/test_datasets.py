"""What datasets are read as, and what is said of those that can't be."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from model_store.datasets import Dataset, check_trainable, load_dataset
from model_store.pixels import Pictures, decode_samples
from model_store.split import split
from shared.errors import BadDataset
from tests.model_store.tiny_backbone import SIZE_PX, write_class_folders, write_labelled

ROWS = {"a.png": "good", "b.png": "no cap|pigmented", "c.png": "pigmented", "d.png": "no cap"}


def _decode(dataset: Dataset) -> Pictures:
    return decode_samples(dataset.files, dataset.samples, size_px=SIZE_PX, advance=lambda _: None)


def _zip(folder: Path, target: Path, *, prefix: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, prefix + file.relative_to(folder).as_posix())
    return target


def test_class_folders(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "set", per_class=3)
    (folder / "forgotten.jpg").write_bytes(b"x")
    (folder / "README.md").write_text("not an image")
    dataset = load_dataset(folder)
    assert dataset.unlabelled == ("forgotten.jpg",)
    assert dataset.classes == ("good", "no cap", "pigmented")
    assert [sample.labels for sample in dataset.samples] == [("good",)] * 3 + [("no cap",)] * 3 + [("pigmented",)] * 3
    assert not dataset.has_several_labels


def test_labels_csv_and_what_it_forgets(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path, ROWS)
    (folder / "forgotten.jpg").write_bytes(b"x")
    (folder / "README.md").write_text("not an image")
    dataset = load_dataset(folder)
    assert {sample.name: sample.labels for sample in dataset.samples} == {
        name: tuple(labels.split("|")) for name, labels in ROWS.items()
    }
    assert dataset.has_several_labels
    assert dataset.unlabelled == ("forgotten.jpg",)


def test_jsonl_says_the_same_as_csv(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path, ROWS)
    expected = load_dataset(folder).samples
    (folder / "labels.csv").unlink()
    lines = [{"filename": "a.png", "labels": ["good"]}, {"filename": "b.png", "labels": ["pigmented", "no cap"]}]
    lines += [{"filename": name, "labels": ROWS[name]} for name in ("c.png", "d.png")]
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_dataset(folder).samples == expected


@pytest.mark.parametrize("prefix", ["", "bottles/"])
def test_a_zip_is_its_folder(tmp_path: Path, prefix: str) -> None:
    for kind in (write_class_folders(tmp_path / "folders", per_class=2), write_labelled(tmp_path / "table", ROWS)):
        plain, zipped = load_dataset(kind), load_dataset(_zip(kind, tmp_path / "set.zip", prefix=prefix))
        assert (zipped.classes, zipped.samples) == (plain.classes, plain.samples)
        assert _decode(zipped).fingerprint == _decode(plain).fingerprint
        np.testing.assert_array_equal(_decode(zipped).images, _decode(plain).images)


@pytest.mark.parametrize("name", ["../out.png", "/etc/x.png", "a/../../b.png", "C:/x.png", "..\\x.png"])
def test_a_zip_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(BadDataset, match="leads outside"):
        load_dataset(tmp_path / "set.zip")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file,labels\na.png,good\n", r"has the columns \['file', 'labels'\]"),
        ("filename,labels\nz.png,good\n", r"line 2: file 'z.png' is not there"),
        ("filename,labels\na.png,good\na.png,no cap\n", "line 3: file 'a.png' is listed twice"),
        ("filename,labels\na.png,\n", "can't be a label"),
        ("filename,labels\na.png,good|no cap\n", "says `good` beside a defect"),
        ("filename,labels\na.png\n", "line 2: should be `filename,labels`"),
        ("filename,labels\n", "has no labelled images"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, table: str, message: str) -> None:
    write_labelled(tmp_path, ROWS)
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(BadDataset, match=message):
        load_dataset(tmp_path)


def test_held_out_files_are_marked(tmp_path: Path) -> None:
    write_labelled(tmp_path, ROWS)
    (tmp_path / "held_out.txt").write_text("# for streaming\nb.png # two defects\n\n")
    assert [sample.name for sample in load_dataset(tmp_path).samples if sample.held_out] == ["b.png"]
    (tmp_path / "held_out.txt").write_text("y.png\n")
    with pytest.raises(BadDataset, match=r"names 'y\.png'"):
        load_dataset(tmp_path)


def test_unreadable_files_are_listed_not_fatal(tmp_path: Path) -> None:
    dataset = load_dataset(write_class_folders(tmp_path / "set", per_class=2))
    (tmp_path / "set" / "good" / "000.png").write_bytes(b"no image at all")
    pictures = _decode(dataset)
    assert [item.name for item in pictures.unreadable] == ["good/000.png"]
    assert "not an accepted image" in pictures.unreadable[0].reason
    assert len(pictures.images) == len(pictures.samples) == 5
    with pytest.raises(BadDataset, match="class 'good' has 1 usable"):
        check_trainable(pictures.samples, dataset.classes, tmp_path)


def test_classes_that_cannot_be_told_apart(tmp_path: Path) -> None:
    dataset = load_dataset(write_class_folders(tmp_path / "set", per_class=2))
    (tmp_path / "set" / "empty").mkdir()
    with_empty = load_dataset(tmp_path / "set")
    with pytest.raises(BadDataset, match="class 'empty' has 0 usable"):
        check_trainable(with_empty.samples, with_empty.classes, tmp_path)
    with pytest.raises(BadDataset, match="at least two"):
        check_trainable(dataset.samples, ["good"], tmp_path)


def test_the_fingerprint_is_of_contents_and_labels(tmp_path: Path) -> None:
    first = write_labelled(tmp_path / "first", ROWS)
    renamed = write_labelled(tmp_path / "renamed", {f"x{name}": labels for name, labels in ROWS.items()})
    relabelled = write_labelled(tmp_path / "relabelled", ROWS)
    table = (relabelled / "labels.csv").read_text()
    (relabelled / "labels.csv").write_text(table.replace("d.png,no cap", "d.png,pigmented"))
    fingerprints = [_decode(load_dataset(folder)).fingerprint for folder in (first, renamed, relabelled)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_the_split_is_stratified_and_repeatable() -> None:
    labels = [("good",)] * 50 + [("no cap",)] * 30 + [("no cap", "pigmented")] * 20
    chosen = split(labels, seed=123)
    again, other = split(labels, seed=123), split(labels, seed=124)
    assert chosen.validation.tolist() == again.validation.tolist() != other.validation.tolist()
    assert sorted([*chosen.train, *chosen.validation]) == list(range(100))
    counts = [sum(labels[index] == kind for index in chosen.validation) for kind in sorted(set(labels))]
    assert counts == [10, 6, 4]


@pytest.mark.parametrize("seed", range(10))
def test_every_class_has_an_image_to_train_on(seed: int) -> None:
    labels = [("good",)] * 9 + [("no cap",)]
    assert 9 in split(labels, seed=seed).train
