"""Every file once, in order, links followed as far as they lead on."""

from __future__ import annotations

from pathlib import Path

import pytest

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
