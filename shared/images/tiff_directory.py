"""Measures a TIFF's directory of tags without unpacking it, because each number would become a Python object.

In: the bytes of a TIFF file, or of EXIF, which has the same form. Out: how many values and bytes its tags hold.
Called by `limits`: Pillow and libtiff unpack as many values as a tag claims. A file of 19 MB may hold 2 million
fractions, which take 330 MB; and tags may share their bytes, which libtiff copies for each.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_EXIF_PREFIX = b"Exif\0\0"
# Bytes of one value, by the type of its tag (TIFF 6.0, and BigTIFF's 16 to 18).
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# Byte strings: they stay as they are.
_BYTES, _ASCII, _UNDEFINED = 1, 2, 7
# Tags that lead to a further directory, which Pillow reads too: EXIF, GPS and interoperability.
_DIRECTORIES = {34665, 34853, 40965}
_MAX_DIRECTORIES = 8


class TagData(NamedTuple):
    """The content of a file's tags: values that are unpacked one by one, and bytes in all."""

    values: int
    data_bytes: int


class _Tag(NamedTuple):
    number: int
    type: int
    values: int
    offset: int  # if the tag leads to a directory: where that begins

    @property
    def size_bytes(self) -> int:
        return self.values * _SIZES.get(self.type, 0)


def measure_tags(data: bytes) -> TagData:
    """The values of the first directory and of those below it. Unreadable ones don't count: nobody will read them."""
    values = data_bytes = 0
    waiting, seen = [_first_directory(data)], set[int]()
    while waiting and len(seen) < _MAX_DIRECTORIES:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        for tag in _tags(data, at):
            data_bytes += tag.size_bytes
            if tag.type not in (_BYTES, _ASCII, _UNDEFINED):
                values += tag.values
            if tag.number in _DIRECTORIES:
                waiting.append(tag.offset)
    return TagData(values, data_bytes)


def count_of(tag_number: int, exif: bytes) -> int:
    """How many values a tag of the first directory holds; 0 where there is none."""
    data = exif
    while data.startswith(_EXIF_PREFIX):
        data = data[len(_EXIF_PREFIX) :]
    return next((tag.values for tag in _tags(data, _first_directory(data)) if tag.number == tag_number), 0)


def _first_directory(data: bytes) -> int:
    return _unpack(data, 8, "Q") if _is_big(data) else _unpack(data, 4, "L")


def _tags(data: bytes, at: int) -> Iterator[_Tag]:
    """The tags of the directory at `at`, as far as the file goes."""
    big = _is_big(data)
    head, entry = (8, "HHQQ") if big else (2, "HHLL")
    count, size = _unpack(data, at, "Q" if big else "H"), struct.calcsize("=" + entry)
    entries = struct.Struct(_order(data) + entry)
    for offset in range(at + head, min(at + head + count * size, len(data) - size + 1), size):
        yield _Tag(*entries.unpack_from(data, offset))


def _unpack(data: bytes, at: int, form: str) -> int:
    number = struct.Struct(_order(data) + form)
    if at + number.size > len(data):
        return 0
    return int(number.unpack_from(data, at)[0])


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _is_big(data: bytes) -> bool:
    return 43 in data[2:4]
