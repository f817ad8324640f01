"""Accepted files are moved or deleted, never over another file, and never if they have changed."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from producer.sources import disposal as disposal_module
from producer.sources.disposal import Disposal
from producer.sources.file_version import FileVersion, SentFile
from producer.sources.journal import SentJournal
from shared.errors import BadSetting
from tests.producer.sources.kit import PICTURES, write

# 2026-11-26 10:15:30.25 UTC
AT_NS = 1_795_688_130_250_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    return path


def sent(folder: Path, name: str) -> SentFile:
    return SentFile(name, FileVersion.of((folder / name).stat(), trust_inode=True))


def moving(folder: Path, target: Path) -> Disposal:
    disposal = Disposal(folder, move_to=target)
    disposal.check()
    return disposal


def test_a_file_is_deleted(folder: Path) -> None:
    write(folder / "a.jpg")
    assert Disposal(folder).dispose(sent(folder, "a.jpg"))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["a b.jpg", "a\nb.jpg", os.fsdecode(b"caf\xe9.jpg"), "2026/11/a.jpg"])
def test_a_file_is_moved_under_its_own_name(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    write(folder / name)
    assert moving(folder, tmp_path / "done" / "here").dispose(sent(folder, name))
    assert (tmp_path / "done" / "here" / name).read_bytes() == PICTURES[0]
    assert not (folder / name).exists()


def test_no_file_is_overwritten(folder: Path, tmp_path: Path) -> None:
    """Later files of the same name get their time in their names, and a number if the time is the same too."""
    disposal = moving(folder, tmp_path / "done")
    for picture in PICTURES[:4]:
        write(folder / "latest.jpg", picture, modified_ns=AT_NS)
        assert disposal.dispose(sent(folder, "latest.jpg"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "done").iterdir()} == {
        "latest.jpg": PICTURES[0],
        "latest.20261126T101530.250000Z.jpg": PICTURES[1],
        "latest.20261126T101530.250000Z-2.jpg": PICTURES[2],
        "latest.20261126T101530.250000Z-3.jpg": PICTURES[3],
    }


def test_a_long_name_has_room_for_the_time(folder: Path, tmp_path: Path) -> None:
    disposal = moving(folder, tmp_path / "done")
    name = "é" * 125 + ".jpg"
    for picture in PICTURES[:2]:
        write(folder / name, picture)
        assert disposal.dispose(sent(folder, name))
    assert len(list((tmp_path / "done").iterdir())) == 2


def test_a_time_in_the_far_future_is_no_obstacle(folder: Path, tmp_path: Path) -> None:
    """With --stamp-pattern, a file's time need not be right. In nanoseconds it is too large for the journal."""
    disposal, journal = moving(folder, tmp_path / "done"), SentJournal()
    for picture in PICTURES[:2]:
        write(folder / "latest.jpg", picture, modified_ns=(1 << 38) * 10**9)
        file = sent(folder, "latest.jpg")
        journal.add([file])
        assert disposal.dispose(file)
    assert len(list((tmp_path / "done").iterdir())) == 2
    journal.close()


def test_a_file_that_is_not_whole_stays(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    disposal = Disposal(folder)
    for name in ("a.jpg", "b.jpg"):
        write(folder / name, PICTURES[0][:300])
        for _ in range(2):
            assert not disposal.dispose(sent(folder, name))
    assert caplog.messages == [
        f"'{folder / 'a.jpg'}' was sent but is not a whole picture: it stays where it is, as all such files do."
    ]
    write(folder / "a.jpg")
    assert disposal.dispose(sent(folder, "a.jpg"))


def test_a_file_is_copied_with_its_times_to_another_file_system(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disposal = moving(folder, tmp_path / "done")
    write(folder / "a.jpg", age_s=60)
    file = sent(folder, "a.jpg")
    _forbid_renames_between(folder, tmp_path / "done", monkeypatch)
    assert disposal.dispose(file)
    moved = tmp_path / "done" / "a.jpg"
    assert moved.read_bytes() == PICTURES[0]
    assert moved.stat().st_mtime_ns == file.version.modified_ns
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["a.jpg"]
    assert list(folder.iterdir()) == []


def test_a_copy_that_fails_leaves_the_file_and_nothing_else(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disposal = moving(folder, tmp_path / "done")
    _forbid_renames_between(folder, tmp_path / "done", monkeypatch)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copy2", full)
    for name in ("a.jpg", "b.jpg"):
        write(folder / name)
        assert not disposal.dispose(sent(folder, name))
    assert sorted(path.name for path in folder.iterdir()) == ["a.jpg", "b.jpg"]
    assert list((tmp_path / "done").iterdir()) == []
    assert caplog.text.count("No space left on device. It stays where it is") == 1


def test_a_file_that_has_changed_since_it_was_read_stays(folder: Path, tmp_path: Path) -> None:
    write(folder / "latest.jpg")
    file = sent(folder, "latest.jpg")
    write(folder / "latest.jpg", PICTURES[1])
    assert not Disposal(folder).dispose(file)
    assert not moving(folder, tmp_path / "done").dispose(file)
    assert (folder / "latest.jpg").read_bytes() == PICTURES[1]


@pytest.mark.parametrize("other_disk", [False, True])
@pytest.mark.parametrize("at_last", [False, True])
def test_a_picture_that_is_written_while_the_one_before_is_moved_is_not_lost(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_disk: bool, at_last: bool
) -> None:
    """`at_last`: a third one has the name when the second would be put back. It is not overwritten."""
    disposal = moving(folder, tmp_path / "done")
    write(folder / "latest.jpg")
    file = sent(folder, "latest.jpg")
    if other_disk:
        _forbid_renames_between(folder, tmp_path / "done", monkeypatch)
    reserve = disposal_module._reserve
    stat = FileVersion.is_of

    def reserved(target: Path, modified_ns: int) -> Path:
        write(folder / "latest.jpg", PICTURES[1])
        return reserve(target, modified_ns)

    def checked(version: FileVersion, found: os.stat_result) -> bool:
        if found.st_size and at_last and not stat(version, found):
            write(folder / "latest.jpg", PICTURES[2])
        return stat(version, found)

    monkeypatch.setattr(disposal_module, "_reserve", reserved)
    monkeypatch.setattr(FileVersion, "is_of", checked)
    disposal.dispose(file)
    assert (folder / "latest.jpg").read_bytes() == PICTURES[2 if at_last else 1]
    kept = [path.read_bytes() for path in (tmp_path / "done").iterdir()]
    assert kept == ([PICTURES[1]] if at_last and not other_disk else [])


def test_a_file_that_is_gone_is_no_failure(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(folder / "a.jpg")
    file = sent(folder, "a.jpg")
    (folder / "a.jpg").unlink()
    assert not Disposal(folder).dispose(file)
    assert caplog.text == ""


def test_a_disposal_that_can_not_work_is_refused_at_the_start(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadSetting, match="is the folder that is sent"):
        moving(folder, folder / ".." / folder.name)
    (tmp_path / "file").touch()
    with pytest.raises(BadSetting, match=re.escape(f"--move-to {tmp_path / 'file' / 'x'} can't be created")):
        moving(folder, tmp_path / "file" / "x")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == folder)  # root may write anywhere
    with pytest.raises(BadSetting, match="this user may not write there"):
        moving(folder, tmp_path / "done")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BadSetting, match=f"can't be removed from {folder}"):
        Disposal(folder).check()


def _forbid_renames_between(one: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make renames fail as they do between file systems."""
    replace = Path.replace

    def refuses(path: Path, target: Path) -> Path:
        if path.is_relative_to(one) and target.is_relative_to(other):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuses)
