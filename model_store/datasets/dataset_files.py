"""The files of a dataset, in a folder or in a zip that is never unpacked.

Names are relative, with `/`, and read as UTF-8 in any locale, as labels.csv is. In a folder, links are followed. Only
regular files are read, and only members of a zip that `shared.zip_archive` reads; each up to a limit.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from shared.errors import BadDataset, BadImage
from shared.file_kind import FileKind, kind_of
from shared.file_walk import walk
from shared.printable import printable
from shared.regular_files import TooLarge, open_regular, read_regular
from shared.zip_archive import TooLargeArchive, UnreadableMember, ZipArchive

# Enough for the labels of a million files; what is made of them takes five times as much memory. Images have a limit of
# their own.
MAX_FILE_BYTES = 50_000_000


class DatasetFiles(Protocol):
    """A folder or zip whose files can be listed and read by name."""

    @property
    def path(self) -> Path:
        """The path that the user gave."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every file except hidden ones, sorted."""

    @property
    def empty_folders(self) -> tuple[str, ...]:
        """Folders at the top level that hold no file."""

    def read(self, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        """A file's bytes.

        Raises:
            BadImage: it can't be read, is not a regular file, or is larger than `max_bytes`.
        """


def open_files(path: Path) -> DatasetFiles:
    """The files of the folder or zip at `path`.

    Raises:
        BadDataset: it is neither a folder nor a zip, a folder in it can't be read, or the zip is damaged or has names
            that lead outside.
    """
    try:
        kind = kind_of(path)
        if kind is FileKind.FOLDER:
            return _folder(path)
        if kind is FileKind.MISSING:
            raise BadDataset(f"dataset {path} does not exist: give a folder or a zip.")
        if kind is FileKind.FILE and _is_zip(path):
            return _zip(path)
    except OSError as error:
        unreadable = printable(error.filename or path)  # a folder in the dataset, or the dataset itself
        raise BadDataset(f"dataset: {unreadable} can't be read: {error.strerror}.") from error
    raise BadDataset(
        f"dataset {path} is neither a folder nor a complete zip: give one of them, or create the zip again."
    )


@dataclass(frozen=True)
class _Folder:
    path: Path
    names: tuple[str, ...]
    empty_folders: tuple[str, ...]

    def read(self, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        file = self.path / os.fsdecode(name.encode("utf-8", "surrogateescape"))
        try:
            return read_regular(file, max_bytes=max_bytes)
        except TooLarge as error:
            raise _too_large(name, max_bytes=max_bytes) from error
        except OSError as error:
            raise BadImage("unreadable", f"{name} can't be read: {error.strerror}.") from error


@dataclass(frozen=True)
class _Zip:
    path: Path
    names: tuple[str, ...]
    empty_folders: tuple[str, ...]
    archive: ZipArchive
    members: dict[str, zipfile.ZipInfo]  # by name; of several of one name, the last

    def read(self, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        try:
            data = self.archive.read(self.members[name], max_bytes=max_bytes)
        except UnreadableMember as error:
            raise BadImage("unreadable", f"{name} in the zip: {error}") from error
        except OSError as error:
            raise BadImage("unreadable", f"{name} can't be read from the zip: {error.strerror}.") from error
        if len(data) > max_bytes:
            raise _too_large(name, max_bytes=max_bytes)
        return data


def _folder(path: Path) -> _Folder:
    names: list[str] = []
    for files in walk(path, on_error=_raise):
        names += [_as_utf8(file.relative_to(path).as_posix()) for file in files]
    tops = {_as_utf8(entry.name) for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    return _Folder(path, tuple(sorted(names)), _without_files(tops, names))


def _as_utf8(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _raise(error: OSError) -> None:
    raise error


def _is_zip(path: Path) -> bool:
    with open_regular(path) as file:  # for a path that can't be read, is_zipfile would return False
        return zipfile.is_zipfile(file)


def _zip(path: Path) -> _Zip:
    try:
        archive = ZipArchive(path)
    except TooLargeArchive as error:
        raise BadDataset(f"dataset {path} is too large a zip: {error}.") from error
    except zipfile.BadZipFile as error:
        raise BadDataset(f"dataset {path} is a damaged zip: {error}. Create it again.") from error
    for info in archive.members:
        _check_member(path, info.filename)
    kept = [info for info in archive.members if not _is_hidden(info.filename)]
    members = {info.filename: info for info in kept if not info.is_dir()}
    root = _common_root(list(members))
    tops = {info.filename.removeprefix(root).split("/")[0] for info in kept if info.is_dir()} - {""}
    members = {name.removeprefix(root): members[name] for name in sorted(members)}
    return _Zip(path, tuple(members), _without_files(tops, members), archive, members)


def _common_root(names: list[str]) -> str:
    """The folder that wraps everything, or "". A single class folder doesn't count: it holds only image files."""
    tops = {name.split("/")[0] for name in names}
    if len(tops) != 1 or all(name.count("/") == 1 and not _is_label_table(name) for name in names):
        return ""
    return f"{tops.pop()}/"


def _is_label_table(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in (".csv", ".jsonl")


def _is_hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") for part in parts) or "__MACOSX" in parts


def _without_files(tops: set[str], names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(tops - {name.split("/")[0] for name in names}))


def _check_member(path: Path, name: str) -> None:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or ".." in parts or (parts and ":" in parts[0]):
        raise BadDataset(f"dataset {path} has a member {name!r} that leads outside the zip: create the zip again.")


def _too_large(name: str, *, max_bytes: int) -> BadImage:
    setting = "" if max_bytes == MAX_FILE_BYTES else " (max_image_bytes)"
    return BadImage("too_large_bytes", f"{name} has more than {max_bytes:,} bytes, the limit{setting}.")
