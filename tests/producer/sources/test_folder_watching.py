"""How a folder camera learns of its files: by reports of the kernel and by scans, also when the folder was away."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from producer.sources import folder as folder_module
from producer.sources import folder_listing
from producer.sources.folder_options import FolderOptions
from producer.sources.kernel_reports import KernelReports, Report, ReportKind
from tests.producer.sources.kit import MakeSource, ShareSource, names, sources_of, take, take_new, write


def test_a_folder_that_is_away_for_a_while_is_waited_for(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = ShareSource(folder)
    folder.rename(folder.with_name("elsewhere"))
    assert source.take(10, 3.0) == []
    assert caplog.text.count("can't be read: No such file or directory") == 1
    folder.with_name("elsewhere").rename(folder)
    write(folder / "a.jpg")
    assert names(source.take(10, 5.0)) == ["a.jpg"]
    assert "can be read again" in caplog.text


@pytest.mark.parametrize("empty", [False, True])
def test_what_was_taken_does_not_come_again_after_the_folder_was_away(folder: Path, empty: bool) -> None:
    """While a share is not mounted, its folder is empty."""
    source = ShareSource(folder)
    write(folder / "a.jpg")
    write(folder / "b.jpg", b"no picture")
    sent = source.take(10, 5.0)
    source.accepted(sent[:1])
    sent += source.take(10, 5.0)
    assert names(sent) == ["a.jpg", "b.jpg"]
    folder.rename(folder.with_name("elsewhere"))
    if empty:
        folder.mkdir()
    assert source.take(10, 3.0) == []
    if empty:
        folder.rmdir()
    folder.with_name("elsewhere").rename(folder)
    write(folder / "c.jpg")
    assert names(source.take(10, 5.0)) == ["c.jpg"]
    assert source.take(10, 5.0) == []


def test_what_was_taken_does_not_come_again_after_the_share_failed_for_a_moment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ShareSource(folder)
    write(folder / "a.jpg")
    assert names(source.take(10, 5.0)) == ["a.jpg"]

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as away:
        away.setattr(os, "scandir", fails)
        assert source.take(10, 2.0) == []
    assert source.take(10, 5.0) == []


@pytest.mark.slow
@pytest.mark.parametrize("pause", [False, True])
def test_a_folder_that_is_made_anew_is_watched_as_before(folder: Path, make_source: MakeSource, pause: bool) -> None:
    source = make_source()
    write(folder / "before.jpg")
    assert names(take(source, 1)) == ["before.jpg"]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    if pause:  # so that its absence is seen
        assert source.take(1, 1.0) == []
    folder.mkdir()
    write(folder / "after.jpg", age_s=9)
    assert names(take(source, 1)) == ["after.jpg"]
    write(folder / "reported.jpg")
    assert names(source.take(1, 0.0)) == ["reported.jpg"]


def test_a_link_to_another_folder_is_followed_when_it_changes(tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
    (tmp_path / "today").symlink_to("monday")
    with sources_of(tmp_path / "today") as make:
        source = make()
        write(tmp_path / "monday" / "a.jpg")
        assert names(take(source, 1)) == ["a.jpg"]
        (tmp_path / ".today").symlink_to("tuesday")
        (tmp_path / ".today").rename(tmp_path / "today")
        write(tmp_path / "tuesday" / "b.jpg", age_s=9)
        assert names(take(source, 1)) == ["b.jpg"]


def test_sub_folders_are_named_once_and_passed_over(
    folder: Path, make_source: MakeSource, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "2026").mkdir()
    write(folder / "2026" / "a.jpg")
    source = make_source()
    assert take_new(source, folder) == []
    (folder / "2027").mkdir()
    assert take_new(source, folder) == []
    assert caplog.text.count("--recursive") == 1
    assert "sub-folders of" in caplog.text
    assert "'2026'" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("on_share", [False, True])
def test_sub_folders_by_date_are_read_if_asked_for(folder: Path, make_source: MakeSource, on_share: bool) -> None:
    options = FolderOptions(recursive=True)
    first = folder / "2026" / "11" / "26"
    first.mkdir(parents=True)
    write(first / "a.jpg")
    (folder / "@eaDir").mkdir()
    write(folder / "@eaDir" / "thumbnail.jpg")
    source = ShareSource(folder, options=options) if on_share else make_source(options=options)
    assert names(take(source, 1)) == ["2026/11/26/a.jpg"]
    write(first / "b.jpg")
    second = folder / "2026" / "12" / "01"
    second.mkdir(parents=True)
    write(second / "a.jpg")  # perhaps before the kernel watches the sub-folder
    assert sorted(names(take(source, 2))) == ["2026/11/26/b.jpg", "2026/12/01/a.jpg"]
    write(second / "b.jpg")
    assert names(take(source, 1)) == ["2026/12/01/b.jpg"]
    if not on_share:
        assert take_new(source, folder) == []


@pytest.mark.slow
def test_a_sub_folder_that_is_moved_is_watched_under_its_new_name(folder: Path, make_source: MakeSource) -> None:
    (folder / "today").mkdir()
    source = make_source(options=FolderOptions(recursive=True))
    write(folder / "today" / "a.jpg")
    assert names(take(source, 1)) == ["today/a.jpg"]
    (folder / "today" / "a.jpg").unlink()
    (folder / "today").rename(folder / "monday")
    write(folder / "monday" / "b.jpg")
    assert names(take(source, 1)) == ["monday/b.jpg"]
    (folder / "today").mkdir()
    write(folder / "today" / "c.jpg")
    assert names(take(source, 1)) == ["today/c.jpg"]


def test_files_are_found_by_scans_if_the_system_refuses_to_watch(
    folder: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(KernelReports, "_watch", fails)
    source = make_source()
    write(folder / "a.jpg", age_s=9)
    assert names(take(source, 1)) == ["a.jpg"]
    assert "fs.inotify.max_user_watches" in caplog.text
    write(folder / "b.jpg", age_s=9)
    assert names(take(source, 1)) == ["b.jpg"]


def test_after_lost_reports_a_scan_finds_the_files(
    folder: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source()
    assert source.take(1, 0.0) == []
    read = KernelReports.read

    def overflows(reports: KernelReports, timeout_s: float) -> list[Report]:
        return [Report(ReportKind.SCAN_NEEDED)] if read(reports, timeout_s) else []

    with monkeypatch.context() as lost:
        lost.setattr(KernelReports, "read", overflows)
        write(folder / "a.jpg", age_s=9)
        assert names(take(source, 1)) == ["a.jpg"]


def test_an_idle_folder_is_rarely_scanned_while_the_kernel_reports(
    folder: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each scan reads all files, which takes a whole core if there are tens of thousands."""
    for number in range(50):
        write(folder / f"{number}.jpg", age_s=9)
    now = 0.0
    scans = 0
    listed = folder_listing.list_folder

    def counted(*arguments: object, **options: object) -> object:
        nonlocal scans
        scans += 1
        return listed(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_module, "list_folder", counted)
    source = make_source(clock=lambda: now)
    assert len(take(source, 50)) == 50
    for _ in range(600):
        now += 0.5
        assert source.take(10, 0.0) == []
    assert scans <= 3  # in five minutes


def test_scans_of_a_large_share_take_a_small_part_of_the_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ShareSource(folder)
    scans = 0
    listed = folder_listing.list_folder

    def slow(*arguments: object, **options: object) -> object:
        nonlocal scans
        scans += 1
        source.now += 3.0
        return listed(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(folder_module, "list_folder", slow)
    assert source.take(10, 300.0) == []
    assert scans <= 300 * folder_module._SCAN_SHARE / 3.0 + 1


def test_a_folder_with_many_files_is_reported_once(
    folder: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("producer.sources.folder_notices.MANY_FILES", 3)
    for number in range(3):
        write(folder / f"{number}.jpg", age_s=9)
    source = ShareSource(folder)
    assert len(source.take(10, 5.0)) == 3
    assert source.take(10, 5.0) == []
    assert caplog.text.count("holds 3 pictures: remove old ones now and then, or use --delete or --move-to") == 1
