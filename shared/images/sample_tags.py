"""Reads what a file says about the bits of its samples: how many it stores, and how many are used by its tags.

In: an opened frame and its file. Out: a SampleSource, for `sample_bits`; and the frame with a palette that is read at
the bits that its entries use. Called only by `decoding`.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, TiffImagePlugin

from shared.errors import BadImage
from shared.images.decode_cost import walk_chunks
from shared.images.sample_bits import FULL_BITS, SampleSource

# TIFF tags (TIFF 6.0).
_BITS_PER_SAMPLE, _PHOTOMETRIC, _MAX_SAMPLE_VALUE, _COLOR_MAP = 258, 262, 281, 320
_PLANAR, _SAMPLE_FORMAT, _SMAX_SAMPLE_VALUE = 284, 339, 341
_BY_CHANNEL = 2  # of the tag _PLANAR
_WHITE_IS_ZERO = 0  # of the tag _PHOTOMETRIC
_SIGNED = 2  # of the tag _SAMPLE_FORMAT
_GRAY = 1  # of the tag _PHOTOMETRIC

# Gray TIFFs that Pillow can decode but does not list, by the order of their bytes, _PHOTOMETRIC and _BITS_PER_SAMPLE.
# Samples of 12 bits are packed in the same way in both orders.
_MORE_GRAY_TIFFS = {
    (TiffImagePlugin.MM, _WHITE_IS_ZERO, 16): ("I;16B", "I;16B"),
    (TiffImagePlugin.II, _WHITE_IS_ZERO, 12): ("I;16", "I;12"),
    (TiffImagePlugin.MM, _WHITE_IS_ZERO, 12): ("I;16", "I;12"),
    (TiffImagePlugin.MM, _GRAY, 12): ("I;16", "I;12"),
}


def open_more_tiffs() -> None:
    """Let Pillow open all the gray TIFFs that it can decode. Calling this again changes nothing."""
    for (order, photometric, bits), modes in _MORE_GRAY_TIFFS.items():
        TiffImagePlugin.OPEN_INFO[(order, photometric, (1,), 1, (bits,), ())] = modes


def source_of(frame: Image.Image, data: bytes, *, setting_bits: int) -> SampleSource:
    """What the opened frame and its file say.

    Raises:
        BadImage: `unsupported`: a TIFF whose samples Pillow would mix up.
    """
    if frame.format == "PNG":
        return SampleSource(data[24], _png_tag(data), setting_bits, is_png=True)  # IHDR comes first
    if frame.format == "TIFF":
        bits = _tiff_tag(frame, _BITS_PER_SAMPLE)
        if bits == FULL_BITS and _tiff_tag(frame, _PLANAR) == _BY_CHANNEL and len(frame.getbands()) > 1:
            raise BadImage(
                "unsupported",
                "this TIFF stores 16-bit samples channel by channel (PlanarConfiguration 2), which can't be read: save "
                "it pixel by pixel, or with 8 bits per sample.",
            )
        return SampleSource(
            bits if isinstance(bits, int) else 8,
            _tiff_tag_bits(frame),
            setting_bits,
            is_signed=bits == FULL_BITS and _tiff_tag(frame, _SAMPLE_FORMAT) == _SIGNED,
            is_negative=_tiff_tag(frame, _PHOTOMETRIC) == _WHITE_IS_ZERO,
        )
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
