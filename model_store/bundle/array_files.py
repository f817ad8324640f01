"""Reads NumPy arrays from files that somebody else may have made.

In: a `.npz` or `.npy` file and a bound. Out: arrays of numbers. `numpy.load` allocates whatever a header claims, so
that a file of 300 bytes can ask for a terabyte. Here the header is compared with the bound and with the file's size
before anything is allocated. Nothing is ever unpickled.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from shared.zip_archive import TooLargeArchive, UnreadableMember, ZipArchive

# Booleans, integers and floats: what Sortline writes. Objects would be pickles.
_KINDS = "biuf"
# Sortline writes at most some 400 members. The directory is read as a whole, and takes ten times its size in memory.
_MAX_DIRECTORY_BYTES = 65_536
# What NumPy raises for a header that isn't a small dictionary: it reads the header as Python's text of a literal.
_HEADER_ERRORS = (
    ValueError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    KeyError,
    AttributeError,
    tokenize.TokenError,
)
# What zipfile raises for a damaged member.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OverflowError, struct.error)


def read_npz(
    file: io.BufferedReader, names: Collection[str] | None = None, *, max_bytes: int
) -> dict[str, NDArray[Any]]:
    """The arrays `names` of a `.npz`, or all; other members are not read.

    Args:
        file: opened for reading; it is closed here.
        names: of the arrays, without `.npy`.
        max_bytes: of all these arrays together.

    Raises:
        ValueError: the file is damaged, lacks an array, or has one that is too large or doesn't hold numbers.
        OSError: the file can't be read.
    """
    found: dict[str, NDArray[Any]] = {}
    try:
        with ZipArchive(file, max_directory_bytes=_MAX_DIRECTORY_BYTES) as archive:
            members = {member.filename: member for member in archive.members}
            for name in _all_names(members) if names is None else names:
                if (member := members.get(f"{name}.npy")) is None:
                    raise ValueError(f"it lacks the array {name}")
                with archive.open(member) as stream:
                    found[name] = _read(stream, size_bytes=member.file_size, max_bytes=max_bytes, name=name)
                max_bytes -= found[name].nbytes
    except UnreadableMember as error:
        raise ValueError(f"its array {name} can't be read: {error}") from error
    except TooLargeArchive as error:
        raise ValueError("it has more members than a .npz of Sortline") from error
    except _ZIP_ERRORS as error:
        raise ValueError(f"it is damaged: {error}") from error
    return found


def _all_names(members: Collection[str]) -> list[str]:
    """The names of arrays, without `.npy`; a member that is no array keeps its name, and is then missing."""
    return [name.removesuffix(".npy") for name in members]


def read_npy(file: IO[bytes], *, max_bytes: int) -> NDArray[Any]:
    """The array of a `.npy`; raises as `read_npz`."""
    try:
        return _read(file, size_bytes=os.fstat(file.fileno()).st_size, max_bytes=max_bytes, name="array")
    except EOFError as error:
        raise ValueError(f"it is damaged: {error}") from error


def _read(stream: IO[bytes], *, size_bytes: int, max_bytes: int, name: str) -> NDArray[Any]:
    """One array; `size_bytes` is the size that its file has, or that its zip claims for it."""
    version = npy.read_magic(stream)
    if version != (1, 0):  # the header of version 2 may claim 4 GB for itself; NumPy writes it for structures only
        raise ValueError(f"its array {name} has a header of version {version[0]}, but should have one of version 1")
    try:
        shape, in_columns, dtype = npy.read_array_header_1_0(stream)
    except _HEADER_ERRORS as error:
        raise ValueError(f"its array {name} has a header that can't be read: {type(error).__name__}") from error
    if not all(type(length) is int for length in shape):  # True is an int too
        raise ValueError(f"its array {name} has a shape that is not made of numbers")
    if dtype.kind not in _KINDS or dtype.hasobject or any(length < 0 for length in shape):
        raise ValueError(f"its array {name} is {dtype}{list(shape)}, but should hold numbers")
    needed = math.prod(shape) * dtype.itemsize
    if needed > max_bytes:
        raise ValueError(f"its array {name} claims {needed:,} bytes, but may have at most {max_bytes:,}")
    if stream.tell() + needed != size_bytes:
        raise ValueError(f"its array {name} claims {needed:,} bytes, but its file has {size_bytes:,}")
    data = stream.read(needed)
    if len(data) != needed or stream.read(1):  # the second read makes `zipfile` check the CRC
        raise ValueError(f"its array {name} has another size than it claims")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if in_columns else "C")
