"""Measures a TIFF's directory of tags without unpacking it, because each number would become a Python object.

In: the bytes of a TIFF file, or of EXIF, which has the same form. Out: how many values and bytes its tags hold, and how
its pixels are laid out. Called by `limits` and `decode_cost`, because Pillow and libtiff unpack as many values as a tag
claims. A file of 19 MB may hold 2 million fractions, which take 330 MB. Several tags may refer to the same bytes, which
libtiff copies for each tag.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_EXIF_PREFIX = b"Exif\0\0"
# Bytes of one value, by the type of its tag (TIFF 6.0, and BigTIFF's 16 to 18).
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# Types of byte strings, which are not unpacked.
_BYTES, _ASCII, _UNDEFINED = 1, 2, 7
# Tags that lead to a further directory, which Pillow reads too: EXIF, GPS and interoperability.
_DIRECTORIES = {34665, 34853, 40965}
_MAX_DIRECTORIES = 8
# Ordinary files have fewer than 100 tags in a directory. At most this many plus one are counted.
MAX_TAGS = 4_096
# Tags that are lists of numbers even if their type is bytes: Pillow makes a strip of each number.
_OFFSETS = {273, 279, 324, 325}
# Numbers of tags (TIFF 6.0).
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_LENGTH = (
    256,
    257,
    258,
    259,
    277,
    278,
    322,
    323,
)
_LAYOUT_TAGS = {_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _TILE_WIDTH, _TILE_LENGTH}
_MAX_SAMPLES = 8  # of a pixel; the bits of further samples are not read
_NUMBER_FORMS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q"}


class TagData(NamedTuple):
    """The content of a file's tags: values that are unpacked one by one, total bytes, and the number of tags."""

    values: int
    data_bytes: int
    tags: int


class Layout(NamedTuple):
    """How a TIFF's pixels are stored, according to its first directory. A missing or unreadable value is 0."""

    width_px: int
    length_px: int
    bits: int  # of a pixel
    samples: int
    compression: int
    chunk_width_px: int  # of a strip or tile
    chunk_length_px: int

    @property
    def chunk_px(self) -> int:
        """Pixels of one strip or tile."""
        return self.chunk_width_px * self.chunk_length_px

    @property
    def chunks(self) -> int:
        """Strips or tiles that cover the picture."""
        if not self.chunk_px:
            return 0
        return -(-self.width_px // self.chunk_width_px) * -(-self.length_px // self.chunk_length_px)

    @property
    def coded_px(self) -> int:
        """Pixels of all strips or tiles: more than the picture's, if the tiles extend beyond its edges."""
        return self.chunk_px * self.chunks


class _Tag(NamedTuple):
    number: int
    type: int
    values: int
    offset: int  # where the values or the directory of this tag begin; values that fit are stored here instead

    @property
    def size_bytes(self) -> int:
        return self.values * _SIZES.get(self.type, 0)


def measure_tags(data: bytes) -> TagData:
    """Measure the first directory and those below it. Unreadable directories don't count: nothing will read them."""
    values = data_bytes = tags = 0
    waiting, seen = [_first_directory(data)], set[int]()
    while waiting and len(seen) < _MAX_DIRECTORIES:
        at = waiting.pop()
        if at in seen:
            continue
        seen.add(at)
        for tag in _tags(data, at):
            tags += 1
            data_bytes += tag.size_bytes
            if tag.type not in (_BYTES, _ASCII, _UNDEFINED) or tag.number in _OFFSETS:
                values += tag.values
            if tag.number in _DIRECTORIES:
                waiting.append(tag.offset)
    return TagData(values, data_bytes, tags)


def read_layout(data: bytes) -> Layout:
    """Read the layout from the first directory. If a tag occurs twice, the larger number counts."""
    found: dict[int, int] = {}
    for at, tag in _placed_tags(data, _first_directory(data)):
        if tag.number in _LAYOUT_TAGS:
            found[tag.number] = max(found.get(tag.number, 0), _largest(data, at, tag))
    width, length, samples = found.get(_WIDTH, 0), found.get(_LENGTH, 0), found.get(_SAMPLES, 1)
    tiled = _TILE_WIDTH in found or _TILE_LENGTH in found
    return Layout(
        width,
        length,
        bits=found.get(_BITS, 1) * samples,
        samples=samples,
        compression=found.get(_COMPRESSION, 1),
        chunk_width_px=found.get(_TILE_WIDTH, 0) if tiled else width,
        chunk_length_px=found.get(_TILE_LENGTH, 0) if tiled else min(found.get(_ROWS) or length, length),
    )


def count_of(tag_number: int, exif: bytes) -> int:
    """How many values a tag of the first directory holds; 0 if the tag is missing."""
    data = exif.removeprefix(_EXIF_PREFIX).removeprefix(_EXIF_PREFIX)  # Pillow removes two as well
    return next((tag.values for tag in _tags(data, _first_directory(data)) if tag.number == tag_number), 0)


def _first_directory(data: bytes) -> int:
    return _unpack(data, 8, "Q") if _is_big(data) else _unpack(data, 4, "L")


def _tags(data: bytes, at: int) -> Iterator[_Tag]:
    """The tags of the directory at `at`, as far as the file goes."""
    return (tag for _, tag in _placed_tags(data, at))


def _placed_tags(data: bytes, at: int) -> Iterator[tuple[int, _Tag]]:
    """The tags of `_tags`, each with the position of its entry; at most MAX_TAGS + 1 of them."""
    big = _is_big(data)
    head, entry = (8, "HHQQ") if big else (2, "HHLL")
    count, size = _unpack(data, at, "Q" if big else "H"), struct.calcsize("=" + entry)
    count = min(count, MAX_TAGS + 1)
    entries = struct.Struct(_order(data) + entry)
    for offset in range(at + head, min(at + head + count * size, len(data) - size + 1), size):
        yield offset, _Tag(*entries.unpack_from(data, offset))


def _largest(data: bytes, at: int, tag: _Tag) -> int:
    """The largest of the first values of a tag whose entry is at `at`; 0 if they aren't whole numbers."""
    form = _NUMBER_FORMS.get(tag.type)
    if form is None:
        return 0
    big = _is_big(data)
    place = tag.offset if tag.size_bytes > (8 if big else 4) else at + (12 if big else 8)
    step = _SIZES[tag.type]
    return max((_unpack(data, place + n * step, form) for n in range(min(tag.values, _MAX_SAMPLES))), default=0)


def _unpack(data: bytes, at: int, form: str) -> int:
    number = struct.Struct(_order(data) + form)
    if at + number.size > len(data):
        return 0
    return int(number.unpack_from(data, at)[0])


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _is_big(data: bytes) -> bool:
    return 43 in data[2:4]
