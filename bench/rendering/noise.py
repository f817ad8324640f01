"""Smooth random textures that repeat without a seam, so that they can be sampled anywhere."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from bench.rendering.random_choices import Choices
from bench.rendering.values import Values

TILE_PX = 256
# Noise of more cells has a value of its own for each pixel.
_FINE = 100


def tile(choices: Choices, cells: int, *, octaves: int = 1) -> Values:
    """Value noise, float32 [256, 256] around 0, of about -1 to 1. `cells` is how many random values a side has."""
    total = np.zeros((TILE_PX, TILE_PX), np.float32)
    weight = 1.0
    for _ in range(octaves):
        if cells > _FINE:
            return total + weight * choices.generator.uniform(-1, 1, total.shape).astype(np.float32)
        total += weight * _enlarged(choices.generator.uniform(-1, 1, (cells, cells)).astype(np.float32))
        weight *= 0.55
        cells = min(cells * 2, TILE_PX)
    return total


def _enlarged(grid: Values) -> Values:
    """A grid as a seamless tile: it is enlarged with a margin of its own other side, which is cut off again."""
    cells = len(grid)
    margin = min(4, cells)
    padded = np.pad(grid, margin, mode="wrap")
    size = TILE_PX * (cells + 2 * margin) // cells
    large = np.asarray(Image.fromarray(padded).resize((size, size), Image.Resampling.BICUBIC), np.float32)
    start = TILE_PX * margin // cells
    return large[start : start + TILE_PX, start : start + TILE_PX]


def sample(texture: Values, x: Values, y: Values) -> Values:
    """The tile's values at coordinates in tile widths: 1.0 is a whole tile further."""
    rows = (y * TILE_PX).astype(np.int32) % TILE_PX
    columns = (x * TILE_PX).astype(np.int32) % TILE_PX
    return texture[rows, columns]


def sample_smooth(texture: Values, x: Values, y: Values) -> Values:
    """As `sample`, but interpolated between the tile's values: for shapes, whose slopes would show steps."""
    rows, columns = y * TILE_PX, x * TILE_PX
    row, column = np.floor(rows).astype(np.int32), np.floor(columns).astype(np.int32)
    down, right = (rows - row).astype(np.float32), (columns - column).astype(np.float32)
    row, column = row % TILE_PX, column % TILE_PX
    next_row, next_column = (row + 1) % TILE_PX, (column + 1) % TILE_PX
    upper: Values = texture[row, column] * (1 - right) + texture[row, next_column] * right
    lower: Values = texture[next_row, column] * (1 - right) + texture[next_row, next_column] * right
    mixed: Values = upper * (1 - down) + lower * down
    return mixed


def resized(picture: Values, size_px: int, how: Image.Resampling = Image.Resampling.BILINEAR) -> Values:
    """A square picture, [n, n] or [n, n, 3], in another size."""
    if picture.ndim == 2:
        return np.asarray(Image.fromarray(picture).resize((size_px, size_px), how), np.float32)
    channels = (np.ascontiguousarray(picture[..., channel], np.float32) for channel in range(picture.shape[2]))
    return np.stack([resized(channel, size_px, how) for channel in channels], axis=-1)


def blurred(mask: Values, radius_px: float) -> Values:
    """A mask of 0 to 1, blurred."""
    if radius_px < 0.2:
        return mask
    image = Image.fromarray((np.clip(mask, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius_px)), np.float32) / 255


def smooth_step(values: Values, low: float, high: float) -> Values:
    """0 below `low`, 1 above `high`, and a smooth rise between them."""
    part = np.clip((values - low) / (high - low), 0, 1)
    return part * part * (3 - 2 * part)
