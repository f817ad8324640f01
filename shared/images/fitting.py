"""Which part of a picture is kept, and its size in the model's square. Pure. Called only by `decoding`."""

from __future__ import annotations

import math
from collections.abc import Callable

from PIL import Image

from shared.images.crop_regions import Fit, Region

# By the turn that makes a stored picture upright: from a point in the upright picture to the point in the stored one,
# both in fractions.
_Point = tuple[float, float]
_IN_STORED: dict[Image.Transpose, Callable[[float, float], _Point]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda x, y: (1 - x, y),
    Image.Transpose.ROTATE_180: lambda x, y: (1 - x, 1 - y),
    Image.Transpose.FLIP_TOP_BOTTOM: lambda x, y: (x, 1 - y),
    Image.Transpose.TRANSPOSE: lambda x, y: (y, x),
    Image.Transpose.ROTATE_270: lambda x, y: (y, 1 - x),
    Image.Transpose.TRANSVERSE: lambda x, y: (1 - y, 1 - x),
    Image.Transpose.ROTATE_90: lambda x, y: (1 - y, x),
}
# Left, top, right and bottom: fractions or pixels.
Box = tuple[float, float, float, float]
_WHOLE: Box = (0, 0, 1, 1)


def in_pixels(size: tuple[float, float], sides: Box) -> Box:
    """Convert a part of a picture of this width and height from fractions to pixels."""
    (width, height), (left, top, right, bottom) = size, sides
    return left * width, top * height, right * width, bottom * height


def fitted_size(part: Box, size_px: int, fit: Fit) -> tuple[int, int]:
    """Width and height of `part`, in pixels, once it is fitted into a square of `size_px`."""
    if fit == "stretch":
        return size_px, size_px
    left, top, right, bottom = part
    width, height = right - left, bottom - top
    scale = size_px / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def min_size(size: tuple[int, int], sides: Box, size_px: int, fit: Fit) -> tuple[int, int]:
    """The smallest width and height of the whole picture at which its part `sides` still has its fitted size."""
    left, top, right, bottom = sides
    width, height = fitted_size(in_pixels(size, sides), size_px, fit)
    return math.ceil(width / (right - left)), math.ceil(height / (bottom - top))


def stored_sides(turn: Image.Transpose | None, region: Region | None) -> Box:
    """Left, top, right and bottom of the region in the picture as it is stored, in fractions."""
    if region is None:
        return _WHOLE
    corners = [(region.left, region.top), (region.right, region.bottom)]
    if turn is not None:
        corners = [_IN_STORED[turn](x, y) for x, y in corners]
    (left, right), (top, bottom) = sorted(x for x, _ in corners), sorted(y for _, y in corners)
    return left, top, right, bottom
