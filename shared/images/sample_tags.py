"""Reads what a file says about the bits of its samples: how many it stores, and how many are used by its tags.

In: an opened frame and its file. Out: a SampleSource, for `sample_bits`. Called only by `decoding`.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from shared.images.decode_cost import walk_chunks
from shared.images.sample_bits import FULL_BITS, SampleSource

# TIFF tags (TIFF 6.0).
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _COLOR_MAP, _SMAX_SAMPLE_VALUE = 258, 281, 320, 341


def source_of(frame: Image.Image, data: bytes, *, setting_bits: int) -> SampleSource:
    """What the opened frame and its file say."""
    if frame.format == "PNG":
        return SampleSource(data[24], _png_tag(data), setting_bits, is_png=True)  # IHDR comes first
    if frame.format == "TIFF":
        bits = _tiff_tag(frame, _BITS_PER_SAMPLE)
        return SampleSource(bits if isinstance(bits, int) else 8, _tiff_tag_bits(frame), setting_bits)
    return SampleSource()


def mend_palette(frame: Image.Image) -> None:
    """Correct the palette of a loaded TIFF whose entries use 8 of their 16 bits; Pillow would show it as black.

    Like libtiff, this takes a palette to be of 8 bits if no entry is above 255.
    """
    entries = frame.tag_v2.get(_COLOR_MAP) if frame.format == "TIFF" and frame.mode == "P" else None  # type: ignore[attr-defined]  # a TiffImageFile
    if isinstance(entries, tuple) and max(entries) <= 255:
        count = len(entries) // 3
        frame.putpalette(b"".join(bytes(entries[index::count][:3]) for index in range(count)))


def _png_tag(data: bytes) -> int | None:
    for name, at, length in walk_chunks(data, "image/png"):
        if name == b"sBIT":
            return max(data[at : at + min(length, 4)], default=None)
        if name == b"IDAT":
            break
    return None


def _tiff_tag_bits(frame: Image.Image) -> int | None:
    for number in (_MAX_SAMPLE_VALUE, _SMAX_SAMPLE_VALUE):
        largest = _tiff_tag(frame, number)
        # Any other number is just the brightest sample of this picture.
        if isinstance(largest, int | float) and largest in {(1 << bits) - 1 for bits in range(8, FULL_BITS + 1)}:
            return int(largest).bit_length()
    return None


def _tiff_tag(frame: Any, number: int) -> Any:
    """The value of a tag, the largest if it has several; None without the tag."""
    value = frame.tag_v2.get(number)
    return max(value, default=None) if isinstance(value, tuple) else value
