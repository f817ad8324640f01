"""Converts any of Pillow's modes to one that can be resized, piece by piece to save memory.

Called only by `decoding`, which says how each kind of image is treated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from shared.errors import BadImage
from shared.images.sample_bits import Samples, SampleSource, check_colors, used_bits

# Full scales by mode that show in the values: floats from 0 to 1, and 8 bits in a wider number. The setting
# `sample_bits` overrides the latter.
_OWN_SCALES = {"F": (1, 255), "I": (255,)}
_LARGEST_16 = 65535
# If the largest float is between 1 and this, 255 is not white: the picture would be black. It has overshoots, e.g. from
# resizing, or highlights.
_LEAST_OF_255 = 2
_LARGEST_32 = 2**31 - 1
# A conversion of several steps is done in pieces of at most this many pixels.
PIECE_PX = 262_144
# Memory of the intermediate steps for one piece: at most 17 bytes per pixel, for floats.
PIECE_BYTES = 17 * PIECE_PX

_Box = tuple[int, int, int, int]


class FullScale(NamedTuple):
    """The scale of a frame's samples."""

    white: int = 255  # the sample value that stands for white
    # How many bits the samples use. None if this need not be found out (8 bits, or a scale of their own), or can't be,
    # because all samples are zero.
    used_bits: int | None = None


def full_scale_of(frame: Image.Image, source: SampleSource) -> FullScale:
    """The scale of a gray frame, by all its samples; of colors, by the file alone.

    Args:
        frame: loaded.
        source: what the file says about its samples.

    Raises:
        BadImage: `unsupported`: no full scale holds all values, or the file doesn't tell which one is meant.
    """
    if frame.mode in _OWN_SCALES:
        return _wide_scale(frame, source)
    if frame.mode.startswith("I;16"):
        return _scale_by_bits(_samples(frame), source)
    if source.stored_bits <= 8:
        return FullScale()
    check_colors(_largest_color(frame), source)
    return FullScale(_largest_of(source.stored_bits), source.stored_bits)


def to_resizable(
    frame: Image.Image, *, premultiplied: bool, white: int = 255, is_negative: bool = False
) -> Image.Image:
    """The whole loaded frame in a mode that can be interpolated: L, RGB, CMYK, or RGBa if it has transparency.

    A frame that will not be resized needs no premultiplied alpha: without `premultiplied` the mode is RGBA instead of
    RGBa, because converting to RGBa and back changes colors. `white` is that of `full_scale_of`. Pillow
    itself inverts negatives of 8 bits and less, but not wider ones.
    """
    mode = frame.mode
    if mode in _OWN_SCALES or mode.startswith("I;16"):
        return _in_pieces(frame, "L", lambda piece: _to_gray(piece, white, is_negative=is_negative))
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


def _wide_scale(frame: Image.Image, source: SampleSource) -> FullScale:
    """The scale of floats, or of integers that have 32 bits or a sign."""
    ranges = [_range(np.asarray(frame.crop(box))) for box in _pieces(frame.size)]
    # numpy's minimum and maximum, unlike Python's, are nan if one of the values is.
    low, high = float(np.min([low for low, _ in ranges])), float(np.max([high for _, high in ranges]))
    own = next((full for full in _OWN_SCALES[frame.mode] if high * 255 / full < 255.5), None)  # rounds to 255 at most
    is_known = low >= 0 and high <= (_LARGEST_32 if frame.mode == "I" else _LARGEST_16)  # false for nan
    if not is_known or (frame.mode == "F" and own == 255 and high < _LEAST_OF_255):
        raise BadImage(
            "unsupported", f"gray values from {low:g} to {high:g}: send 8 or 16 bits, or floats from 0 to 1."
        )
    if own == 1 or (own and not source.setting_bits):
        return FullScale(own)
    if high > _LARGEST_16 and not source.setting_bits:
        return FullScale(_LARGEST_32)
    return _scale_by_bits(Samples(round(high), any_bits=0), source)  # 255.6 is 256, which needs more than 8 bits


def _scale_by_bits(samples: Samples, source: SampleSource) -> FullScale:
    bits = used_bits(samples, source)
    return FullScale(_largest_of(bits), bits if samples.largest else None)


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


def _to_gray(piece: Image.Image, white: int, *, is_negative: bool) -> Image.Image:
    """A piece of a frame with wide samples, in 8 bits."""
    if piece.mode in _OWN_SCALES:
        values = np.asarray(piece).astype(np.float64)
        values *= 255 / white
        gray = np.rint(values, out=values).astype(np.uint8)
    else:
        gray = (np.asarray(piece) >> (white.bit_length() - 8)).astype(np.uint8)
    return Image.fromarray(np.invert(gray, out=gray) if is_negative else gray)
