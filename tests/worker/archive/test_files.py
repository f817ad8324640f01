"""The names of an archive's files, and which files are the archive's."""

from __future__ import annotations

import calendar
import os
from pathlib import Path

import pytest

from tests.worker.archive.kit import stem
from tests.worker.kit import picture
from worker.archive.files import as_host, files_in, image_suffix, remove

AT = float(calendar.timegm((2026, 11, 27, 9, 30, 5)))


@pytest.mark.parametrize(
    ("finished_at", "name"),
    [
        (AT + 0.123, "2026-11-27/l1/093005.123_j1_host"),
        (AT + 0.9996, "2026-11-27/l1/093006.000_j1_host"),
        (AT + 14 * 3600 + 29 * 60 + 54.9996, "2026-11-28/l1/000000.000_j1_host"),
    ],
)
def test_day_and_time_are_those_of_the_result(finished_at: float, name: str) -> None:
    assert stem(finished_at=finished_at, host="host") == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [("plant-7.example", "plant-7.example"), ("../a b/ü_", "..-a-b---"), ("", "unknown"), ("x" * 99, "x" * 64)],
)
def test_a_host_name_can_not_lead_out_of_the_folder(name: str, shown: str) -> None:
    assert as_host(name) == shown


@pytest.mark.parametrize(
    ("image", "suffix"),
    [(picture(), ".png"), (b"\xff\xd8\xff", ".jpg"), (b"II*\0", ".tif"), (b"hello", ".bin"), (b"", ".bin")],
)
def test_the_suffix_depends_on_the_bytes(image: bytes, suffix: str) -> None:
    assert image_suffix(image) == suffix


def put(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"1")
    return path


def test_files_are_listed_oldest_first_with_each_result_before_its_image(tmp_path: Path) -> None:
    names = [
        "2026-11-26/l2/235959.999_a_h.json",
        "2026-11-26/l2/235959.999_a_h.jpg",
        "2026-11-27/l2/000000.000_b_h.jpg",
        "2026-11-27/l1/000000.001_c_h.json",
        "2026-11-27/l1/000000.001_c_h.png",
    ]
    for name in reversed(names):
        put(tmp_path, name)
    assert [os.path.relpath(file.path, tmp_path) for file in sorted(files_in(tmp_path))] == names
    assert {file.size_bytes for file in files_in(tmp_path)} == {4096}


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    for name in (
        "labels.csv",
        "2026-11-27/notes.txt",
        "2026-11-27/l1/labels.csv",
        "2026-11-27/l1/093005.123_j1.jpg",
        "chosen/l1/093005.123_j1_h.jpg",
        "\N{ARABIC-INDIC DIGIT TWO}026-11-27/l1/093005.123_j1_h.jpg",
        ".incoming/093005.123_j1_h.jpg",
    ):
        put(tmp_path, name)
    (tmp_path / "2026-11-27/l1/093005.123_j1_h.jpg").symlink_to("labels.csv")
    (tmp_path / "2026-11-27/l1/093005.124_j1_h.jpg").mkdir()
    assert list(files_in(tmp_path)) == []


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    """Otherwise the archive's bound would be kept by removing files of others."""
    root, others = tmp_path / "archive", tmp_path / "others"
    put(others, "2026-11-27/l1/093005.123_j1_h.jpg")
    (root / "2026-11-28").mkdir(parents=True)
    (root / "2026-11-27").symlink_to(others / "2026-11-27")
    (root / "2026-11-28/l1").symlink_to(others / "2026-11-27/l1")
    assert list(files_in(root)) == []


def test_a_folder_is_removed_with_its_last_file(tmp_path: Path) -> None:
    put(tmp_path, "2026-11-26/l1/093005.123_a_h.jpg")
    put(tmp_path, "2026-11-27/l1/093005.123_a_h.jpg")
    put(tmp_path, "2026-11-27/l1/labels.csv")
    for file in list(files_in(tmp_path)):
        remove(file)
        remove(file)  # another worker had removed it
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["2026-11-27", "l1", "labels.csv"]
