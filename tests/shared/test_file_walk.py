"""Every file once, in order, links followed as far as they lead on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared import file_walk
from shared.file_walk import walk


def fail(error: OSError) -> None:
    raise error


def found(top: Path) -> list[str]:
    return [file.relative_to(top).as_posix() for files in walk(top, on_error=fail) for file in files]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    for name in ("top/b.jpg", "top/a.jpg", "top/sub/c.jpg", "top/.hidden", "top/.git/x", "elsewhere/d.jpg"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path / "top"


def test_files_come_folder_by_folder_and_hidden_ones_do_not(top: Path) -> None:
    assert found(top) == ["a.jpg", "b.jpg", "sub/c.jpg"]
    assert len(list(walk(top, on_error=fail))) == 2


def test_links_to_folders_and_files_are_followed(top: Path) -> None:
    (top / "linked").symlink_to("../elsewhere")
    (top / "link.jpg").symlink_to("sub/c.jpg")
    assert found(top) == ["a.jpg", "b.jpg", "link.jpg", "linked/d.jpg", "sub/c.jpg"]


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_links_that_lead_back_are_not(top: Path, target: str) -> None:
    (top / "sub" / "back").symlink_to(target)
    assert found(top) == ["a.jpg", "b.jpg", "sub/c.jpg"]


def test_folders_that_link_to_each_other_end(top: Path) -> None:
    (top / "linked").symlink_to("../elsewhere")
    (top.parent / "elsewhere" / "back").symlink_to("../top")
    assert found(top) == ["a.jpg", "b.jpg", "linked/d.jpg", "sub/c.jpg"]


def test_doubled_links_are_listed_once_and_named(tmp_path: Path) -> None:
    """22 folders, each with two links to the next one, have four million paths."""
    for level in range(23):
        (tmp_path / "levels" / f"{level}").mkdir(parents=True)
        for name in "ab":
            (tmp_path / "levels" / f"{level}" / name).symlink_to(f"../{level + 1}")
    (tmp_path / "levels" / "22" / "x.jpg").touch()
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "first").symlink_to("../levels/0")
    notes: list[str] = []
    files = [file for files in walk(tmp_path / "top", on_error=fail, on_repeated=notes.append) for file in files]
    shortest = "top/first/" + "a/" * 22
    assert [file.relative_to(tmp_path).as_posix() for file in files if file.name == "x.jpg"] == [f"{shortest}x.jpg"]
    (note,) = notes
    assert f"{tmp_path}/top: links to folders that are listed already" in note
    assert f": 22, e.g. {tmp_path}/top/first/a/" in note
    assert len(found(tmp_path / "levels")) == 1 + 2  # x.jpg, and the links of the last folder, which lead nowhere


def test_a_folder_below_the_top_is_listed_under_its_own_name(top: Path) -> None:
    """Its name may be a class of a dataset."""
    (top / "a-link").symlink_to("sub")
    notes: list[str] = []
    assert [len(files) for files in walk(top, on_error=fail, on_repeated=notes.append)] == [2, 1]
    assert found(top) == ["a.jpg", "b.jpg", "sub/c.jpg"]
    assert len(notes) == 1


def test_a_link_to_a_hidden_folder_is_followed(top: Path) -> None:
    """Kubernetes mounts a folder of links into `..data`."""
    (top / "shown").symlink_to(".git")
    assert found(top) == ["a.jpg", "b.jpg", "shown/x", "sub/c.jpg"]


def test_folders_without_links_are_not_mentioned(top: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found(top)
    assert capsys.readouterr().err == ""
    (top / "linked").symlink_to(".")
    found(top)
    assert f"{top}: links to folders" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_the_list_is_bounded_and_says_so(top: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(file_walk, "MAX_LISTED", limit)
    errors: list[OSError] = []
    files = [file for files in walk(top, on_error=errors.append) for file in files]
    assert len(files) <= limit
    (error,) = errors
    assert isinstance(error, file_walk.TooManyFiles)
    assert error.filename == str(top)
    assert f"it holds {limit} files and folders or more" in str(error.strerror)


def test_a_folder_that_can_not_be_read_is_reported_and_the_others_are_listed(
    top: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user who runs the tests may be root, who may read any."""
    opened = os.scandir

    def scandir(path: Path) -> object:
        if path.name == "no":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    (top / "no").mkdir()
    monkeypatch.setattr(os, "scandir", scandir)
    errors: list[OSError] = []
    files = [file.name for files in walk(top, on_error=errors.append) for file in files]
    assert files == ["a.jpg", "b.jpg", "c.jpg"]
    assert [error.filename for error in errors] == [f"{top}/no"]
