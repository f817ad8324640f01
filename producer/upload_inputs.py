"""Finds and reads the images in the files, folders and zip archives given to `sortline upload`.

Called by producer/upload_start.py and producer/upload.py. `shared.zip_archive` reads the archives, and
`shared.regular_files` the files, each with limits on what is read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shared.errors import BadImage, NotFound
from shared.file_kind import FileKind, kind_of
from shared.file_walk import walk
from shared.images.formats import sniff
from shared.printable import printable
from shared.regular_files import open_regular, read_start
from shared.system_files import LeftOut, is_left_out
from shared.zip_archive import ArchiveLimit, UnreadableMember, ZipArchive, member_problem

# Of an archive with members, of an empty one, and of one made for parts of which it fills only one.
_ZIP_SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_SNIFFED_BYTES = 32  # `sniff` looks at fewer


@dataclass(frozen=True, slots=True)
class Input:
    """One input: a file, or a member of an archive. `problem` says why it can't be read."""

    name: str
    path: Path
    member: zipfile.ZipInfo | None = None
    problem: str | None = None


def list_inputs(paths: Iterable[Path]) -> Iterator[Input]:
    """Yield every file in the paths, in order. Links inside folders are followed.

    Hidden files and folders and those of the system are left out with a note.

    A path or folder that can't be read is an input with a problem.

    Raises:
        NotFound: a path does not exist.
    """
    for path in paths:
        try:
            kind = kind_of(path)
        except OSError as error:
            yield _unreadable(path, error)
            continue
        if kind is FileKind.MISSING:
            raise NotFound(f"{printable(path)}: no such file or folder.")
        if kind is FileKind.FOLDER:
            yield from _expand_folder(path)
        else:
            yield from _expand(path)


def is_image(path: Path) -> bool:
    """Whether this is a file that begins as an accepted image does, whatever its name."""
    try:
        sniff(read_start(path, max_bytes=_SNIFFED_BYTES))
    except (OSError, BadImage):
        return False
    return True


class InputReader:
    """Reads inputs one at a time, and keeps the last archive open. Use it as a context manager."""

    def __init__(self, *, max_image_bytes: int) -> None:
        self._max_image_bytes = max_image_bytes
        self._archive: ZipArchive | None = None
        self._archive_path: Path | None = None

    def __enter__(self) -> InputReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the archive."""
        if self._archive is not None:
            self._archive.close()
        self._archive = self._archive_path = None

    def read(self, item: Input) -> bytes:
        """Read one input; returns its bytes. If it is too large, returns only one byte more than the limit.

        Raises:
            BadImage: `unreadable`, or `archive_limit` if its archive expands beyond the limit.
        """
        if item.problem is not None:
            raise BadImage("unreadable", item.problem)
        try:
            if item.member is None:
                return read_start(item.path, max_bytes=self._max_image_bytes)
            return self._opened(item.path).read(item.member, max_bytes=self._max_image_bytes)
        except ArchiveLimit as error:
            raise BadImage("archive_limit", str(error)) from error
        except UnreadableMember as error:
            raise BadImage("unreadable", str(error)) from error
        except OSError as error:
            raise BadImage("unreadable", f"can't be read: {error.strerror}.") from error
        except zipfile.BadZipFile as error:  # it was replaced meanwhile
            raise BadImage("unreadable", f"not a usable zip archive: {error}") from error

    def _opened(self, path: Path) -> ZipArchive:
        if self._archive is None or self._archive_path != path:
            self.close()
            self._archive, self._archive_path = ZipArchive(path), path
        return self._archive


def _expand_folder(folder: Path) -> Iterator[Input]:
    """Every file below the folder, then the folders that can't be read."""
    unreadable: list[OSError] = []
    left_out = LeftOut()
    for files in walk(folder, on_error=unreadable.append, on_left_out=left_out.add):
        for file in files:
            yield from _expand(file)
    left_out.tell(folder)
    for error in unreadable:
        yield _unreadable(Path(error.filename), error)


def _expand(path: Path) -> Iterator[Input]:
    """The file itself, or the members of an archive."""
    name = printable(path)
    try:
        with open_regular(path) as file:
            is_zip = file.read(4) in _ZIP_SIGNATURES or path.suffix.lower() == ".zip"
    except OSError as error:
        yield _unreadable(path, error)
        return
    if is_zip:
        yield from _members(path, name)
    else:
        yield Input(name, path)


def _unreadable(path: Path, error: OSError) -> Input:
    return Input(printable(path), path, problem=f"can't be read: {error.strerror}.")


def _members(path: Path, name: str) -> Iterator[Input]:
    try:
        with ZipArchive(path) as archive:
            members = [member for member in archive.members if not _is_folder(member)]
    except zipfile.BadZipFile as error:
        yield Input(name, path, problem=f"not a usable zip archive: {error}")
        return
    except OSError as error:
        yield _unreadable(path, error)
        return
    left_out = LeftOut()
    for member in sorted(members, key=lambda member: member.filename):
        if (part := _left_out_part(member)) is not None:
            left_out.add(part)
        else:
            yield Input(f"{name}/{printable(member.filename)}", path, member, member_problem(member))
    left_out.tell(path)


def _is_folder(member: zipfile.ZipInfo) -> bool:
    """Whether the member is a folder. Some tools for Windows end its name with a backslash instead of a slash."""
    return member.is_dir() or (member.filename.endswith("\\") and not member.file_size)


def _left_out_part(member: zipfile.ZipInfo) -> str | None:
    """The first part of its path that is left out, after a slash or, as some tools for Windows write it, a backslash.

    `.` and `..` do not count: nothing is unpacked, so they can do no harm.
    """
    parts = member.filename.replace("\\", "/").split("/")
    return next((part for part in parts if is_left_out(part) and part not in (".", "..")), None)
