"""The journal of sent files: kept across restarts and kills, bounded, and used by one camera only."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from producer.sources import journal as journal_module
from producer.sources.file_version import FileVersion, SentFile
from producer.sources.journal import SentJournal, journal_path
from shared.errors import BadSetting
from tests.irregular_files import make_sparse_file
from tests.kit import run_python

ODD_NAMES = ["a b.jpg", "a\nb.jpg", os.fsdecode(b"caf\xe9.jpg"), "2026/11/26/a.jpg", "'; DROP TABLE sent; --.jpg"]


def sent(name: str, size_bytes: int = 1) -> SentFile:
    return SentFile(name, FileVersion(size_bytes, 1_700_000_000_123_456_789, (1 << 63) - 1))


def test_sent_files_of_any_name_are_known_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "journal"
    first = SentJournal(path)
    first.add([sent(name) for name in ODD_NAMES])
    first.add([sent("again.jpg"), sent("again.jpg", 2)])
    first.forget([ODD_NAMES[0]])
    first.close()
    second = SentJournal(path)
    assert not second.has(sent(ODD_NAMES[0]))
    assert all(second.has(sent(name)) for name in ODD_NAMES[1:])
    assert second.has(sent("again.jpg", 2))
    assert not second.has(sent("again.jpg", 1))
    second.close()


def test_a_killed_process_leaves_what_it_had_written(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    program = (
        "import os, signal; from pathlib import Path; from producer.sources.journal import SentJournal;"
        "from producer.sources.file_version import FileVersion, SentFile;"
        f"journal = SentJournal(Path({str(path)!r}));"
        "[journal.add([SentFile(f'{n}.jpg', FileVersion(1, 2, 3))]) for n in range(500)];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run_python(program, exit_code=-signal.SIGKILL)
    journal = SentJournal(path)
    assert all(journal.has(SentFile(f"{n}.jpg", FileVersion(1, 2, 3))) for n in range(500))
    journal.close()


def test_a_change_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    """An fsync for each picture would limit a camera to the disk's pace."""
    journal = SentJournal(tmp_path / "journal")
    assert journal._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._database.execute("PRAGMA synchronous").fetchone() == (1,)  # NORMAL
    journal.close()


def test_two_processes_of_one_camera_do_not_share_a_journal(tmp_path: Path) -> None:
    first = SentJournal(tmp_path / "journal")
    with pytest.raises(BadSetting, match="another process sends this folder"):
        SentJournal(tmp_path / "journal")
    first.close()
    SentJournal(tmp_path / "journal").close()


def test_each_camera_and_folder_has_a_journal_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = [("l-1", "c-1", "a"), ("l-1", "c-2", "a"), ("l-2", "c-1", "a"), ("l-1", "c-1", "b")]
    keys += [("l_1", "c", "a"), ("l", "1_c", "a")]
    paths = {journal_path(Path("state"), line=line, camera=camera, folder=Path(name)) for line, camera, name in keys}
    assert len(paths) == len(keys)
    assert {path.parent for path in paths} == {Path("state/cameras")}
    relative, absolute = (
        journal_path(Path("s"), line="l", camera="c", folder=it) for it in (Path("a"), tmp_path / "a")
    )
    assert relative == absolute


def test_the_names_of_files_that_are_gone_are_bounded_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_ABSENT", 10)
    journal = SentJournal(tmp_path / "journal")
    journal.add([sent(f"{n}.jpg") for n in range(100)])
    journal.add([sent("0.jpg", 2)])  # sent again: among the latest now
    journal.forget_oldest(["1.jpg", "2.jpg"])
    journal.close()
    again = SentJournal(tmp_path / "journal")
    kept = [n for n in range(100) if again.version(f"{n}.jpg") is not None]
    assert kept == [0, 1, 2, *range(91, 100)]
    again.close()


def test_a_folder_that_can_not_be_written_causes_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    journal = SentJournal(tmp_path / "file" / "journal")
    assert journal.path is None
    assert "a restart will send the folder's files again. Set state_dir" in caplog.text
    journal.add([sent("a.jpg")])
    assert journal.has(sent("a.jpg"))
    journal.close()


def _damage_header(path: Path) -> None:
    path.write_bytes(b"something else, and long enough to be read as a header of a database" * 50)


def _damage_rows(path: Path) -> None:
    pages = bytearray(path.read_bytes())
    pages[8192:-4096] = b"\xaa" * len(pages[8192:-4096])
    path.write_bytes(pages)


def _replace_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE sent")
        database.execute("CREATE TABLE sent (other)")


@pytest.mark.parametrize("damage", [_damage_header, _damage_rows, _replace_table])
def test_a_file_that_is_no_intact_journal_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / "journal"
    first = SentJournal(path)
    first.add([sent(f"{n:0200}.jpg") for n in range(1000)])
    first.close()
    damage(path)
    journal = SentJournal(path)
    assert "is not a journal" in caplog.text
    assert journal.path == path
    journal.add([sent("a.jpg")])
    journal.close()
    again = SentJournal(path)
    assert again.has(sent("a.jpg"))
    assert not again.has(sent(f"{0:0200}.jpg"))
    again.close()


def test_a_damaged_journal_that_can_not_be_replaced_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _damage_header(tmp_path / "journal")

    def fails(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", fails)
    journal = SentJournal(tmp_path / "journal")
    assert journal.path is None
    assert "Set state_dir to a folder that is writable" in caplog.text
    journal.close()


def test_each_new_journal_has_a_salt_of_its_own(tmp_path: Path) -> None:
    """Otherwise the server would ignore what is sent again after a journal was deleted."""
    salts = []
    for name in ("a", "a", "b"):
        journal = SentJournal(tmp_path / name)
        salts.append(journal.salt)
        journal.close()
    assert salts[0] == salts[1] != salts[2]


def test_a_full_disk_causes_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = SentJournal(tmp_path / "journal")
    journal._database.execute("PRAGMA max_page_count = 4")
    for first in range(0, 2000, 100):
        journal.add([sent(f"{n:0200}.jpg") for n in range(first, first + 100)])
    assert caplog.text.count("can't be written") == 1
    assert journal.has(sent(f"{1999:0200}.jpg"))
    journal.close()


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), make_sparse_file])
def test_a_journal_that_is_no_file_does_not_stop_the_camera(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "journal"
    make(path)
    journal = SentJournal(path)
    journal.add([sent("a.jpg")])
    assert journal.has(sent("a.jpg"))
    assert str(path) in caplog.text
    journal.close()
    assert os.path.exists("/dev/zero")
