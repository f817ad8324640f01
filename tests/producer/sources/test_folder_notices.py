"""What a folder camera logs about its folder: each fact once."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from producer.sources.folder_listing import Listing
from producer.sources.folder_notices import FolderNotices

AWAY = OSError(errno.ESTALE, "Stale file handle")


@pytest.fixture
def notices(folder: Path) -> FolderNotices:
    return FolderNotices(folder, recursive=False, disposes=False)


def test_each_kind_of_file_that_is_passed_over_is_named_once(
    notices: FolderNotices, caplog: pytest.LogCaptureFixture
) -> None:
    notices.passed_over(["a.mp4", "b.mp4", "a.xml", "a.jpg.upload", "README"])
    kinds = [message.partition(", are passed over")[0] for message in caplog.messages]
    assert kinds == ["files *.mp4, such as 'a.mp4'", "files without a suffix, such as 'README'"]


def test_an_absence_and_its_end_are_logged_once(
    folder: Path, notices: FolderNotices, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        notices.unreachable(AWAY)
    for _ in range(2):
        notices.listed(Listing())
    assert caplog.messages == [
        f"folder {folder} can't be read: Stale file handle. Trying again until it can.",
        f"folder {folder} can be read again",
    ]


def test_a_file_that_can_not_be_read_is_named_again_after_it_could_be(
    notices: FolderNotices, caplog: pytest.LogCaptureFixture
) -> None:
    for problems in ([("a.jpg", AWAY)], [("a.jpg", AWAY)], [], [("a.jpg", AWAY)]):
        notices.listed(Listing(problems=problems))
    assert len(caplog.messages) == 2


def test_a_link_to_a_folder_is_told_from_a_file_that_is_no_picture(
    folder: Path, notices: FolderNotices, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "loop").symlink_to(".")
    notices.no_picture("loop", appeared=True)
    notices.no_picture("a.mp4", appeared=True)
    assert ["links to folders" in message for message in caplog.messages] == [True, False]
