"""Listing a folder: its pictures in name order, and what is beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.sources.folder_listing import Listing, is_linked, list_folder, version_of
from tests.producer.sources.kit import write


@pytest.fixture
def full(folder: Path, tmp_path: Path) -> Path:
    """A folder with pictures, a side file, sub-folders and links."""
    for name in ("b.jpg", "a.jpg", "a.xml", "2026/11/c.jpg", "done/d.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write(folder / name)
    (folder / "link.jpg").symlink_to("a.jpg")
    (folder / "nowhere.jpg").symlink_to("nothing")
    (folder / "other").symlink_to(tmp_path)
    return folder


def listed(folder: Path, under: str = "", *, recursive: bool) -> Listing:
    return list_folder(folder, under, recursive=recursive, is_ignored=lambda name: name == "done", trust_inode=True)


def test_a_folder_is_listed_with_what_is_beside_its_pictures(full: Path) -> None:
    listing = listed(full, recursive=False)
    assert list(listing.files) == ["a.jpg", "b.jpg", "link.jpg"]
    assert (listing.other_names, listing.subfolders, listing.linked_folders) == (["a.xml"], ["2026"], ["other"])
    assert listing.has_links
    assert listing.problems == []


def test_sub_folders_are_listed_if_asked_for(full: Path) -> None:
    assert list(listed(full, recursive=True).files) == ["a.jpg", "b.jpg", "link.jpg", "2026/11/c.jpg"]
    listing = listed(full, "2026", recursive=True)
    assert list(listing.files) == ["2026/11/c.jpg"]
    assert not listing.has_links
    with pytest.raises(FileNotFoundError):
        listed(full, "2027", recursive=True)


def test_only_regular_files_have_versions(full: Path) -> None:
    assert version_of(full / "a.jpg", trust_inode=True) == version_of(full / "link.jpg", trust_inode=True)
    assert version_of(full / "a.jpg", trust_inode=False).inode == 0  # type: ignore[union-attr]
    for name in ("2026", "nowhere.jpg", "nothing.jpg", "a.jpg/b.jpg"):
        assert version_of(full / name, trust_inode=True) is None


def test_hard_and_symbolic_links_are_links(full: Path) -> None:
    assert not is_linked(full / "a.jpg")
    (full / "hard.jpg").hardlink_to(full / "a.jpg")
    assert all(is_linked(full / name) for name in ("a.jpg", "hard.jpg", "link.jpg"))
    assert not is_linked(full / "nothing.jpg")
