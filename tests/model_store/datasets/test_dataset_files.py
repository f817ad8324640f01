"""The files of a dataset are read within limits; what can't be read is named, and the others are read."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from pathlib import Path

import pytest

from model_store.datasets.dataset import load_dataset
from model_store.datasets.dataset_files import wrapping_folders
from model_store.datasets.image_loading import DecodedSamples, DecodeSettings, decode_samples
from shared import file_walk, zip_archive
from shared.errors import BadDataset
from tests.irregular_files import make_irregular_files, make_sparse_file
from tests.model_store.tiny_backbone import SIZE_PX, picture, write_class_folders

pytestmark = pytest.mark.timeout(60)  # a pipe that is opened waits for ever
HIDDEN = "hidden (a name that begins with a dot)"
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


def test_two_members_of_one_name_and_different_contents_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("good/a.png", picture("good", 7))
    with pytest.raises(BadDataset, match=r"different contents: 'good/a\.png' and 'good/a\.png'\. Rename or remove one"):
        load_dataset(path)


@pytest.mark.parametrize("name", ["good\\a.png", "good//a.png", "./good/a.png", "good/./a.png"])
def test_two_members_that_are_one_file_once_unpacked_are_refused(tmp_path: Path, name: str) -> None:
    path = zipped(tmp_path / "set.zip")
    info = zipfile.ZipInfo("x")
    info.filename = name
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(info, picture("good", 7))
    with pytest.raises(BadDataset, match=re.escape(f"'good/a.png' and {name!r}")):
        load_dataset(path)


def test_two_different_tables_of_one_name_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels.csv", "filename,labels\ngood/a.png,good\nbad/b.png,bad\n")
        archive.writestr("./labels.csv", "filename,labels\ngood/a.png,bad\nbad/b.png,good\n")
    with pytest.raises(BadDataset, match=r"'labels\.csv' and '\./labels\.csv'"):
        load_dataset(path)


LEFT_OUT = {
    "good/@eaDir/0.png": "@eaDir",
    "$RECYCLE.BIN/1.png": "$RECYCLE.BIN",
    "__MACOSX/good/2.png": "__MACOSX",
    "System Volume Information/3.png": "System Volume Information",
    "#recycle/4.png": "#recycle",
    "lost+found/5.png": "lost+found",
    "good/Thumbs.db": "Thumbs.db",
    "desktop.ini": "desktop.ini",
    ".thumbnails/6.png": HIDDEN,
    "good/._0.png": HIDDEN,
}


@pytest.mark.parametrize("is_zip", [False, True])
@pytest.mark.parametrize("wrapper", ["", "bottles/", "a/b c/d/"])
def test_what_the_system_puts_there_is_left_out_and_counted(tmp_path: Path, wrapper: str, is_zip: bool) -> None:
    names = [f"{wrapper}{name}" for name in (*LEFT_OUT, "good/0.png", "no cap/1.png")]
    for name in names:
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(picture("good", 0))
    path = zip_of(tmp_path / "set", names) if is_zip else tmp_path / "set"
    dataset = load_dataset(path)
    assert [sample.name for sample in dataset.samples] == ["good/0.png", "no cap/1.png"]
    assert dataset.classes == ("good", "no cap")
    assert dataset.reading.wrapper == wrapper.rstrip("/")
    assert dataset.reading.left_out == {**dict.fromkeys(LEFT_OUT.values(), 1), HIDDEN: 2}
    told = "\n".join(dataset.reading.lines())
    assert "@eaDir 1" in told
    assert bool(wrapper) == (f"read in the folder {wrapper.rstrip('/')}, which holds everything else" in told)


def zip_of(folder: Path, names: list[str], *, separator: str = "/") -> Path:
    """A zip of these files, written with another separator."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        for name in names:
            info = zipfile.ZipInfo("x")
            info.filename = name.replace("/", separator)
            archive.writestr(info, (folder / name).read_bytes())
    return folder.with_suffix(".zip")


def test_a_folder_of_the_system_that_may_not_be_read_does_not_matter(tmp_path: Path) -> None:
    folder = write_class_folders(tmp_path / "set", per_class=1)
    (folder / "System Volume Information").mkdir(mode=0o000)
    assert len(load_dataset(folder).samples) == 3


@pytest.mark.parametrize("wrapper", ["", "set/"])
def test_a_zip_with_back_slashes_is_read_like_its_folder(tmp_path: Path, wrapper: str) -> None:
    folder = write_class_folders(tmp_path / wrapper / "set", per_class=2)
    top = tmp_path / "set"
    names = sorted(file.relative_to(top).as_posix() for file in top.rglob("*.png"))
    dataset, expected = load_dataset(zip_of(top, names, separator="\\")), load_dataset(folder)
    assert (dataset.samples, dataset.classes) == (expected.samples, expected.classes)
    assert decode(dataset.files.path).fingerprint == decode(folder).fingerprint


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/x.png", "it begins with a slash"),
        ("\\etc\\x.png", "it begins with a slash"),
        ("\\\\server\\x.png", "it begins with a slash"),
        ("good/../../x.png", "`..` is the folder above"),
        ("good\\..\\..\\x.png", "`..` is the folder above"),
        ("C:/x.png", "it begins with a drive"),
        ("c:\\x.png", "it begins with a drive"),
        ("__MACOSX/../../x.png", "`..` is the folder above"),
    ],
)
def test_a_zip_that_leads_outside_is_refused_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, b"x")
    with pytest.raises(BadDataset, match=f"that leads outside the zip, as {reason}"):
        load_dataset(tmp_path / "set.zip")


@pytest.mark.parametrize(
    ("names", "folders", "root"),
    [
        (["a/good/1.png", "a/bad/2.png"], [], "a/"),
        (["a/b/good/1.png", "a/b/bad/2.png", "a/README.md", "set.yaml"], [], "a/b/"),
        (["a/good/1.png", "a/bad/2.png", "notes.csv", "b.jsonl"], [], "a/"),
        (["a/good/1.png", "a/bad/2.png", "Labels.tsv"], [], ""),
        (["good/1.png", "good/old/2.png"], [], ""),  # a class, and a folder in it
        (["good/1.dat"], [], ""),
        (["good/day 1/1.png", "good/day 2/2.png"], ["bad"], ""),  # an empty class beside it
        (["a/1.png", "a/labels.csv"], [], "a/"),
        (["a/good/1.png", "a/bad/2.png", "labels.csv"], [], ""),
        (["a/good/1.png", "a/bad/2.png", "3.png"], [], ""),
        (["a/good/1.png", "a/bad/2.png", "Held_out.txt"], [], ""),
        (["/".join("x" * 30) + "/good/1.png", "/".join("x" * 30) + "/bad/2.png"], [], "x/" * 16),
        ([], [], ""),
        ([], ["a", "a/b"], ""),
    ],
)
def test_folders_that_wrap_a_dataset(names: list[str], folders: list[str], root: str) -> None:
    assert wrapping_folders(names, folders) == root


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_table_of_something_else_beside_a_wrapper_is_told(tmp_path: Path, is_zip: bool) -> None:
    names = ["set/good/1.png", "set/no cap/2.png", "notes.csv"]
    for name in names:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "all" / name).write_bytes(picture("good", 0))
    dataset = load_dataset(zip_of(tmp_path / "all", names) if is_zip else tmp_path / "all")
    assert dataset.classes == ("good", "no cap")
    assert dataset.reading.wrapper == "set"
    assert any("tables that are not read: 'notes.csv'" in line for line in dataset.reading.lines())


@pytest.mark.parametrize(("names", "is_told"), [(("good/a.png", "good\\a.png"), True), (("good/a.png",), False)])
def test_a_zip_that_holds_a_file_twice_says_so(tmp_path: Path, names: tuple[str, ...], is_told: bool) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in (*names, "bad/b.png"):
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, picture("good", 0))
    dataset = load_dataset(tmp_path / "set.zip")
    assert [sample.name for sample in dataset.samples] == ["bad/b.png", "good/a.png"]
    told = "files that the zip holds several times, with one content, count once: 'good/a.png'"
    assert dataset.reading.lines() == ([told] if is_told else [])
