"""The files of a dataset are read within limits; what can't be read is named, and the others are read."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from model_store.datasets.dataset import load_dataset
from model_store.datasets.image_loading import DecodedSamples, DecodeSettings, decode_samples
from shared import file_walk, zip_archive
from shared.errors import BadDataset
from tests.irregular_files import make_irregular_files, make_sparse_file
from tests.model_store.tiny_backbone import SIZE_PX, picture, write_class_folders

pytestmark = pytest.mark.timeout(60)  # a pipe that is opened waits for ever
SETTINGS = DecodeSettings(max_bytes=1_000_000)


def decode(path: Path) -> DecodedSamples:
    data = load_dataset(path)
    return decode_samples(
        data.files, data.samples, size_px=SIZE_PX, decode_settings=SETTINGS, on_progress=lambda _: None
    )


def test_what_is_no_regular_file_is_named_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_class_folders(tmp_path / "set", per_class=2)
    monkeypatch.chdir(folder)
    reasons = make_irregular_files(folder / "good")
    make_sparse_file(folder / "good" / "sparse.jpg")
    reasons["sparse.jpg"] = "has more than 1,000,000 bytes, the limit (max_image_bytes)"
    decoded = decode(folder)
    assert len(decoded.samples) == 6
    found = {one.name.removeprefix("good/"): one.reason for one in decoded.unreadable}
    assert found.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in found[name]


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "held_out.txt"])
def test_a_table_that_is_a_pipe_is_named(tmp_path: Path, name: str) -> None:
    folder = write_class_folders(tmp_path / "set", per_class=2)
    os.mkfifo(folder / name)
    with pytest.raises(BadDataset, match=f"{name} can't be read: not a regular file"):
        load_dataset(folder)


def test_a_table_of_any_size_is_bounded(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "set", per_class=2)
    make_sparse_file(folder / "labels.csv")
    with pytest.raises(BadDataset, match=r"labels\.csv has more than 50,000,000 bytes, the limit\."):
        load_dataset(folder)


def test_a_dataset_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "set.zip")
    with pytest.raises(BadDataset, match="is neither a folder nor a complete zip"):
        load_dataset(tmp_path / "set.zip")


def test_a_folder_of_too_many_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_class_folders(tmp_path / "set", per_class=2)
    monkeypatch.setattr(file_walk, "MAX_LISTED", 5)
    with pytest.raises(BadDataset, match=f"dataset: {folder} can't be read: it holds 5 files and folders or more"):
        load_dataset(folder)


def zipped(path: Path, **odd: zipfile.ZipInfo) -> Path:
    """A zip of two classes; `odd` members hold a picture too."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good/a.png", picture("good", 0))
        archive.writestr("bad/b.png", picture("no cap", 1))
        for name, member in odd.items():
            member.filename = f"good/{name}.png"
            archive.writestr(member, picture("good", 2))
    return path


def member(method: int = zipfile.ZIP_STORED, mode: int = stat.S_IFREG) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.compress_type, info.external_attr = method, (mode | 0o644) << 16
    return info


def test_members_that_are_not_read_are_named_with_the_reason(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "set.zip",
        bzip2=member(zipfile.ZIP_BZIP2),
        lzma=member(zipfile.ZIP_LZMA),
        link=member(mode=stat.S_IFLNK),
    )
    decoded = decode(path)
    assert [sample.name for sample in decoded.samples] == ["bad/b.png", "good/a.png"]
    assert {one.name: one.reason for one in decoded.unreadable} == {
        "good/bzip2.png": "good/bzip2.png in the zip: compressed with bzip2, which is not read: pack the archive again "
        "with deflate, as `zip` does.",
        "good/lzma.png": "good/lzma.png in the zip: compressed with LZMA, which is not read: pack the archive again "
        "with deflate, as `zip` does.",
        "good/link.png": "good/link.png in the zip: not a regular file but a link or device.",
    }


def test_a_member_above_the_limit_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "MAX_EXPANSION", 1_000_000)
    path = zipped(tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good/bomb.png", bytes(50_000_000))
    (bomb,) = decode(path).unreadable
    assert bomb.reason == "good/bomb.png has more than 1,000,000 bytes, the limit (max_image_bytes)."


def test_a_zip_that_expands_too_much_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good/a.png", picture("good", 0))
        archive.writestr("labels.csv", bytes(50_000_000))
    with pytest.raises(BadDataset, match=r"labels\.csv in the zip: its archive expands to more than 100 times"):
        load_dataset(path)


def test_a_zip_of_too_many_members_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "MAX_MEMBERS", 1)
    with pytest.raises(BadDataset, match=r"too large a zip: 2 files in one archive, the limit is 1: split it\."):
        load_dataset(zipped(tmp_path / "set.zip"))


def test_of_several_members_of_one_name_the_last_is_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("good/a.png", picture("good", 7))
    assert load_dataset(path).files.read("good/a.png") == picture("good", 7)
