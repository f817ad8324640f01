"""The files of a dataset, in a folder or in a zip that is never unpacked.

Names are relative, with `/`, and read as UTF-8 in any locale, as labels.csv is. In a folder, links are followed. Only
regular files are read, and only members of a zip that `shared.zip_archive` reads; each up to a limit.

Folders that only wrap the dataset, as in `bottles.zip` with `bottles/good/` and `bottles/no cap/`, are looked through:
names are relative to the innermost of them. Hidden files and those of the system are left out, and counted.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from shared.errors import BadDataset, BadImage
from shared.file_kind import FileKind, kind_of
from shared.file_walk import is_folder, walk
from shared.printable import printable
from shared.regular_files import TooLarge, open_regular, read_regular
from shared.system_files import LeftOut, is_left_out, left_out_part
from shared.zip_archive import TooLargeArchive, UnreadableMember, ZipArchive

# Enough for the labels of a million files; what is made of them takes five times as much memory. Images have a limit of
# their own.
MAX_FILE_BYTES = 50_000_000
# Only used to tell images from other files in a folder; the format of an image is detected from its bytes.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".jsonl"})
TABLE_STEMS = ("labels", "_classes")  # the latter is written by tools that export several labels an image
HELD_OUT_FILE = "held_out.txt"
# Archives of archives' folders wrap a dataset in perhaps four folders.
_MAX_WRAPPERS = 16
_DRIVE = re.compile(r"[A-Za-z]:")


class DatasetFiles(Protocol):
    """A folder or zip whose files can be listed and read by name."""

    @property
    def path(self) -> Path:
        """The path that the user gave."""

    @property
    def root(self) -> str:
        """The folders that only wrap the dataset, with a `/` at the end; empty if none do."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every file except those that are left out, sorted, relative to `root`."""

    @property
    def empty_folders(self) -> tuple[str, ...]:
        """Folders of the first and second level that hold no file, relative to `root`."""

    @property
    def left_out(self) -> dict[str, int]:
        """How many files and folders were left out, by kind."""

    @property
    def beside_root(self) -> tuple[str, ...]:
        """The files beside the folders of `root`, sorted, relative to `path`: they are no part of the dataset."""

    @property
    def repeated(self) -> tuple[str, ...]:
        """The names that several members of a zip have, all with one content, relative to `path`."""

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
    root: str
    names: tuple[str, ...]
    empty_folders: tuple[str, ...]
    left_out: dict[str, int]
    beside_root: tuple[str, ...]
    repeated: tuple[str, ...]

    def read(self, name: str, *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
        file = self.path / os.fsdecode((self.root + name).encode("utf-8", "surrogateescape"))
        try:
            return read_regular(file, max_bytes=max_bytes)
        except TooLarge as error:
            raise _too_large(name, max_bytes=max_bytes) from error
        except OSError as error:
            raise BadImage("unreadable", f"{name} can't be read: {error.strerror}.") from error


@dataclass(frozen=True)
class _Zip:
    path: Path
    root: str
    names: tuple[str, ...]
    empty_folders: tuple[str, ...]
    left_out: dict[str, int]
    beside_root: tuple[str, ...]
    repeated: tuple[str, ...]
    archive: ZipArchive
    members: dict[str, zipfile.ZipInfo]  # by name

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


def is_image_name(name: str) -> bool:
    """Whether the name is that of an image."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_table_name(name: str) -> bool:
    """Whether a file of this name holds labels: `labels.csv`, `.tsv` or `.jsonl`, or `_classes.csv`, in any case."""
    path = PurePosixPath(name.casefold())
    return path.suffix in TABLE_SUFFIXES and path.stem in TABLE_STEMS


def wrapping_folders(names: Collection[str], empty_folders: Collection[str]) -> str:
    """The folders around everything, with a `/` at the end, or "".

    A folder that holds images itself is a class, not a wrapper, unless a table of labels lies beside them. Notes such
    as a README, and tables of something else, may lie beside a wrapper.
    """
    root = ""
    for _ in range(_MAX_WRAPPERS):
        inside = [name.removeprefix(root) for name in names if name.startswith(root)]
        here = [name for name in inside if "/" not in name]
        tops = {name.partition("/")[0] for name in inside if "/" in name}
        tops |= {name.removeprefix(root).partition("/")[0] for name in empty_folders if name.startswith(root)}
        if len(tops) != 1 or any(map(_belongs_here, here)):
            break
        top = f"{tops.pop()}/"
        below = [name.removeprefix(top) for name in inside if name.startswith(top)]
        directly = [name for name in below if "/" not in name]
        is_class = any(map(is_image_name, directly)) or len(directly) == len(below)
        if is_class and not any(map(is_table_name, directly)):
            break
        root += top
    return root


def _belongs_here(name: str) -> bool:
    """Whether a file of this name makes its folder the dataset. A table of something else, as a README, doesn't."""
    return is_image_name(name) or is_table_name(name) or name.casefold() == HELD_OUT_FILE


def _folder(path: Path) -> _Folder:
    names: list[str] = []
    left_out = LeftOut()
    for files in walk(path, on_error=_raise, on_left_out=left_out.add):
        names += [_as_utf8(file.relative_to(path).as_posix()) for file in files]
    root = wrapping_folders(names, _subfolders(path, ""))
    within = sorted(name.removeprefix(root) for name in names if name.startswith(root))
    empty = _without_files(_subfolders(path, root), within)
    return _Folder(path, root, tuple(within), empty, left_out.counts(), _beside(root, names), ())


def _subfolders(path: Path, root: str) -> set[str]:
    """The folders of the first and second level below `root`, relative to it."""
    found: set[str] = set()
    level = [""]
    for _ in range(2):
        level = [f"{above}{name}" for above in level for name in _folders_in(path, root + above)]
        found |= set(level)
        level = [f"{name}/" for name in level]
    return found


def _folders_in(path: Path, folder: str) -> list[str]:
    with os.scandir(path / os.fsdecode(folder.encode("utf-8", "surrogateescape"))) as entries:
        return [_as_utf8(entry.name) for entry in entries if not is_left_out(entry.name) and is_folder(entry)]


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
    left_out = LeftOut()
    repeated: set[str] = set()
    members: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for info in archive.members:
        name = _member_name(path, info.filename)
        if (part := left_out_part(name)) is not None:
            left_out.add(part)
        elif name.endswith("/"):
            folders.add(name.rstrip("/"))
        else:
            if name in members:
                _check_same(path, members[name], info)
                repeated.add(name)
            members[name] = info
    root = wrapping_folders(members, folders)
    within = {name.removeprefix(root): members[name] for name in sorted(members) if name.startswith(root)}
    tops = {name.removeprefix(root) for name in folders if name.startswith(root) and name + "/" != root}
    empty = _without_files({"/".join(name.split("/")[:2]) for name in tops}, within)
    return _Zip(
        path,
        root,
        tuple(within),
        empty,
        left_out.counts(),
        _beside(root, members),
        tuple(sorted(repeated)),
        archive,
        within,
    )


def _check_same(path: Path, one: zipfile.ZipInfo, other: zipfile.ZipInfo) -> None:
    """Raise BadDataset if two members of one name differ: only one of them could be read, and nobody knows which."""
    if (one.CRC, one.file_size) != (other.CRC, other.file_size):
        raise BadDataset(
            f"dataset {path} has two members that are one file once unpacked, with different contents: "
            f"{one.orig_filename!r} and {other.orig_filename!r}. Rename or remove one, and create the zip again."
        )


def _beside(root: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if not name.startswith(root)))


def _member_name(path: Path, written: str) -> str:
    """A member's name with `/`. Some programs of Windows write a back slash.

    Raises:
        BadDataset: the name leads out of the folder that the zip would be unpacked into.
    """
    name = written.replace("\\", "/")
    if name.startswith("/"):
        why = "it begins with a slash"
    elif ".." in name.split("/"):
        why = "`..` is the folder above"
    elif _DRIVE.match(name):
        why = "it begins with a drive"
    else:
        return PurePosixPath(name).as_posix() + ("/" if name.endswith("/") else "")
    raise BadDataset(
        f"dataset {path} has a member {written!r} that leads outside the zip, as {why}: create the zip again, with "
        "names relative to the dataset's folder."
    )


def _without_files(folders: Iterable[str], names: Collection[str]) -> tuple[str, ...]:
    filled = {"/".join(name.split("/")[:depth]) for name in names for depth in (1, 2) if name.count("/") >= depth}
    return tuple(sorted(set(folders) - filled))


def _too_large(name: str, *, max_bytes: int) -> BadImage:
    setting = "" if max_bytes == MAX_FILE_BYTES else " (max_image_bytes)"
    return BadImage("too_large_bytes", f"{name} has more than {max_bytes:,} bytes, the limit{setting}.")
