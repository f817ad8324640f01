"""The journal of a folder camera: which files it has sent, so that a restart sends none of them again.

A small SQLite file per camera and folder. Each change is one transaction, so that a killed process leaves a whole
journal. It holds the names that lie in the folder, and a bounded number of others: a share that is away for a while
looks like an empty folder, and must not be sent again when it is back.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from producer.sources.file_version import FileVersion, SentFile
from shared.errors import BadSetting

log = logging.getLogger(__name__)

# Names that are no longer in the folder and are remembered all the same, some 100 bytes each.
_MAX_ABSENT = 100_000
_IN_MEMORY = ":memory:"
_SCHEMA = "CREATE TABLE IF NOT EXISTS sent (name BLOB PRIMARY KEY, size_bytes INT, modified_ns INT, inode INT)"


def journal_path(state_dir: Path, *, line: str, camera: str, folder: Path) -> Path:
    """Where a camera remembers what it sent from a folder: a file of its own for each of them."""
    digest = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:12]
    return state_dir / "cameras" / f"{line}_{camera}_{digest}.sqlite"


class SentJournal:
    """The files that were sent, by name, in the version that was sent last. Held by one process at a time."""

    def __init__(self, path: Path | None = None) -> None:
        """Opens the journal at `path`, or makes one; None remembers until the process ends.

        A journal that can't be written costs a warning: the camera works, but sends everything again after a restart.

        Raises:
            BadSetting: another process holds it.
        """
        self.path = path
        self._writes = True
        self._database = self._open(path)
        rows = self._database.execute("SELECT name, size_bytes, modified_ns, inode FROM sent ORDER BY rowid")
        self._sent = {os.fsdecode(name): FileVersion(*version) for name, *version in rows}

    def has(self, file: SentFile) -> bool:
        """Whether this version of the file was sent."""
        return self._sent.get(file.name) == file.version

    def version(self, name: str) -> FileVersion | None:
        """The version of the file that was sent last; None if none was."""
        return self._sent.get(name)

    def add(self, files: Iterable[SentFile]) -> None:
        """Remember that these were sent."""
        files = list(files)
        for file in files:
            self._sent.pop(file.name, None)  # so that the latest come last
            self._sent[file.name] = file.version
        rows = [(_blob(file.name), *_numbers(file.version)) for file in files]
        self._write("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?)", rows)

    def forget(self, names: Iterable[str]) -> None:
        """These files are gone for good: what comes under their names is new."""
        known = [name for name in names if self._sent.pop(name, None) is not None]
        self._write("DELETE FROM sent WHERE name = ?", [(_blob(name),) for name in known])

    def forget_oldest(self, present: Collection[str]) -> None:
        """Forget the oldest of too many names that are not among those that lie in the folder."""
        self.forget(oldest_absent(self._sent, present))

    def close(self) -> None:
        """Let another process have it."""
        self._database.close()

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if not rows:
            return
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except sqlite3.Error as error:  # a full disk: the line goes on
            if self._writes:
                log.warning("%s can't be written (%s): a restart will send files again", self.path, error)
            self._writes = False
        else:
            self._writes = True

    def _open(self, path: Path | None) -> sqlite3.Connection:
        if path is None:
            return _connect(_IN_MEMORY)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _connect(str(path))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise BadSetting(
                    f"another process sends this folder for the same line and camera (it holds {path}): stop that "
                    f"one, or give this one another --camera."
                ) from error
            return self._without(path, error)
        except sqlite3.DatabaseError as error:
            log.warning("%s is no journal (%s): begun anew, so files may be sent again", path, error)
            path.unlink()
            return _connect(str(path))
        except OSError as error:
            return self._without(path, error)

    def _without(self, path: Path, error: Exception) -> sqlite3.Connection:
        log.warning(
            "%s can't be written (%s): a restart will send the folder's files again. Set state_dir to a folder that "
            "can be written and is kept.",
            path,
            error,
        )
        self.path = None
        return _connect(_IN_MEMORY)


def oldest_absent(names: Collection[str], present: Collection[str]) -> list[str]:
    """Of the names, oldest first, those that are not present and are more than can be remembered."""
    if len(names) <= len(present) + _MAX_ABSENT:
        return []
    absent = [name for name in names if name not in present]
    return absent[: max(0, len(absent) - _MAX_ABSENT)]


def _connect(path: str) -> sqlite3.Connection:
    # The camera may run in another thread than the one that opened its source.
    database = sqlite3.connect(path, timeout=0, check_same_thread=False)
    # Held until closed, and by nobody else. A write ahead log takes no fsync for each change, and survives a kill.
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("PRAGMA journal_mode = WAL")
    with database:
        database.execute(_SCHEMA)
        database.execute("DELETE FROM sent WHERE name IS NULL")  # takes the lock now, not with the first file
    return database


def _blob(name: str) -> bytes:
    return os.fsencode(name)


def _numbers(version: FileVersion) -> tuple[int, int, int]:
    return version.size_bytes, version.modified_ns, version.inode
