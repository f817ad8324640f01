"""From the world to the picture: where points appear, and which point each pixel shows.

The world's origin is on the belt. A camera with tilt 0 looks straight down; with a tilt of 90° it would look along the
belt. Camera space: x to the right, y down, z toward the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.rendering.values import Values

# How far the camera is, in bottle heights.
DISTANCE = 4.0


@dataclass(frozen=True, slots=True)
class View:
    """A camera's place. `center_px` is where the world's origin appears, `scale_px` the length of a bottle height."""

    size_px: int
    tilt: float
    scale_px: float
    center_px: tuple[float, float]

    def to_camera(self, vectors: Values) -> Values:
        """Vectors of the world [N, 3] in camera space."""
        cosine, sine = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
        return np.stack([x, cosine * y - sine * z, sine * y + cosine * z], axis=1)

    def to_world(self, vectors: Values) -> Values:
        """The reverse of `to_camera`."""
        cosine, sine = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
        return np.stack([x, cosine * y + sine * z, cosine * z - sine * y], axis=1)

    def pixels_of(self, positions: Values) -> tuple[Values, Values, Values]:
        """Column, row and nearness of points in camera space. Pixels may lie outside of the picture."""
        factor = self.scale_px * DISTANCE / (DISTANCE - positions[:, 2])
        columns = np.rint(positions[:, 0] * factor + self.center_px[0]).astype(np.int32)
        rows = np.rint(positions[:, 1] * factor + self.center_px[1]).astype(np.int32)
        return columns, rows, positions[:, 2]

    def belt_places(self, count: int) -> tuple[Values, Values]:
        """The belt's x and y, in bottle heights, at `count` places along each side: float32 [count, count] each."""
        pixels = np.linspace(0, self.size_px - 1, count, dtype=np.float32)
        right = (pixels[None, :] - self.center_px[0]) / self.scale_px
        down = (pixels[:, None] - self.center_px[1]) / self.scale_px
        cosine, sine = np.cos(self.tilt), np.sin(self.tilt)
        y = down * DISTANCE / np.maximum(DISTANCE * cosine + down * sine, 1e-2)
        x = right * (DISTANCE - y * sine) / DISTANCE
        return x.astype(np.float32), np.broadcast_to(y, x.shape).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Visible:
    """The pixels that show a surface, and for each the nearest and the farthest point there."""

    rows: Values
    columns: Values
    front: Values
    back: Values


def find_visible(view: View, positions: Values) -> Visible:
    """Which points of camera space each pixel shows."""
    columns, rows, nearness = view.pixels_of(positions)
    size = view.size_px
    inside = np.flatnonzero((columns >= 0) & (columns < size) & (rows >= 0) & (rows < size))
    order = inside[np.argsort(_as_short(nearness[inside]), kind="stable")]
    pixel = rows[order] * size + columns[order]
    front = np.full(size * size, -1, np.int32)
    back = front.copy()
    front[pixel] = order  # of several points at one pixel, the last stays: the nearest
    back[pixel[::-1]] = order[::-1]
    top, bottom = int(rows[order].min()), int(rows[order].max()) + 1
    left, right = int(columns[order].min()), int(columns[order].max()) + 1
    front, back = (_without_holes(points.reshape(size, size)[top:bottom, left:right]) for points in (front, back))
    shown = np.nonzero(front >= 0)
    return Visible(shown[0] + top, shown[1] + left, front[shown], np.maximum(back[shown], 0))


def _as_short(nearness: Values) -> Values:
    """Nearness in 65,536 steps: numpy sorts such numbers many times as fast."""
    low, high = float(nearness.min()), float(nearness.max())
    return ((nearness - low) * (65_535 / max(high - low, 1e-6))).astype(np.uint16)


def _without_holes(points: Values) -> Values:
    """Single pixels that no point fell on, between pixels that have one, show their neighbor's."""
    filled = points.copy()
    inner, up, down = filled[1:-1, 1:-1], points[:-2, 1:-1], points[2:, 1:-1]
    left, right = points[1:-1, :-2], points[1:-1, 2:]
    holes: Values = (inner < 0) & (((up >= 0) + (down >= 0).astype(np.int8) + (left >= 0) + (right >= 0)) >= 3)
    inner[holes] = np.maximum(np.maximum(up, down), np.maximum(left, right))[holes]
    return filled
