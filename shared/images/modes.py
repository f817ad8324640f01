"""Converts any of Pillow's modes to one that can be resized, piece by piece to save memory.

Called only by `decoding`, which says how each kind of image is treated.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from shared.errors import BadImage

_FULL_SCALES = {"F": (1, 255, 65535), "I": (255, 65535, 2**31 - 1)}
# A conversion of several steps is done in pieces of at most this many pixels.
PIECE_PX = 262_144
# Memory of the intermediate steps for one piece: at most 17 bytes per pixel, for floats.
PIECE_BYTES = 17 * PIECE_PX

_Box = tuple[int, int, int, int]


def to_resizable(frame: Image.Image, *, premultiplied: bool) -> Image.Image:
    """The whole loaded frame in a mode that can be interpolated: L, RGB, CMYK, or RGBa if it has transparency.

    A frame that will not be resized needs no premultiplied alpha: without `premultiplied` the mode is RGBA instead of
    RGBa, because converting to RGBa and back changes colors.
    """
    mode = frame.mode
    if mode in _FULL_SCALES:
        full_scale = _full_scale(frame)
        return _in_pieces(frame, "L", lambda piece: _scaled(piece, full_scale))
    if mode.startswith("I;16"):
        return _in_pieces(frame, "L", lambda piece: Image.fromarray((np.asarray(piece) >> 8).astype(np.uint8)))
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


def _full_scale(frame: Image.Image) -> int:
    """The first full scale that holds all of the frame's gray values."""
    ranges = [_range(np.asarray(frame.crop(box))) for box in _pieces(frame.size)]
    # numpy's minimum and maximum, unlike Python's, are nan if one of the values is.
    low, high = float(np.min([low for low, _ in ranges])), float(np.max([high for _, high in ranges]))
    for full in _FULL_SCALES[frame.mode]:
        if low >= 0 and high <= full:  # false for nan too
            return full
    raise BadImage("unsupported", f"gray values from {low:g} to {high:g}: send 8 or 16 bits, or floats from 0 to 1.")


def _range(values: npt.NDArray[np.generic]) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _scaled(piece: Image.Image, full_scale: int) -> Image.Image:
    values = np.asarray(piece).astype(np.float64)
    values *= 255 / full_scale
    return Image.fromarray(np.rint(values, out=values).astype(np.uint8))
