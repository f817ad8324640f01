"""What a folder camera does when asked: times of capture, ages, a journal, and files that are moved or deleted."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from producer.sources import folder as folder_module
from producer.sources.capture_time import CaptureTimes, StampPattern
from producer.sources.disposal import Disposal
from producer.sources.folder_listing import Listing
from producer.sources.folder_options import FolderOptions
from producer.sources.journal import SentJournal
from tests.producer.sources.kit import PICTURES, MakeSource, ShareSource, names, take, take_new, write


def test_the_time_of_capture_is_that_of_the_file(folder: Path, make_source: MakeSource) -> None:
    old = write(folder / "a.jpg", age_s=3600)
    times = CaptureTimes(lag_ms=250)
    (frame,) = take(make_source(options=FolderOptions(capture_times=times)), 1)
    assert frame.captured_at == pytest.approx(old.stat().st_mtime - 0.25, abs=0.001)


def test_a_file_that_is_too_old_is_not_read(folder: Path, make_source: MakeSource) -> None:
    write(folder / "old.jpg", age_s=60)
    write(folder / "young.jpg", age_s=9)
    frames = take(make_source(options=FolderOptions(max_age_s=50.0)), 2)
    assert [(frame.name, frame.too_old, frame.data) for frame in frames] == [
        ("old.jpg", True, b""),
        ("young.jpg", False, PICTURES[0]),
    ]


def test_a_name_without_a_stamp_is_reported(folder: Path, make_source: MakeSource) -> None:
    write(folder / "a.jpg", age_s=9)
    write(folder / "b_1700000000.jpg", age_s=9)
    times = CaptureTimes(pattern=StampPattern("_%s."))
    first, second = take(make_source(options=FolderOptions(capture_times=times)), 2)
    assert first.problem == "its name has no time of the form that --stamp-pattern gives"
    assert second.captured_at == 1_700_000_000


@pytest.mark.slow
def test_only_new_files_come_if_asked_for(
    folder: Path, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    write(folder / "old.jpg", age_s=9)
    source = make_source(options=FolderOptions(only_new=True, recursive=True))
    (folder / "folder").mkdir()
    write(folder / "folder" / "new.jpg")
    write(folder / "new.jpg")
    assert sorted(names(take(source, 2))) == ["folder/new.jpg", "new.jpg"]
    assert f"files in {folder} that were there before and are not sent (--only-new): 1\n" in caplog.text
    write(folder / "old.jpg", PICTURES[1])
    assert [frame.data for frame in take(source, 1)] == [PICTURES[1]]


def test_a_file_that_comes_during_the_first_listing_is_new(
    folder: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = folder_module.list_folder

    def slow(*arguments: Any, **options: Any) -> Listing:
        listing = listed(*arguments, **options)
        write(folder / "new.jpg")
        return Listing({**listing.files, **listed(*arguments, **options).files})

    monkeypatch.setattr(folder_module, "list_folder", slow)
    write(folder / "old.jpg", age_s=9)
    assert names(take(make_source(options=FolderOptions(only_new=True)), 1)) == ["new.jpg"]


def test_a_second_source_with_the_same_journal_sends_what_the_first_did_not(
    folder: Path, tmp_path: Path, make_source: MakeSource
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write(folder / name, age_s=9)
    first = make_source(journal=SentJournal(tmp_path / "journal"))
    frames = take(first, 3)
    first.accepted(frames[:2])
    first.close()
    write(folder / "b.jpg", PICTURES[1], age_s=5)
    second = make_source(journal=SentJournal(tmp_path / "journal"))
    assert sorted(names(take(second, 2))) == ["b.jpg", "c.jpg"]
    assert take_new(second, folder) == []


def test_a_file_that_got_the_time_of_its_original_is_known_after_a_restart(
    folder: Path, tmp_path: Path, make_source: MakeSource
) -> None:
    first = make_source(journal=SentJournal(tmp_path / "journal"))
    assert first.take(1, 0.0) == []
    path = write(folder / "a.jpg")
    first.accepted(take(first, 1))
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 60 * 10**9))
    assert first.take(1, 0.0) == []
    first.close()
    second = make_source(journal=SentJournal(tmp_path / "journal"))
    assert second.take(1, 0.0) == []


def test_accepted_files_are_moved_and_others_are_not(folder: Path, make_source: MakeSource) -> None:
    done = folder / "done"
    disposal = Disposal(folder, move_to=done)
    disposal.check()
    for name in ("a.jpg", "b.jpg"):
        write(folder / name, age_s=9)
    source = make_source(disposal=disposal, options=FolderOptions(recursive=True, ignored="done"))
    frames = take(source, 2)
    source.accepted(frames[:1])
    assert sorted(path.name for path in folder.iterdir()) == ["b.jpg", "done"]
    assert (done / "a.jpg").read_bytes() == PICTURES[0]
    assert take_new(source, folder) == []


def test_what_was_sent_but_not_moved_is_moved_after_a_restart(
    folder: Path, tmp_path: Path, make_source: MakeSource
) -> None:
    write(folder / "a.jpg", age_s=9)
    first = make_source(journal=SentJournal(tmp_path / "journal"))
    first.accepted(take(first, 1))  # like a camera that is killed before it could delete the file
    first.close()
    second = make_source(journal=SentJournal(tmp_path / "journal"), disposal=Disposal(folder))
    assert second.take(1, 0.0) == []
    assert list(folder.iterdir()) == []


def test_a_file_that_comes_again_after_it_was_deleted_is_new(folder: Path) -> None:
    """On a share, a copy of the same picture has the same version. The kernel reports no removal there."""
    source = ShareSource(folder, disposal=Disposal(folder))
    for _ in range(2):
        write(folder / "a.jpg", modified_ns=1_700_000_000 * 10**9)
        frames = source.take(1, 5.0)
        assert names(frames) == ["a.jpg"]
        source.accepted(frames)
        assert list(folder.iterdir()) == []


def test_new_pictures_do_not_wait_until_the_files_of_earlier_runs_are_moved(
    folder: Path, tmp_path: Path, make_source: MakeSource
) -> None:
    """Perhaps the earlier runs had neither --delete nor --move-to, so that thousands are still there."""
    for number in range(5):
        write(folder / f"{number}.jpg", age_s=9)
    first = make_source(journal=SentJournal(tmp_path / "journal"))
    first.accepted(take(first, 5))
    first.close()
    ticks = itertools.count()  # each look at the clock takes a second
    second = make_source(
        journal=SentJournal(tmp_path / "journal"), disposal=Disposal(folder), clock=lambda: float(next(ticks))
    )
    assert second.take(1, 0.0) == []
    assert len(list(folder.iterdir())) == 4
    write(folder / "new.jpg")
    assert names(second.take(1, 0.0)) == ["new.jpg"]
    assert len(list(folder.iterdir())) == 5
    assert [second.take(1, 0.0) for _ in range(5)] == [[]] * 5
    assert [path.name for path in folder.iterdir()] == ["new.jpg"]


def test_a_picture_that_is_not_whole_is_never_deleted(
    folder: Path, tmp_path: Path, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    """Its writer may go on after the camera has lost patience. The whole picture is then sent, and deleted."""
    path = write(folder / "a.jpg", PICTURES[0][:300], age_s=60)
    for _ in range(2):
        source = make_source(journal=SentJournal(tmp_path / "journal"), disposal=Disposal(folder))
        if not caplog.text:
            source.accepted(take(source, 1))
        assert take_new(source, folder) == []
        source.close()
        assert path.exists()
    source = make_source(journal=SentJournal(tmp_path / "journal"), disposal=Disposal(folder))
    assert take_new(source, folder) == []
    with path.open("ab") as file:
        file.write(PICTURES[0][300:])
    frames = take(source, 1)
    assert [frame.data for frame in frames] == [PICTURES[0]]
    source.accepted(frames)
    assert list(folder.iterdir()) == []
