"""The journal of a folder camera: it records which files were sent, so that a restart sends none of them again.

It is a small SQLite file per camera and folder. Each change is one transaction, so a killed process leaves an intact
journal. Besides the sent files that are in the folder, the journal keeps a bounded number of files that are gone: while
a share is not mounted its folder looks empty, but its files must not be sent again when it is back.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from producer.sources.file_version import FileVersion, SentFile
from producer.sources.file_versions import FileVersions
from shared.errors import BadSetting

log = logging.getLogger(__name__)

# Maximum number of names kept that are no longer in the folder; each takes about 100 bytes.
MAX_ABSENT = 100_000
_IN_MEMORY = ":memory:"
# The lowest byte of an error's code is its kind. These kinds show that a file is not a journal, or is a damaged one.
_PRIMARY_CODE = 0xFF
_NO_JOURNAL = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
_LARGEST_NUMBER = (1 << 31) - 1  # of user_version, a number in SQLite's header that is the application's
_SCHEMA = "CREATE TABLE IF NOT EXISTS sent (name BLOB PRIMARY KEY, size_bytes INT, modified_ns INT, inode INT)"


def journal_path(state_dir: Path, *, line: str, camera: str, folder: Path) -> Path:
    """The file of a camera's journal for a folder; each camera and folder has a file of its own."""
    # A name may contain "_", so the digest covers the names too: otherwise two cameras could have the same file.
    origin = os.fsencode(f"{line}/{camera}/{os.path.abspath(folder)}")
    digest = hashlib.sha256(origin).hexdigest()[:12]
    return state_dir / "cameras" / f"{line}_{camera}_{digest}.sqlite"


class SentJournal:
    """The files that were sent, by name, each with the version that was sent last. Open in one process at a time."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the journal at `path`, or create it. With None, keep it in memory until the process ends.

        If the journal can't be written, a warning is logged: the camera works, but a restart sends everything again.

        Raises:
            BadSetting: another process has the journal open.
        """
        self.path = path
        self._writes = True
        self._sent = FileVersions()
        self._database = self._open(path)
        (number,) = self._database.execute("PRAGMA user_version").fetchone()
        self.salt = b"%d " % number  # different for every journal

    def has(self, file: SentFile) -> bool:
        """Whether this version of the file was sent."""
        return self._sent.get(file.name) == file.version

    def version(self, name: str) -> FileVersion | None:
        """The version of the file that was sent last; None if no version was sent."""
        return self._sent.get(name)

    def name_of(self, version: FileVersion) -> str | None:
        """The name under which this version was sent; None if it was not, or if inodes can't be trusted."""
        return self._sent.name_of(version)

    def add(self, files: Iterable[SentFile]) -> None:
        """Record that these files were sent."""
        files = list(files)
        for file in files:
            self._sent.put(file)
        rows = [(os.fsencode(file.name), *_numbers(file.version)) for file in files]
        self._write("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?)", rows)

    def forget(self, names: Iterable[str]) -> None:
        """Forget files that are gone for good: a file that comes under one of these names later is new."""
        known = [name for name in names if self._sent.pop(name) is not None]
        self._write("DELETE FROM sent WHERE name = ?", [(os.fsencode(name),) for name in known])

    def forget_oldest(self, present: Collection[str]) -> None:
        """Forget the oldest files that are not in the folder (`present`), if there are too many of them."""
        self.forget(oldest_absent(self._sent, present))

    def close(self) -> None:
        """Close the journal, so that another process can open it."""
        self._database.close()

    def _write(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        if not rows:
            return
        try:
            with self._database:
                self._database.executemany(statement, rows)
        except sqlite3.Error as error:  # e.g. a full disk: the camera goes on
            if self._writes:
                log.warning("%s can't be written (%s): a restart will send files again", self.path, error)
            self._writes = False
        else:
            self._writes = True

    def _open(self, path: Path | None) -> sqlite3.Connection:
        if path is None:
            return self._read(_IN_MEMORY)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return self._read(str(path))
            except sqlite3.DatabaseError as error:
                code = error.sqlite_errorcode & _PRIMARY_CODE
                if code == sqlite3.SQLITE_BUSY:
                    raise BadSetting(
                        f"another process sends this folder for the same line and camera (it has {path} open): stop "
                        f"that process, or give this one another --camera."
                    ) from error
                if code not in _NO_JOURNAL:
                    raise
                return self._replace(path, error)
        except (OSError, sqlite3.Error) as error:
            return self._without(path, error)

    def _read(self, path: str) -> sqlite3.Connection:
        database = _connect(path)
        try:
            _prepare(database)
            rows = database.execute("SELECT name, size_bytes, modified_ns, inode FROM sent ORDER BY rowid")
            for name, *version in rows:
                self._sent.put(SentFile(os.fsdecode(name), FileVersion(*version)))
        except BaseException:
            database.close()
            raise
        return database

    def _replace(self, path: Path, error: Exception) -> sqlite3.Connection:
        log.warning("%s is not a journal (%s): it is replaced by an empty one, so files may be sent again", path, error)
        self._sent = FileVersions()
        path.unlink()
        return self._read(str(path))

    def _without(self, path: Path, error: Exception) -> sqlite3.Connection:
        log.warning(
            "%s can't be written (%s): a restart will send the folder's files again. Set state_dir to a folder that is "
            "writable and is kept.",
            path,
            error,
        )
        self.path = None
        self._sent = FileVersions()
        return self._read(_IN_MEMORY)


def oldest_absent(names: Collection[str], present: Collection[str]) -> list[str]:
    """Of `names`, oldest first, the oldest that are not `present`: all but the number that may be kept."""
    if len(names) <= len(present) + MAX_ABSENT:
        return []
    absent = [name for name in names if name not in present]
    return absent[: max(0, len(absent) - MAX_ABSENT)]


def _connect(path: str) -> sqlite3.Connection:
    # The camera may run in another thread than the one that opened its source.
    return sqlite3.connect(path, timeout=0, check_same_thread=False)


def _prepare(database: sqlite3.Connection) -> None:
    # The lock is held until the database is closed, so that no other process can open it.
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    # The journal survives when the process is killed, without an fsync for each change. A power cut may lose the latest
    # changes, so that the files are sent again; the server ignores them if it still has their jobs.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    with database:
        database.execute(_SCHEMA)
        database.execute("DELETE FROM sent WHERE name IS NULL")  # takes the lock now rather than with the first file
        if database.execute("PRAGMA user_version").fetchone() == (0,):
            # Makes the pictures' keys new, so that the server does not ignore what is sent again after the journal was
            # deleted. SQLite takes no parameters in a PRAGMA.
            database.execute(f"PRAGMA user_version = {secrets.randbelow(_LARGEST_NUMBER) + 1}")


def _numbers(version: FileVersion) -> tuple[int, int, int]:
    return version.size_bytes, version.modified_ns, version.inode
