"""Converts any of Pillow's modes to one that can be resized, piece by piece to save memory.

Called only by `decoding`, which says how each kind of image is treated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from shared.errors import BadImage
from shared.images.sample_bits import Samples, SampleSource, check_colors, used_bits

# Full scales by mode that show in the values: floats from 0 to 1, and 8 bits in a wider number. The setting
# `sample_bits` overrides the latter.
_OWN_SCALES = {"F": (1, 255), "I": (255,)}
_LARGEST_16 = 65535
_LARGEST_32 = 2**31 - 1
# A conversion of several steps is done in pieces of at most this many pixels.
PIECE_PX = 262_144
# Memory of the intermediate steps for one piece: at most 17 bytes per pixel, for floats.
PIECE_BYTES = 17 * PIECE_PX

_Box = tuple[int, int, int, int]


def full_scale_of(frame: Image.Image, source: SampleSource) -> int:
    """The sample value that stands for white: of a gray frame, by all its samples; of colors, by the file alone.

    Args:
        frame: loaded.
        source: what the file says about its samples.

    Raises:
        BadImage: `unsupported`: no full scale holds all values, or the file doesn't tell which one is meant.
    """
    if frame.mode in _OWN_SCALES:
        return _wide_scale(frame, source)
    if frame.mode.startswith("I;16"):
        return _largest_of(used_bits(_samples(frame), source))
    if source.stored_bits <= 8:
        return 255
    check_colors(_largest_color(frame), source)
    return _largest_of(source.stored_bits)


def to_resizable(
    frame: Image.Image, *, premultiplied: bool, full_scale: int = 255, is_negative: bool = False
) -> Image.Image:
    """The whole loaded frame in a mode that can be interpolated: L, RGB, CMYK, or RGBa if it has transparency.

    A frame that will not be resized needs no premultiplied alpha: without `premultiplied` the mode is RGBA instead of
    RGBa, because converting to RGBa and back changes colors. `full_scale` is the result of `full_scale_of`. Pillow
    itself inverts negatives of 8 bits and less, but not wider ones.
    """
    mode = frame.mode
    if mode in _OWN_SCALES or mode.startswith("I;16"):
        return _in_pieces(frame, "L", lambda piece: _to_gray(piece, full_scale, is_negative=is_negative))
    if frame.has_transparency_data:
        if not premultiplied:
            return _to_rgba(frame)
        if mode == "RGBA":
            return frame.convert("RGBa")
        return _in_pieces(frame, "RGBa", lambda piece: _to_rgba(piece).convert("RGBa"))
    if mode == "1":
        return frame.convert("L")
    return frame if mode in ("L", "RGB", "CMYK") else frame.convert("RGB")


def _to_rgba(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGBA" else image.convert("RGBA")


def _in_pieces(frame: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert the whole frame piece by piece. `convert` must treat each pixel independently of the others."""
    if frame.width * frame.height <= PIECE_PX:
        return convert(frame)
    whole = Image.new(mode, frame.size)
    for box in _pieces(frame.size):
        whole.paste(convert(frame.crop(box)), box)
    return whole


def _pieces(size: tuple[int, int]) -> list[_Box]:
    """Boxes that cover a picture, each of full rows unless a row is too long."""
    width, height = size
    columns = min(width, PIECE_PX)
    rows = PIECE_PX // columns
    return [
        (left, top, min(left + columns, width), min(top + rows, height))
        for top in range(0, height, rows)
        for left in range(0, width, columns)
    ]


def _wide_scale(frame: Image.Image, source: SampleSource) -> int:
    """The full scale of floats, or of integers that have 32 bits or a sign."""
    ranges = [_range(np.asarray(frame.crop(box))) for box in _pieces(frame.size)]
    # numpy's minimum and maximum, unlike Python's, are nan if one of the values is.
    low, high = float(np.min([low for low, _ in ranges])), float(np.max([high for _, high in ranges]))
    if not (low >= 0 and high <= (_LARGEST_32 if frame.mode == "I" else _LARGEST_16)):  # true for nan too
        raise BadImage(
            "unsupported", f"gray values from {low:g} to {high:g}: send 8 or 16 bits, or floats from 0 to 1."
        )
    own = next((full for full in _OWN_SCALES[frame.mode] if high <= full), None)
    if own == 1 or (own and not source.setting_bits):
        return own
    if high > _LARGEST_16 and not source.setting_bits:
        return _LARGEST_32
    return _largest_of(used_bits(Samples(int(high), any_bits=0), source))


def _samples(frame: Image.Image) -> Samples:
    pieces = [np.asarray(frame.crop(box)) for box in _pieces(frame.size)]
    return Samples(
        max(int(piece.max()) for piece in pieces),
        any_bits=int(np.bitwise_or.reduce([np.bitwise_or.reduce(piece, axis=None) for piece in pieces])),
    )


def _largest_color(frame: Image.Image) -> int:
    """The largest sample of all channels except transparency."""
    return max(frame.getchannel(band).getextrema()[1] for band in frame.getbands() if band != "A")  # type: ignore[return-value]  # of one band


def _largest_of(bits: int) -> int:
    return (1 << bits) - 1


def _range(values: npt.NDArray[np.generic]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _to_gray(piece: Image.Image, full_scale: int, *, is_negative: bool) -> Image.Image:
    """A piece of a frame with wide samples, in 8 bits."""
    if piece.mode in _OWN_SCALES:
        values = np.asarray(piece).astype(np.float64)
        values *= 255 / full_scale
        gray = np.rint(values, out=values).astype(np.uint8)
    else:
        gray = (np.asarray(piece) >> (full_scale.bit_length() - 8)).astype(np.uint8)
    return Image.fromarray(np.invert(gray, out=gray) if is_negative else gray)
