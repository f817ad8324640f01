"""Reads zip archives that others made, for uploads, datasets and arrays: whole ones, and never more than there may be.

An archive is never unpacked to disk. Its members are read one at a time, and what comes out is counted while it is
inflated, because every size in an archive's headers may be wrong: 840 bytes can inflate to gigabytes. Only stored and
deflated members are read. Of the other methods, Python's zipfile inflates each piece of input as a whole, whatever
size was asked for.
"""

from __future__ import annotations

import io
import stat
import struct
import threading
import weakref
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO

from shared.regular_files import open_regular

# Most images barely compress, and bitmaps of a flat scene perhaps 50 to 1; zip bombs reach 1000 to 1 and more.
MAX_EXPANSION = 100
MAX_MEMBERS = 200_000
# The names of this many members, with 250 bytes for each. More would be read into memory before they are counted.
MAX_DIRECTORY_BYTES = 64_000_000

# An archive that was to be split, and fitted into one part, begins with a mark. No zip in it can begin this early.
_MARK_BYTES = 4
# What zipfile reads without a size: an archive's last record, with a comment of up to 64 KB.
_END_BYTES = 1 << 17
_ENTRY_SIGNATURE = b"PK\x01\x02"  # begins each member's entry in the directory
_ENCRYPTED = 0x1
_READ_BYTES = 1 << 18
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "encryption"}
# What zipfile raises for archives that are broken or of a kind that it doesn't know. OverflowError: an offset of 2**64.
_ZIP_ERRORS = (zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError, OverflowError, struct.error)


class UnreadableMember(Exception):
    """A member can't be read. The text says why, and what to do."""


class ArchiveLimit(UnreadableMember):
    """The members of the archive expand to more than they may."""


class TooLargeArchive(zipfile.BadZipFile):
    """An archive has more members than may be read. The text says how many, and what to do."""


class ZipArchive:
    """An archive that is open for reading; several threads may read. Use it as a context manager, or close it.

    `members` are in the order of the archive's directory, folders included; several may have one name.
    """

    def __init__(self, source: Path | io.BufferedReader, *, max_directory_bytes: int = MAX_DIRECTORY_BYTES) -> None:
        """Open the archive.

        An archive that is cut short has lost its directory. If one of its members is a zip, zipfile finds the directory
        of that one instead, and takes all before it for the program of a self-extracting archive. So archives with
        anything in front of their first member are refused, self-extracting ones too.

        Args:
            source: its path, or the open file, which is closed with the archive.
            max_directory_bytes: the largest directory; it is read into memory as a whole.

        Raises:
            TooLargeArchive: it has too many members, or their names are too long.
            zipfile.BadZipFile: it is no zip, is damaged, or its first member does not begin where the file begins.
            OSError: the file can't be read, or is not a regular file.
        """
        self._file = open_regular(source) if isinstance(source, Path) else source
        try:
            self._size_bytes = self._file.seek(0, io.SEEK_END)
            self._zip = _open(self._file, max_directory_bytes=max_directory_bytes)
        except BaseException:
            self._file.close()
            raise
        weakref.finalize(self, self._file.close)  # datasets are not closed
        self.members = self._zip.infolist()
        self._expanded: dict[zipfile.ZipInfo, int] = {}  # bytes that came out of each member
        self._expanded_bytes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> ZipArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        self._file.close()

    def read(self, member: zipfile.ZipInfo, *, max_bytes: int) -> bytes:
        """Read one member; of a larger one only one byte more than `max_bytes`, by which the reader sees that.

        The bytes that come out of each member count once towards the archive's limit, however often it is read.

        Raises:
            UnreadableMember: it is damaged, or not one of those that are read (`member_problem`).
            ArchiveLimit: what was read of the archive is more than MAX_EXPANSION times its own size.
            OSError: the file can't be read.
        """
        if member not in self._expanded and self._is_over_limit():
            raise _archive_limit()
        data = bytearray()
        try:
            with self.open(member) as opened:
                while piece := opened.read(min(_READ_BYTES, max_bytes + 1 - len(data))):
                    data += piece
                    self._count(member, len(data))
        except (zipfile.BadZipFile, *_ZIP_ERRORS) as error:
            raise UnreadableMember(f"can't be read: {error}") from error
        return bytes(data)

    def open(self, member: zipfile.ZipInfo) -> IO[bytes]:
        """Open one member for a reader that knows how much it will take: nothing counts towards the archive's limit.

        Raises:
            UnreadableMember: it is not one of those that are read (`member_problem`).
            Exception: any that zipfile raises for a damaged archive, here and where the member is read.
        """
        if (problem := member_problem(member)) is not None:
            raise UnreadableMember(problem)
        return self._zip.open(member)

    def _count(self, member: zipfile.ZipInfo, expanded_bytes: int) -> None:
        """Count what came out of the member so far; raises ArchiveLimit if there was too much before."""
        with self._lock:
            added = expanded_bytes - self._expanded.get(member, 0)
            if added <= 0:  # it is read once more
                return
            if self._is_over_limit():
                raise _archive_limit()
            self._expanded[member] = expanded_bytes
            self._expanded_bytes += added

    def _is_over_limit(self) -> bool:
        return self._expanded_bytes > MAX_EXPANSION * self._size_bytes


def _archive_limit() -> ArchiveLimit:
    return ArchiveLimit(
        f"its archive expands to more than {MAX_EXPANSION} times its own size: unpack it, or pack it uncompressed."
    )


def member_problem(member: zipfile.ZipInfo) -> str | None:
    """Why a member is not read, or None. The upper half of its attributes is the Unix mode, if it has one."""
    if member.flag_bits & _ENCRYPTED:
        return "encrypted: unpack the archive first."
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "not a regular file but a link or device."
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        return f"compressed with {method}, which is not read: pack the archive again with deflate, as `zip` does."
    return None


def _open(file: io.BufferedReader, *, max_directory_bytes: int) -> zipfile.ZipFile:
    try:
        bounded = _BoundedDirectory(file, max_bytes=max_directory_bytes)
        archive = zipfile.ZipFile(bounded)
        bounded.is_open = True
    except _ZIP_ERRORS as error:  # a later version of the format; a name that isn't UTF-8
        raise zipfile.BadZipFile(str(error)) from error
    unlisted_bytes = min((member.header_offset for member in archive.infolist()), default=archive.start_dir)
    if unlisted_bytes > _MARK_BYTES:
        raise zipfile.BadZipFile(
            f"its directory does not list its first {unlisted_bytes:,} bytes, so it is cut short, or something stands "
            "in front of the archive"
        )
    return archive


class _BoundedDirectory:
    """The file as zipfile sees it. Its directory is refused if it is too large, or has too many entries.

    zipfile reads the whole directory by one call, whose size it takes from the file, and makes an object of 500 bytes
    of each entry. The entries are counted where they are read, because the count in the file may be wrong.
    """

    def __init__(self, file: io.BufferedReader, *, max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.is_open = False  # then members are read
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1, /) -> bytes:
        if self.is_open:
            return self._file.read(size)
        if size > self._max_bytes:
            raise TooLargeArchive(f"its directory has {size:,} bytes, the limit is {self._max_bytes:,}: split it")
        data = self._file.read(size if size >= 0 else _END_BYTES)
        if data.startswith(_ENTRY_SIGNATURE) and (count := data.count(_ENTRY_SIGNATURE)) > MAX_MEMBERS:
            raise TooLargeArchive(f"{count:,} files in one archive, the limit is {MAX_MEMBERS:,}: split it")
        return data
