"""A table's names find their files, also where the two write them otherwise; a name that fits several finds none."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from pathlib import Path

import pytest

from model_store.datasets.dataset import load_dataset
from model_store.datasets.dataset_files import open_files
from model_store.datasets.file_lookup import FileLookup
from shared.errors import BadDataset
from tests.model_store.datasets.test_label_tables import write_images

FILES = ("img/a.jpg", "img/B.JPG", "img/sub/c.png", "d.png", "img/é.png", "two/x.png", "img/x.png", "two/d.png")
NFD = unicodedata.normalize("NFD", "img/é.png")


@pytest.fixture
def lookup(tmp_path: Path) -> FileLookup:
    return FileLookup(open_files(write_images(tmp_path, *FILES)))


@pytest.mark.parametrize(
    ("written", "found", "how"),
    [
        ("img/a.jpg", "img/a.jpg", ""),
        (" ./img//a.jpg ", "img/a.jpg", ""),
        ("d.png", "d.png", ""),
        ("img\\sub\\c.png", "img/sub/c.png", "with `/` for back slashes"),
        ("img/A.JPG", "img/a.jpg", "in another Unicode form or case"),
        ("IMG\\b.jpg", "img/B.JPG", "in another Unicode form or case"),
        (NFD, "img/é.png", "in another Unicode form or case"),
        ("img/a", "img/a.jpg", "with an image's suffix"),
        ("c.png", "img/sub/c.png", "in a folder"),
        ("C", "img/sub/c.png", "in a folder, with an image's suffix"),
        ("x.png", None, ""),
        ("x", None, ""),
        ("other/c.png", None, ""),
        ("../img/a.jpg", None, ""),
        ("/etc/passwd", None, ""),
        ("C:\\data\\a.jpg", None, ""),
        ("", None, ""),
        (".", None, ""),
    ],
)
def test_a_name_finds_its_file(lookup: FileLookup, written: str, found: str | None, how: str) -> None:
    assert lookup.find(written) == found
    assert dict(lookup.found_otherwise) == ({how: 1} if how else {})


def test_an_absolute_name_below_the_dataset_finds_its_file(tmp_path: Path, lookup: FileLookup) -> None:
    assert lookup.find(f"{tmp_path}/img/a.jpg") == "img/a.jpg"
    assert lookup.find(f"{tmp_path}/../img/a.jpg") is None
    assert list(lookup.describe()) == [
        "1 file was found relative to the dataset's folder: the table writes the names otherwise than the folder"
    ]


def test_files_whose_names_differ_only_in_case_stay_two(tmp_path: Path) -> None:
    lookup = FileLookup(open_files(write_images(tmp_path, "a.png", "A.png", "b.png")))
    assert [lookup.find(name) for name in ("a.png", "A.png", "A.PNG", "B.png")] == ["a.png", "A.png", None, "b.png"]


@pytest.mark.parametrize("file", ["labels.csv", "labels.jsonl"])
def test_all_names_that_are_not_there_are_told_at_once(tmp_path: Path, file: str) -> None:
    names = ("a.png", "y.png", "z.png")
    rows = {
        "labels.csv": "filename,labels\n" + "".join(f"{name},good\n" for name in names),
        "labels.jsonl": "".join(json.dumps({"filename": name, "labels": "good"}) + "\n" for name in names),
    }
    (write_images(tmp_path, "a.png") / file).write_text(rows[file])
    with pytest.raises(BadDataset, match=r"'y\.png' does not exist. .* \(2 such lines in all\.\)"):
        load_dataset(tmp_path)


def test_the_same_line_twice_counts_once_and_is_told(tmp_path: Path) -> None:
    (write_images(tmp_path, "a.png") / "labels.csv").write_text("filename,labels\na.png,good\nA.png,good\na.png,good\n")
    dataset = load_dataset(tmp_path)
    assert [sample.name for sample in dataset.samples] == ["a.png"]
    assert "labels.csv: rows that repeat an earlier one, and count once: 2" in dataset.reading.lines()
    (tmp_path / "labels.csv").write_text("filename,labels\na.png,good\nA.PNG,no cap\n")
    with pytest.raises(BadDataset, match=r"line 3: file 'a\.png' is listed twice"):
        load_dataset(tmp_path)


def test_held_out_names_may_be_written_otherwise_too(tmp_path: Path) -> None:
    """A list of held-out images that is not understood would let them be trained on."""
    write_images(tmp_path, "img/a.png", "img/b.png")
    (tmp_path / "labels.csv").write_text("filename,labels\nimg/a.png,good\nimg/b.png,no cap\n")
    (tmp_path / "Held_Out.TXT").write_text("img\\A.png\n")
    dataset = load_dataset(tmp_path)
    assert [sample.name for sample in dataset.samples if sample.held_out] == ["img/a.png"]
    assert dataset.lists == (tmp_path / "labels.csv", tmp_path / "Held_Out.TXT")


def test_names_in_a_zip_may_be_of_the_folder_around_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("set/img/a.png", b"x")
        archive.writestr("set/labels.csv", "filename,labels\nset/img/a.png,good\n")
    assert [sample.name for sample in load_dataset(tmp_path / "set.zip").samples] == ["img/a.png"]
