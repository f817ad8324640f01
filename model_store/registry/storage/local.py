"""The model store in a local or shared folder.

    <root>/<name>/current            see version_history
    <root>/<name>/canary.json        see canary
    <root>/<name>/000003/            one bundle
    <root>/<name>/.staging-…         a bundle or small file that is being written
    <root>/<name>/.trash-…           a bundle that is being deleted
    <root>/<name>/.lock              locked by the one writer; the system unlocks it when the writer dies

Changes are atomic because rename is: bundles and files are written under another name, synced to the disk (fsync), and
renamed. On a shared folder (NFS, SMB) this holds if rename is atomic there and flock works between its clients; both
are true of Linux's NFS.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from model_store.bundle.file_reading import read_small_file
from model_store.registry.storage.protocol import (
    STAGING_PREFIX,
    TRASH_PREFIX,
    folder_name,
    store_unavailable_error,
    version_number,
)

log = logging.getLogger("sortline.store")

LOCK_FILE = ".lock"


@dataclass(frozen=True)
class LocalStorage:
    """Models below one folder, which need not exist yet. See `protocol.Storage`."""

    root: Path

    @property
    def location(self) -> str:
        """The folder."""
        return str(self.root)

    def models(self) -> list[str]:
        """See `Storage`."""
        return [name for name in self._entries() if (self.root / name).is_dir()]

    def version_numbers(self, name: str) -> list[int]:
        """See `Storage`."""
        found = (version_number(entry) for entry in self._entries(name))
        return sorted(number for number in found if number is not None)

    def files(self, name: str, version: int) -> frozenset[str]:
        """See `Storage`."""
        folder = self._version(name, version)
        with self._reading():
            return frozenset(
                Path(path, file).relative_to(folder).as_posix()
                for path, _, files in os.walk(folder, onerror=_raise_unless_missing)
                for file in files
            )

    def read(self, name: str, file: str) -> bytes | None:
        """See `Storage`."""
        with self._reading():
            try:
                return read_small_file(self.root / name / file)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def fetch(self, name: str, version: int) -> Path:
        """The version's own folder."""
        return self._version(name, version)

    @contextlib.contextmanager
    def fresh_copy(self, name: str, version: int) -> Iterator[Path]:
        """The version's own folder."""
        yield self._version(name, version)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[LocalWriter]:
        """See `Storage`. Uses flock, because the system releases it when its holder is killed."""
        folder = self.root / name
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            _sync(self.root)
        with (folder / LOCK_FILE).open("ab") as file:
            _lock(file)
            for entry in os.listdir(folder):
                if entry.startswith((STAGING_PREFIX, TRASH_PREFIX)):
                    _remove(folder / entry)
            yield LocalWriter(folder)

    def _version(self, name: str, version: int) -> Path:
        return self.root / name / folder_name(version)

    def _entries(self, name: str = "") -> list[str]:
        with self._reading():
            try:
                return sorted(os.listdir(self.root / name))
            except (FileNotFoundError, NotADirectoryError):
                return []

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise store_unavailable_error(self.location, error) from error


@dataclass(frozen=True)
class LocalWriter:
    """Changes one model's folder, whose lock is held. See `protocol.Writer`; raises OSError."""

    folder: Path

    def write(self, file: str, data: bytes) -> None:
        """See `Writer`."""
        temporary = self.folder / f"{STAGING_PREFIX}{file.replace('/', '-')}"
        try:
            _write_synced(temporary, data)
            temporary.replace(self.folder / file)
        except BaseException:
            _remove(temporary)
            raise
        _sync((self.folder / file).parent)

    def delete(self, file: str) -> None:
        """See `Writer`."""
        (self.folder / file).unlink(missing_ok=True)
        _sync(self.folder)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """See `Writer`. The folder is inside the model's folder, because a rename works within one file system only."""
        path = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=self.folder))
        try:
            path.chmod(0o755)  # mkdtemp's 0700 would lock out workers of another user
            yield path
        finally:
            _remove(path)

    def place(self, staging: Path, version: int) -> None:
        """See `Writer`."""
        _sync_tree(staging)
        staging.rename(self.folder / folder_name(version))
        _sync(self.folder)

    def discard(self, version: int) -> None:
        """See `Writer`. Processes that have its files open or mapped can go on using them."""
        trash = self.folder / f"{TRASH_PREFIX}{folder_name(version)}-{uuid.uuid4().hex[:8]}"
        (self.folder / folder_name(version)).rename(trash)
        _sync(self.folder)
        _remove(trash)


def _lock(file: IO[bytes]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.warning("process %d waits for another writer, which holds %s (`fuser` shows it)", os.getpid(), file.name)
        fcntl.flock(file, fcntl.LOCK_EX)


def _remove(path: Path) -> None:
    """Delete a file or folder that no reader sees. Whatever can't be deleted now is left for the next writer.

    This happens on NFS, where a file that a process has open is renamed instead of deleted.
    """
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _raise_unless_missing(error: OSError) -> None:
    """The error handler of os.walk. Without it os.walk skips unreadable folders, and their files would seem missing."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    """Sync `folder` and everything below it to the disk: contents before the folders that name them."""
    for path, _, files in os.walk(folder, topdown=False):
        for file in files:
            _sync(Path(path, file))
        _sync(Path(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
