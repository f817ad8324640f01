"""Which pictures of a folder count as missed: those that were complete, and were gone before they were read."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.sources import folder as folder_module
from producer.sources.folder_options import FolderOptions
from tests.producer.sources.kit import PICTURES, Clock, MakeSource, names, started, take, take_new, write

RECURSIVE = FolderOptions(recursive=True)


def test_pictures_that_are_overwritten_in_place_before_they_are_read_are_missed(
    folder: Path, make_source: MakeSource
) -> None:
    """The kernel merges equal reports that follow each other."""
    source = started(make_source)
    for picture in PICTURES[:6]:
        (folder / "latest.jpg").write_bytes(picture)
    assert [frame.data for frame in take(source, 1)] == [PICTURES[5]]
    assert source.count_missed(0) == 5


def test_empty_files_that_are_written_or_removed_later_are_not_missed(folder: Path, make_source: MakeSource) -> None:
    source = started(make_source)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).touch()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(PICTURES[0])
    (folder / "c.jpg").unlink()
    assert names(take(source, 2)) == ["a.jpg", "b.jpg"]
    (folder / "d.jpg").touch()
    assert source.take(1, 0.0) == []
    (folder / "d.jpg").unlink()
    assert take_new(source, folder) == []
    assert source.count_missed(0) == 0


def test_a_picture_that_vanished_with_its_folder_is_missed_once(
    folder: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name may come again in the folder that takes the place of the old one, and be removed unread there."""
    clock = Clock()
    source = started(make_source, clock=clock)
    write(folder / "a.jpg")
    with monkeypatch.context() as going:
        going.setattr(folder_module, "version_of", lambda *_, **__: None)
        assert source.take(1, 0.0) == []
    folder.rename(folder.with_name("old"))
    folder.mkdir()
    assert clock.take_after(source, 1.0) == []
    assert source.count_missed(0) == 1
    (folder / "a.jpg").touch()
    (folder / "a.jpg").unlink()
    assert source.take(1, 0.0) == []
    assert source.count_missed(0) == 0


def test_a_picture_that_is_moved_out_before_it_is_read_is_missed(
    folder: Path, tmp_path: Path, make_source: MakeSource
) -> None:
    source = started(make_source, options=RECURSIVE)
    (folder / "today").mkdir()
    assert source.take(1, 0.0) == []
    for path in (folder / "a.jpg", folder / "today" / "b.jpg"):
        write(path)
    (folder / "a.jpg").rename(tmp_path / "a.jpg")
    (folder / "today").rename(tmp_path / "today")
    assert take_new(source, folder) == []
    assert source.count_missed(0) == 2


def test_a_broken_picture_that_is_removed_while_it_is_given_time_is_missed(
    folder: Path, make_source: MakeSource
) -> None:
    source = started(make_source)
    (folder / "half.jpg").write_bytes(PICTURES[0][:100])
    assert source.take(1, 0.0) == []
    (folder / "half.jpg").unlink()
    with (folder / "open.jpg").open("wb") as file:
        file.write(PICTURES[0][:100])
        assert source.take(1, 0.0) == []
        (folder / "open.jpg").unlink()
    assert take_new(source, folder) == []
    assert source.count_missed(0) == 1


def test_a_picture_that_is_closed_after_a_scan_has_found_it_is_not_missed(
    folder: Path, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    source = started(make_source, options=RECURSIVE)
    (folder / "short").mkdir()
    (folder / "short").rmdir()
    (folder / "today").mkdir()
    with (folder / "today" / "a.jpg").open("wb") as file:
        file.write(PICTURES[0][:100])
        file.flush()
        assert source.take(0, 0.0) == []  # the scan of the new sub-folder
        file.write(PICTURES[0][100:])
    assert names(take(source, 1)) == ["today/a.jpg"]
    assert source.count_missed(0) == 0
    assert caplog.text == ""


def test_a_picture_that_was_read_before_it_was_renamed_is_not_missed(folder: Path, make_source: MakeSource) -> None:
    """It is removed, or overwritten, before its new name is read."""
    source = started(make_source)
    for number in range(2):
        write(folder / f"tmp_{number}.jpg", PICTURES[number])
    assert len(take(source, 2)) == 2
    (folder / "tmp_0.jpg").rename(folder / "gone.jpg")
    (folder / "gone.jpg").unlink()
    (folder / "tmp_1.jpg").rename(folder / "latest.jpg")
    write(folder / "latest.jpg", PICTURES[2])
    assert [frame.data for frame in take(source, 1)] == [PICTURES[2]]
    assert source.count_missed(0) == 0
    write(folder / "tmp_3.jpg", PICTURES[3])
    (folder / "tmp_3.jpg").rename(folder / "gone.jpg")
    (folder / "gone.jpg").unlink()
    assert take_new(source, folder) == []
    assert source.count_missed(0) == 1


def test_reports_are_read_while_the_server_is_unavailable(folder: Path, make_source: MakeSource) -> None:
    """The kernel keeps a limited number. A camera asks for the missed pictures only, until it can send again."""
    source = started(make_source)
    for picture in PICTURES[:3]:
        write(folder / "latest.jpg", picture)
    assert source.count_missed(0) == 2
