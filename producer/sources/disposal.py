"""Moves or deletes files whose pictures were accepted. Called by the folder source."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from errno import EXDEV
from pathlib import Path

from producer.sources.file_version import FileVersion, SentFile
from producer.sources.picture_files import looks_whole
from shared.errors import BadSetting
from shared.regular_files import read_regular

log = logging.getLogger(__name__)

_MAX_NAME_BYTES = 255


class Disposal:
    """Moves or deletes accepted files. Never touches a file that has changed since it was read, or is not whole."""

    def __init__(self, folder: Path, *, move_to: Path | None = None) -> None:
        """
        Args:
            folder: the camera's folder.
            move_to: folder to move files to, under the paths that they have below `folder`; None: delete them.
        """
        self._folder = folder
        self._move_to = move_to
        self._warned: set[int | None] = set()
        self._not_whole: dict[str, FileVersion] = {}

    def check(self) -> None:
        """Create the folder that files are moved to.

        Raises:
            BadSetting: that folder is the camera's own, or can't be created or written, or files can't be removed from
                the camera's folder.
        """
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise BadSetting(f"files can't be removed from {self._folder}: this user may not write there.")
        if self._move_to is None:
            return
        try:
            self._move_to.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadSetting(f"--move-to {self._move_to} can't be created: {error.strerror}. Name a folder.") from error
        if self._move_to.samefile(self._folder):
            raise BadSetting(f"--move-to {self._move_to} is the folder that is sent: name another one.")
        if not os.access(self._move_to, os.W_OK | os.X_OK):
            raise BadSetting(f"--move-to {self._move_to}: this user may not write there.")

    def describe(self) -> str:
        """Say what happens to an accepted file."""
        return "deleted" if self._move_to is None else f"moved to {self._move_to}"

    def dispose(self, file: SentFile) -> bool:
        """Move or delete one accepted file; returns whether this did it. Failures are logged, once for each reason."""
        path = self._folder / file.name
        try:
            if not file.version.is_of(path.stat()):
                return False  # a new picture under the same name
            if not self._is_whole(file):
                return False
            if self._move_to is not None:
                return _move(path, self._move_to / file.name, file.version)
            path.unlink()
        except FileNotFoundError:
            return False  # removed, or renamed: then it is disposed of under its new name
        except OSError as error:
            if error.errno not in self._warned:
                log.warning(
                    "%r was sent but can't be %s: %s. It stays where it is.", str(path), self.describe(), error.strerror
                )
            self._warned.add(error.errno)
            return False
        return True

    def _is_whole(self, file: SentFile) -> bool:
        """Whether the file is a whole picture: if not, its writer may still continue it. Warns of the first such file.

        Raises:
            OSError: the file can't be read.
        """
        if self._not_whole.get(file.name) == file.version:
            return False
        path = self._folder / file.name
        if looks_whole(read_regular(path, max_bytes=file.version.size_bytes)):
            self._not_whole.pop(file.name, None)
            return True
        if not self._not_whole:
            log.warning(
                "%r was sent but is not a whole picture: it stays where it is, as all such files do.", str(path)
            )
        self._not_whole[file.name] = file.version
        return False


def _move(path: Path, target: Path, version: FileVersion) -> bool:
    """Move a file, also to another file system; returns False if a new picture has taken its place meanwhile.

    Never overwrites another file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    place = _reserve(target, version.modified_ns)
    try:
        try:
            path.replace(place)
        except OSError as error:
            if error.errno != EXDEV:
                raise
            _copy(path, place)
            if version.is_of(path.stat()):
                path.unlink()
                return True
            place.unlink()
            return False
    except OSError:
        with suppress(OSError):  # remove the reserved file, and the copy in it if there is one
            place.unlink()
        raise
    return version.is_of(place.stat()) or _put_back(path, place)


def _put_back(path: Path, place: Path) -> bool:
    """Move a new picture, which was moved before it was sent, back to its name, unless a newer one has the name."""
    with suppress(OSError):
        os.link(place, path)  # unlike a rename, this never overwrites
        place.unlink()
        return False
    return True


def _copy(path: Path, place: Path) -> None:
    """Copy a file with its times, first to a hidden name, so that nobody sees an incomplete file."""
    hidden = place.with_name(f".{place.stem[:32]}.{os.getpid()}.part")
    try:
        shutil.copy2(path, hidden)
        hidden.replace(place)
    finally:
        hidden.unlink(missing_ok=True)


def _reserve(target: Path, modified_ns: int) -> Path:
    """Create an empty file under a free name: the target's, or else one that includes the file's time."""
    for name in _names(target, modified_ns):
        place = target.with_name(name)
        with suppress(FileExistsError):
            place.touch(exist_ok=False)
            return place
    raise AssertionError("_names is endless")


def _names(target: Path, modified_ns: int) -> Iterator[str]:
    yield target.name
    stamp = datetime.fromtimestamp(modified_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    number = 1
    while True:
        end = os.fsencode(f".{stamp}{f'-{number}' if number > 1 else ''}{target.suffix}")
        yield os.fsdecode(os.fsencode(target.stem)[: _MAX_NAME_BYTES - len(end)] + end)
        number += 1
