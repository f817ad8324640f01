"""Unpacks a TF-Hub module from a `.tar.gz`: completely or not at all, without trusting the archive.

In: an archive. Out: the module's files in a new folder. Called by `download` and `sources`.

tarfile reads each header as a whole, and headers may have any size: long names, and lists of attributes or of the holes
in a file. In an archive of 11 MB, one can have gigabytes. So tarfile reads through a file that limits what lies between
two members.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from shared.errors import BadBackbone
from shared.printable import printable
from shared.regular_files import open_regular

SAVED_MODEL_FILE = "saved_model.pb"
# The largest image modules of TF-Hub unpack to 3.7 GB (BiT R152x4); the default backbone to 11 MB.
MAX_BYTES = 4_000_000_000
MAX_MEMBERS = 10_000
# Of all headers of one member, and of the attributes for all members. A name and its attributes need a few hundred.
MAX_HEADER_BYTES = 65_536
_MAX_NAME_BYTES = 1_000
_MAX_PART_BYTES = 255  # of a file or folder, on Linux
_MAX_DEPTH = 20
_CHUNK_BYTES = 1 << 20
# tarfile moves to the next member by reading the last byte before it.
_BETWEEN_MEMBERS_BYTES = tarfile.BLOCKSIZE
# What tarfile raises for damaged headers besides its own errors. RecursionError: headers of headers.
_HEADER_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, ValueError, OverflowError, RecursionError)
# The OSErrors raised when an archive uses one name for both a file and a folder; all others come from the disk.
_NAME_CLASHES = FileExistsError, NotADirectoryError, IsADirectoryError

_Refuse = Callable[[str], BadBackbone]


def unpack(archive: Path, target: Path, *, origin: str) -> None:
    """Unpack the one SavedModel in a `.tar.gz`, at its top level or one folder below, as the new folder `target`.

    Accepts only regular files and folders that stay inside `target`, at most MAX_MEMBERS of them and MAX_BYTES in all.

    Args:
        origin: how messages name the archive.

    Raises:
        BadBackbone: the archive is damaged, has other members, or does not hold exactly one SavedModel.
        OSError: the archive can't be read, or the disk is full.
    """

    def refuse(why: str) -> BadBackbone:
        return BadBackbone(f"{origin} is refused: {why}.")

    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=target.parent) as scratch:
        unpacked = Path(scratch) / "module"
        unpacked.mkdir()
        try:
            with open_regular(archive) as file, gzip.open(file) as stream:
                _extract(stream, unpacked, refuse)
                # gzip verifies its checksum only at the very end, after some KB of padding that tarfile does not read.
                if len(stream.read(_CHUNK_BYTES)) == _CHUNK_BYTES:
                    raise refuse("more data follows the end of the archive")
        except (tarfile.TarError, *_HEADER_ERRORS, *_NAME_CLASHES) as error:
            raise BadBackbone(
                f"{origin} is not a complete .tar.gz ({error}): fetch it again, or check that it is a module's address."
            ) from error
        _module_folder(unpacked, origin).rename(target)


class _BoundedStream:
    """The inflated archive as tarfile sees it: of what it reads between two members, only so much."""

    def __init__(self, stream: gzip.GzipFile, refuse: _Refuse) -> None:
        self._stream = stream
        self._refuse = refuse
        self._left_bytes = 0
        self.tell, self.seekable = stream.tell, stream.seekable

    def allow(self, size_bytes: int) -> None:
        """Allow this much to be read from now on."""
        self._left_bytes = size_bytes

    def read(self, size: int = -1, /) -> bytes:
        self._take(size)
        return self._stream.read(size)

    def seek(self, position: int, /) -> int:
        """Move forward, which inflates what is passed over; backward would inflate all of it again."""
        self._take(position - self._stream.tell())
        return self._stream.seek(position)

    def _take(self, size: int) -> None:
        if not 0 <= size <= self._left_bytes:
            raise self._refuse(
                f"the headers of one of its members are damaged, or have more than {MAX_HEADER_BYTES:,} bytes; pack "
                "the module again with plain `tar`"
            )
        self._left_bytes -= size


def _extract(stream: gzip.GzipFile, folder: Path, refuse: _Refuse) -> None:
    """Write the members to the folder, one at a time, in the order of the archive."""
    source = _BoundedStream(stream, refuse)
    source.allow(MAX_HEADER_BYTES)
    count = total_bytes = 0
    with tarfile.open(fileobj=cast(BinaryIO, source), mode="r:") as tar:
        while (member := tar.next()) is not None:
            # It would keep all members, each with a copy of the attributes for all.
            tar.members = []  # type: ignore[attr-defined] # the types lack it
            count, total_bytes = count + 1, total_bytes + max(0, member.size)
            if count > MAX_MEMBERS or total_bytes > MAX_BYTES:
                raise refuse(f"it holds more than {MAX_MEMBERS:,} members or {MAX_BYTES:,} bytes")
            _check_member(member, tar, refuse)
            source.allow(member.size + tarfile.BLOCKSIZE)
            _write(tar, member, folder / member.name)
            source.allow(MAX_HEADER_BYTES + _BETWEEN_MEMBERS_BYTES)


def _check_member(member: tarfile.TarInfo, tar: tarfile.TarFile, refuse: _Refuse) -> None:
    name, path = printable(member.name[:200]), Path(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise refuse(f"its member {name!r} would be written outside the folder")
    if not (member.isreg() or member.isdir()):
        raise refuse(f"its member {name!r} is a link or device; only files and folders are unpacked")
    if member.issparse() or member.size < 0:
        raise refuse(f"its member {name!r} has holes or a negative size; only regular files are unpacked")
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if (
        len(os.fsencode(member.name)) > _MAX_NAME_BYTES
        or longest > _MAX_PART_BYTES
        or len(path.parts) > _MAX_DEPTH
        or "\0" in member.name
    ):
        raise refuse(f"the name of its member {name!r} is too long, too deep, or has a zero byte")
    if sum(len(key) + len(value) for key, value in tar.pax_headers.items()) > MAX_HEADER_BYTES:
        raise refuse(f"its attributes for all members have more than {MAX_HEADER_BYTES:,} bytes")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    assert source is not None  # None for links and devices only
    with source, path.open("wb") as out:
        shutil.copyfileobj(source, out, _CHUNK_BYTES)


def _module_folder(folder: Path, origin: str) -> Path:
    found = [
        path.parent for path in (folder / SAVED_MODEL_FILE, *folder.glob(f"*/{SAVED_MODEL_FILE}")) if path.is_file()
    ]
    if len(found) != 1:
        holds = ", ".join(sorted(printable(path.name) for path in folder.iterdir())[:5]) or "nothing"
        raise BadBackbone(
            f"{origin} should have one {SAVED_MODEL_FILE} at its top level or one folder below, but has {len(found)}; "
            f"it holds {holds}. Give the archive of one TF2 SavedModel."
        )
    return found[0]
