"""Refuses a picture of which the file lacks the last rows, although its end mark is there.

In: a frame that Pillow has loaded, and its file. Out: BadImage, or nothing. Called by `decoding` for the files that
Pillow decodes; `jpeg` notices missing data itself. Pillow doesn't complain: the rows of a PNG or TIFF stay zero, and
those of a JPEG repeat the last color. A PNG or JPEG is looked at again only if it ends like that, which costs others
nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from PIL import Image

from shared.images.damage import lacks_data
from shared.images.decode_cost import PNG_SAMPLES, walk_chunks
from shared.images.jpeg import is_complete
from shared.images.tiff_directory import read_layout

# Adam7 (PNG specification, 8.2): first column, first row, and the steps of both, of each pass.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE_BYTES = 65_536
# TIFF tags (TIFF 6.0).
_STRIPS, _TILES, _PLANAR = 273, 324, 284
_BY_CHANNEL = 2  # of the tag _PLANAR
# The side of a JPEG's block of samples.
_BLOCK_PX = 8


def check_rows(frame: Image.Image, data: bytes, *, stored_width: int) -> None:
    """Refuse a frame whose file holds fewer rows than its header says.

    Args:
        frame: loaded.
        data: its file.
        stored_width: the width in the file. The codec may have reduced a JPEG's frame.

    Raises:
        BadImage: `truncated`.
    """
    if frame.format == "PNG":
        is_lacking = _ends_in_zeros(frame) and _inflated_bytes(data) < _bytes_of_rows(data)
        content_type = "image/png"
    elif frame.format in ("JPEG", "MPO"):
        is_lacking = _ends_in_one_color(frame, stored_width=stored_width) and not is_complete(data)
        content_type = "image/jpeg"
    elif frame.format == "TIFF":
        is_lacking = _lacks_strips(frame, data)
        content_type = "image/tiff"
    else:  # the decoders of the other formats refuse it themselves
        return
    if is_lacking:
        raise lacks_data(data, content_type)


# PNG ────────────────────────────────────────────────────────────────────────────────────────────────


def _ends_in_zeros(frame: Image.Image) -> bool:
    """Whether the row that is decoded last has no other values."""
    width, height = frame.size
    if frame.info.get("interlace") and height == 1:  # its pixels come in several passes
        return True
    last = height - 1 if not frame.info.get("interlace") else height - 1 - height % 2  # of the last pass
    return not frame.crop((0, last, width, last + 1)).tobytes().strip(b"\0")


def _bytes_of_rows(data: bytes) -> int:
    """The length of all rows, each with its filter's byte, according to the header."""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    pixel_bits = data[24] * PNG_SAMPLES.get(data[25], 0)
    passes = _PASSES if data[28] else ((0, 0, 1, 1),)
    total = 0
    for left, top, step_x, step_y in passes:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * pixel_bits + 7) // 8)
    return total


def _inflated_bytes(data: bytes) -> int:
    """The length of the rows that the file holds; counts no further than the header's."""
    unpacker, needed, count = zlib.decompressobj(), _bytes_of_rows(data), 0
    try:
        for packed in _pixel_chunks(data):
            while packed and count < needed:
                count += len(unpacker.decompress(packed, _PIECE_BYTES))
                packed = unpacker.unconsumed_tail
    except zlib.error:  # damaged there
        return count
    return count


def _pixel_chunks(data: bytes) -> Iterator[bytes]:
    has_begun = False
    for name, at, length in walk_chunks(data, "image/png"):
        if name == b"IDAT":
            has_begun = True
            yield data[at : at + length]
        elif has_begun:
            return


# TIFF ───────────────────────────────────────────────────────────────────────────────────────────────


def _lacks_strips(frame: Image.Image, data: bytes) -> bool:
    """Whether the file lists fewer strips or tiles than cover the picture. Pillow leaves their rows black."""
    tags = frame.tag_v2  # type: ignore[attr-defined]  # a TiffImageFile
    places = tags.get(_TILES) or tags.get(_STRIPS) or ()
    planes = len(frame.getbands()) if tags.get(_PLANAR) == _BY_CHANNEL else 1
    return len(places) < read_layout(data).chunks * planes


# JPEG ───────────────────────────────────────────────────────────────────────────────────────────────


def _ends_in_one_color(frame: Image.Image, *, stored_width: int) -> bool:
    """Whether the end of the last row could be what the codec puts in place of a missing block."""
    width, height = frame.size
    columns = max(2, _BLOCK_PX * width // max(1, stored_width))
    last = frame.crop((max(0, width - columns), height - 1, width, height))
    return all(low == high for low, high in (band.getextrema() for band in last.split()))
