"""Files that are renamed, linked, moved away, or unreadable for a while, and folders that change under a camera."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from producer.sources import folder as folder_module
from producer.sources import picture_reader
from producer.sources.disposal import Disposal
from producer.sources.folder_options import FolderOptions
from shared import regular_files
from tests.producer.sources.kit import (
    PICTURES,
    Clock,
    MakeSource,
    ShareSource,
    names,
    sources_of,
    started,
    take,
    take_new,
    write,
)

# The size in the header is that of the pictures that the tests append one byte to.
BMP = b"BM" + (60).to_bytes(4, "little") + bytes(53)
RECURSIVE = FolderOptions(recursive=True)


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """No file at or below this path can be opened. (The user who runs the tests may be root, who may read any.)"""
    opened = regular_files.open_regular

    def fails(file: Path) -> object:
        if file.is_relative_to(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regular_files, "open_regular", fails)
        patch.setattr(picture_reader, "open_regular", fails)
        yield


@pytest.mark.parametrize("accepted", [False, True])
def test_a_picture_that_is_renamed_after_it_was_read_is_not_sent_again(
    folder: Path, tmp_path: Path, make_source: MakeSource, accepted: bool
) -> None:
    """Cameras that write by FTP use temporary names that may end in .jpg. The file is moved under its last name."""
    source = started(make_source, disposal=Disposal(folder, move_to=tmp_path / "done") if accepted else None)
    (folder / "tmp_1.jpg").write_bytes(PICTURES[0])
    frames = take(source, 1)
    (folder / "tmp_1.jpg").rename(folder / "1.jpg")
    if accepted:
        source.accepted(frames)
    assert take_new(source, folder) == []
    assert (tmp_path / "done" / "1.jpg").exists() is accepted
    assert source.count_missed(0) == 0


def test_the_pictures_of_a_sub_folder_that_is_renamed_are_not_sent_again(folder: Path, make_source: MakeSource) -> None:
    source = started(make_source, options=RECURSIVE)
    (folder / "today").mkdir()
    for number in range(3):
        write(folder / "today" / f"{number}.jpg", PICTURES[number])
    frames = take(source, 3)
    source.accepted(frames[:2])
    (folder / "today").rename(folder / "2026-11-26")
    assert take_new(source, folder) == []
    write(folder / "2026-11-26" / "new.jpg", PICTURES[3])
    assert names(take(source, 1)) == ["2026-11-26/new.jpg"]


def test_the_first_pictures_of_a_new_sub_folder_come_at_once(folder: Path, make_source: MakeSource) -> None:
    """They may be written before the kernel watches it. The clock stands still, so nothing settles."""
    source = started(make_source, options=RECURSIVE, clock=lambda: 0.0)
    (folder / "2026-11-27").mkdir()
    write(folder / "2026-11-27" / "a.jpg")
    (folder / "2026-11-27" / "half.jpg").write_bytes(PICTURES[1][:100])
    assert names(source.take(10, 0.0)) == ["2026-11-27/a.jpg"]
    with (folder / "2026-11-27" / "half.jpg").open("ab") as file:
        file.write(PICTURES[1][100:])
    assert [frame.data for frame in source.take(10, 0.0)] == [PICTURES[1]]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_linked_picture_comes_at_once(folder: Path, tmp_path: Path, make_source: MakeSource, link: object) -> None:
    source = started(make_source, clock=lambda: 0.0)
    link(write(tmp_path / "a.jpg"), folder / "a.jpg")  # type: ignore[operator]
    assert names(source.take(10, 0.0)) == ["a.jpg"]


def test_a_whole_picture_comes_although_its_writer_does_not_close_it(folder: Path, make_source: MakeSource) -> None:
    clock = Clock()
    source = started(make_source, clock=clock)
    with (folder / "a.jpg").open("wb") as file:
        file.write(PICTURES[0])
        file.flush()
        assert source.take(10, 0.0) == []
        assert clock.take_after(source, 1.0) == []
        assert [frame.data for frame in clock.take_after(source, 1.5)] == [PICTURES[0]]
    assert source.take(10, 0.0) == []


@pytest.mark.parametrize("while_running", [False, True])
def test_a_linked_file_that_is_rewritten_is_found_by_a_scan(
    folder: Path, tmp_path: Path, make_source: MakeSource, while_running: bool
) -> None:
    """The kernel reports changes of the link only."""
    clock = Clock()
    if while_running:
        source = started(make_source, clock=clock)
    (folder / "latest.jpg").symlink_to(write(tmp_path / "current.jpg", age_s=60))
    if not while_running:
        source = make_source(clock=clock)
    assert len(take(source, 1)) == 1
    assert clock.take_after(source, 1.0) == []
    write(tmp_path / "current.jpg", PICTURES[1], age_s=30)
    assert [frame.data for frame in clock.take_after(source, 10.0)] == [PICTURES[1]]


def test_a_link_to_a_folder_is_named_once(
    folder: Path, tmp_path: Path, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "loop").symlink_to(".")
    source = started(make_source, options=RECURSIVE)
    (folder / "other").symlink_to(tmp_path)
    assert take_new(source, folder) == []
    assert caplog.text.count("passed over") == 0
    assert caplog.text.count("links to folders in") == 1
    assert "such as 'loop', are not followed: to read such a folder, name it as the source" in caplog.text


def test_links_that_lead_nowhere_are_no_pictures(
    folder: Path, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "self.jpg").symlink_to("self.jpg")
    source = started(make_source)
    (folder / "again.jpg").symlink_to("again.jpg")
    (folder / "gone.jpg").symlink_to("nothing.jpg")
    assert take_new(source, folder) == []
    assert caplog.text.count("self.jpg' is passed over: it is a link that leads to no file. So are others") == 1
    assert len(caplog.records) == 1


def test_pipes_and_devices_are_no_pictures_and_do_not_hold_up_the_others(
    folder: Path, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(folder / "a.jpg")
    (folder / "b.jpg").symlink_to("/dev/zero")
    source = started(make_source)
    write(folder / "c.jpg")
    os.mkfifo(folder / "d.jpg")
    assert [frame.name for frame in take(source, 1)] == ["c.jpg"]
    assert take_new(source, folder) == []
    assert caplog.text.count("a.jpg' is passed over: it is a pipe, socket or device. So are others") == 1
    assert len(caplog.records) == 1


def test_a_waiting_picture_that_is_rewritten_is_not_taken_for_an_unchanged_one(
    folder: Path, make_source: MakeSource
) -> None:
    """Its first version had been unchanged for long enough to be sent as it was, whole or not."""
    clock = Clock()
    source = started(make_source, clock=clock)
    with (folder / "a.jpg").open("wb") as file:
        file.write(PICTURES[0][:100])
        file.flush()
        assert source.take(1, 0.0) == []
        clock.now += 40.0
        assert source.take(0, 0.0) == []
        clock.now += 40.0
        assert source.take(0, 0.0) == []  # it has settled, and waits to be read
    (folder / "a.jpg").write_bytes(PICTURES[1][:200])
    assert source.take(1, 0.0) == []
    (folder / "a.jpg").write_bytes(PICTURES[1])
    assert [frame.data for frame in take(source, 1)] == [PICTURES[1]]


def test_pictures_of_one_size_are_new_although_the_cameras_clock_was_set_back(
    folder: Path, make_source: MakeSource
) -> None:
    """Overwritten in place, each with an earlier time; on a share, renames don't show in inodes either."""
    for source in (started(make_source), ShareSource(folder)):
        for gray in range(4):
            (folder / "latest.bmp").write_bytes(BMP + bytes([gray]))
            os.utime(folder / "latest.bmp", ns=(0, (1_700_000_000 - gray) * 10**9))
            (frame,) = take(source, 1)
            assert frame.data == BMP + bytes([gray])
            source.accepted([frame])
        (folder / "latest.bmp").unlink()


def test_a_picture_that_comes_back_from_elsewhere_is_new(folder: Path, tmp_path: Path, make_source: MakeSource) -> None:
    source = started(make_source)
    write(folder / "a.jpg")
    source.accepted(take(source, 1))
    (folder / "a.jpg").rename(tmp_path / "a.jpg")
    assert source.take(1, 0.0) == []
    (tmp_path / "a.jpg").rename(folder / "a.jpg")
    assert len(take(source, 1)) == 1


@pytest.mark.parametrize("change", ["file", "folder", "nothing"])
def test_a_file_that_can_not_be_read_is_reported_once_and_comes_when_it_can(
    folder: Path, make_source: MakeSource, change: str
) -> None:
    """The kernel reports the change of a permission; on a share, the next scan finds it."""
    clock = Clock()
    source = ShareSource(folder, clock=clock) if change == "nothing" else started(make_source, clock=clock)
    path = write(folder / "a.jpg")
    with unreadable(folder):
        frames = [frame for _ in range(10) for frame in clock.take_after(source, 1.0)]
    assert [frame.problem for frame in frames] == ["can't be read: Permission denied"]
    if change != "nothing":
        (path if change == "file" else folder).chmod(0o755)
    frames = [frame for _ in range(5) for frame in clock.take_after(source, 1.0)]
    assert [frame.data for frame in frames] == [PICTURES[0]]


def test_a_sub_folder_that_can_not_be_listed_is_named_once_and_read_when_it_can(
    folder: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "closed").mkdir()
    write(folder / "closed" / "a.jpg")
    scandir = os.scandir

    def fails(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as closed:
        closed.setattr(os, "scandir", fails)
        source = started(make_source, options=RECURSIVE)
        for day in ("new", "newer"):
            (folder / day).mkdir()
        assert take_new(source, folder) == []
    assert caplog.text.count(f"'{folder / 'closed'}' can't be read: Permission denied. Trying again") == 1
    (folder / "closed").chmod(0o700)
    assert names(take(source, 1)) == ["closed/a.jpg"]


def test_a_share_that_is_mounted_while_the_camera_runs_is_scanned(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Before, the folder is an empty one on the local disk. On the share, the kernel would report nothing."""
    (tmp_path / "share").mkdir()
    with sources_of(folder) as make:
        source = make(watch=None)
        assert source.take(1, 0.0) == []
        monkeypatch.setattr(folder_module, "is_local", lambda folder: False)
        folder.rmdir()
        (tmp_path / "share").rename(folder)
        write(folder / "a.jpg")
        (frame,) = take(source, 1)
        assert frame.file is not None
        assert frame.file.version.inode == 0
        assert f"folder {folder} is not on a local disk any more" in caplog.text
        assert "found by a scan every 0.5 s" in source.describe()


def test_new_pictures_do_not_wait_for_old_ones(folder: Path, make_source: MakeSource) -> None:
    for number in range(9):
        write(folder / f"{number}.jpg", PICTURES[number], age_s=60)
    source = make_source()
    assert names(source.take(2, 0.0)) == ["0.jpg", "1.jpg"]
    write(folder / "new.jpg", PICTURES[10])
    write(folder / "8.jpg", PICTURES[11])
    assert names(source.take(10, 0.0)) == ["new.jpg", "8.jpg"]
    assert names(source.take(10, 0.0)) == [f"{number}.jpg" for number in range(2, 8)]


def test_new_pictures_on_a_share_do_not_wait_for_old_ones(folder: Path) -> None:
    for number in range(3):
        write(folder / f"{number}.jpg", PICTURES[number])
    source = ShareSource(folder)
    assert names(source.take(1, 5.0)) == ["0.jpg"]
    write(folder / "new.jpg", PICTURES[10])
    source.now += 5.0
    assert source.take(0, 0.0) == []  # the scan sees it
    source.now += 5.0
    assert names(source.take(10, 5.0)) == ["new.jpg"]
