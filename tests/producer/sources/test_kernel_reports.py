"""Reports about a folder, from this machine's kernel."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.sources.kernel_reports import KernelReports, Report, ReportKind
from tests.producer.sources.kit import write

MAX_QUEUED = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def reports(tmp_path: Path) -> Iterator[KernelReports]:
    """Reports about a folder that is watched with its sub-folders."""
    (tmp_path / "images" / "below").mkdir(parents=True)
    found = KernelReports(tmp_path / "images", recursive=True, is_ignored=lambda name: name == "ignored")
    found.start()
    yield found
    found.close()


def test_each_kind_of_report_is_recognized(tmp_path: Path, reports: KernelReports) -> None:
    folder = tmp_path / "images"
    (folder / "a\n.jpg").write_bytes(b"x")
    (folder / "a\n.jpg").rename(folder / "below" / "b.jpg")
    (folder / "below" / "b.jpg").unlink()
    (folder / "new").mkdir()
    (folder / "ignored").mkdir()
    assert reports.read(0.0) == [
        Report(ReportKind.APPEARED, "a\n.jpg"),
        Report(ReportKind.COMPLETE, "a\n.jpg"),
        Report(ReportKind.RENAMED, "below/b.jpg", "a\n.jpg"),
        Report(ReportKind.REMOVED, "below/b.jpg"),
        Report(ReportKind.SUBFOLDER, "new"),
    ]
    write(folder / "new" / "c.jpg")
    write(folder / "ignored" / "c.jpg")
    assert reports.read(0.0)[-1] == Report(ReportKind.RENAMED, "new/c.jpg", "new/.c.jpg.new")
    assert reports.read(0.0) == []


def test_closes_without_a_change_are_told_from_those_that_follow_one(tmp_path: Path, reports: KernelReports) -> None:
    """Each close that follows a change is reported, although the kernel merges equal events that follow each other."""
    path = tmp_path / "images" / "a.jpg"
    path.touch()
    for content in (b"one", b"two"):
        path.write_bytes(content)
    assert [report.kind for report in reports.read(0.0)] == [
        *(ReportKind.APPEARED, ReportKind.CLOSED, ReportKind.COMPLETE, ReportKind.COMPLETE)
    ]


def test_a_file_that_is_moved_out_of_the_folder_is_removed_from_it(tmp_path: Path, reports: KernelReports) -> None:
    folder = tmp_path / "images"
    write(folder / "a.jpg")
    (folder / "a.jpg").rename(tmp_path / "a.jpg")
    (folder / "below").rename(tmp_path / "below")
    assert reports.read(0.0)[-2:] == [
        Report(ReportKind.REMOVED, "a.jpg"),
        Report(ReportKind.SUBFOLDER_REMOVED, "below"),
    ]


def test_the_two_events_of_a_rename_may_come_apart(
    tmp_path: Path, reports: KernelReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "images" / "a.jpg")
    (tmp_path / "images" / "a.jpg").rename(tmp_path / "images" / "b.jpg")
    assert reports._notify is not None
    *first, last = reports._notify.read(timeout=0)
    answers = [first, [last]]
    monkeypatch.setattr(reports._notify, "read", lambda timeout: answers.pop(0))
    assert reports.read(0.0)[-1] == Report(ReportKind.RENAMED, "b.jpg", "a.jpg")


def test_changes_of_permissions_are_reported(tmp_path: Path, reports: KernelReports) -> None:
    """A sub-folder that has become readable is watched from now on."""
    folder = tmp_path / "images"
    write(folder / "a.jpg")
    reports.read(0.0)
    for path in (folder / "a.jpg", folder / "below", folder):
        path.chmod(0o700)
    assert reports.read(0.0) == [
        Report(ReportKind.ATTRIBUTES, "a.jpg"),
        Report(ReportKind.SUBFOLDER, "below"),
        Report(ReportKind.SCAN_NEEDED),
    ]


def test_lost_reports_are_reported(tmp_path: Path, reports: KernelReports) -> None:
    names = [tmp_path / "images" / name for name in ("a.jpg", "b.jpg")]
    write(names[0])
    for number in range(int(MAX_QUEUED.read_text()) // 2 + 1):  # each is two reports
        names[number % 2].rename(names[1 - number % 2])
    assert Report(ReportKind.SCAN_NEEDED) in reports.read(0.0)
    assert reports.read(0.0) == []


def test_a_folder_that_was_replaced_is_not_current(tmp_path: Path, reports: KernelReports) -> None:
    folder = tmp_path / "images"
    assert reports.is_current()
    folder.rename(tmp_path / "elsewhere")
    assert not reports.is_current()
    folder.mkdir()
    assert not reports.is_current()
    reports.start()
    assert reports.is_current()
    folder.rmdir()
    folder.mkdir()  # most likely with the same inode
    reports.read(0.0)
    assert not reports.is_current()


def test_a_sub_folder_that_can_not_be_watched_is_left_out(
    tmp_path: Path, reports: KernelReports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's limit is an error: beyond it, no later sub-folder could be watched either."""
    watch = KernelReports._watch
    number = errno.EACCES

    def fails(self: KernelReports, name: str) -> None:
        if name:
            raise OSError(number, "no")
        watch(self, name)

    monkeypatch.setattr(KernelReports, "_watch", fails)
    reports.start()
    write(tmp_path / "images" / "a.jpg")
    assert reports.read(0.0)[-1] == Report(ReportKind.RENAMED, "a.jpg", ".a.jpg.new")
    number = errno.ENOSPC
    with pytest.raises(OSError, match="no"):
        reports.start()
    assert reports.read(0.0) == []
