"""The simulated camera: makes an endless stream of JPEGs, each with its true labels, from the held-out bottle frames.

Each drawing moves, turns, lights, blurs and re-encodes one frame. The random numbers are seeded with (seed, line,
number of the drawing), so that any process can repeat a drawing, or know its true labels without drawing it. A drawing
never changes the true labels: the whole bottle stays in view, and the background is extended by mirroring the strips
beside the bottle, so that no second bottle appears.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from producer.sources.demo_dataset import Bottle, Box, held_out_bottles
from shared.errors import BadSetting
from shared.images.arrays import Pixels
from shared.images.formats import FORMATS

DEFAULT_SIZE = (640, 480)
DEFAULT_QUALITY = 85
DEFAULT_POOL = 240  # three drawings of each of the 80 frames; 15 MB of JPEGs at the default size

# How far a drawing may differ from its frame. Small enough that a cap or a dent can still be recognized.
_TURN_DEG = 8.0
_SCALE = (0.92, 1.08)
_SHIFT_SHARE = 0.4  # fraction of the added background that may move from one side of the bottle to the other
_SHIFT_VIEW = 0.03  # fraction of the view
_EDGE_VIEW = 0.015  # fraction of the view that stays free around the bottle
_EXPOSURE = (0.8, 1.2)
_GAMMA = (0.9, 1.1)
_CHANNEL_GAIN = (0.96, 1.04)
_BLUR_PX = (0.0, 0.5)  # Gaussian radius, pixels of the source frame


@dataclass(frozen=True, slots=True)
class SimulatedFrame:
    """One JPEG, the true labels of its bottle (only `good` if no other applies), and its source's file name."""

    data: bytes
    truth: frozenset[str]
    source_name: str


class SimulatedSource:
    """The frames of one simulated line: frame `i` is drawing `i % pool`, drawn when first asked for, then kept."""

    def __init__(
        self,
        line: str,
        *,
        seed: int = 0,
        size: tuple[int, int] = DEFAULT_SIZE,
        quality: int = DEFAULT_QUALITY,
        pool: int = DEFAULT_POOL,
    ) -> None:
        """
        Args:
            line: name of the line; lines with the same seed show different streams.
            seed: any non-negative number.
            size: width and height of the frames, pixels.
            quality: of the JPEGs, 1 to 95.
            pool: number of different drawings, which are replayed in turn; each is kept in memory.

        Raises:
            BadSetting: a value is out of range.
        """
        _check(seed=seed, size=size, quality=quality, pool=pool)
        self._seed = seed
        self._line = line
        self._size = size
        self._quality = quality
        self._bottles = held_out_bottles()
        self._drawings: list[SimulatedFrame | None] = [None] * pool

    @property
    def pool(self) -> int:
        """Number of different drawings."""
        return len(self._drawings)

    def frame(self, number: int) -> SimulatedFrame:
        """Frame `number` (from 0) of the endless stream: the same bytes in every process, for one version of Pillow."""
        index = number % self.pool
        drawing = self._drawings[index]
        if drawing is None:
            drawing = self._drawings[index] = self._draw(index)
        return drawing

    def truth(self, number: int) -> frozenset[str]:
        """The true labels of frame `number`, without drawing it. They depend only on seed, line and pool."""
        return self._bottle(number % self.pool).truth

    def draw_all(self) -> Iterator[int]:
        """Make all drawings that don't exist yet; yields the number of each drawing when it is done."""
        for index in range(self.pool):
            self.frame(index)
            yield index

    def _bottle(self, index: int) -> Bottle:
        """The bottle of drawing `index`: all held-out frames in turn, in a new order after each round."""
        turn, position = divmod(index, len(self._bottles))
        order = self._random(0, turn).permutation(len(self._bottles))
        return self._bottles[int(order[position])]

    def _draw(self, index: int) -> SimulatedFrame:
        bottle = self._bottle(index)
        data = _render(bottle, self._random(1, index), self._size, self._quality)
        return SimulatedFrame(data=data, truth=bottle.truth, source_name=bottle.path.name)

    def _random(self, purpose: int, number: int) -> np.random.Generator:
        line = int.from_bytes(hashlib.sha256(self._line.encode()).digest()[:8], "big")
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self._seed, line, purpose, number])))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a source frame lies in the drawing: turned around the bottle's center, scaled, moved."""

    scale: float  # drawing pixels per source pixel
    turn_rad: float
    source_center: tuple[float, float]
    center: tuple[float, float]  # of the bottle, in the drawing

    def to_drawing(self, x: float, y: float) -> tuple[float, float]:
        """Source pixels to drawing pixels."""
        dx, dy = x - self.source_center[0], y - self.source_center[1]
        cos, sin = math.cos(self.turn_rad) * self.scale, math.sin(self.turn_rad) * self.scale
        return self.center[0] + cos * dx - sin * dy, self.center[1] + sin * dx + cos * dy

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """Drawing pixels to source pixels."""
        dx, dy = x - self.center[0], y - self.center[1]
        cos, sin = math.cos(self.turn_rad) / self.scale, math.sin(self.turn_rad) / self.scale
        return self.source_center[0] + cos * dx + sin * dy, self.source_center[1] - sin * dx + cos * dy


def random_placement(
    box: Box, source: tuple[int, int], size: tuple[int, int], random: np.random.Generator
) -> Placement:
    """A random placement of a source frame (width, height) in a drawing of `size`, with the whole box in view."""
    turn_rad = math.radians(random.uniform(-_TURN_DEG, _TURN_DEG))
    wanted_scale = size[1] / source[1] * random.uniform(*_SCALE)
    cos, sin = abs(math.cos(turn_rad)), abs(math.sin(turn_rad))
    width, height = box.right - box.left, box.bottom - box.top
    extents = (cos * width + sin * height, sin * width + cos * height)
    available = 1 - 2 * _EDGE_VIEW
    scale = min(wanted_scale, *(available * px / extent for px, extent in zip(size, extents, strict=True)))
    center = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    starts = [
        _view_start(
            view=size[axis] / scale,
            length=source[axis],
            low=center[axis] - extents[axis] / 2,
            high=center[axis] + extents[axis] / 2,
            random=random,
        )
        for axis in (0, 1)
    ]
    moved = ((center[0] - starts[0]) * scale, (center[1] - starts[1]) * scale)
    return Placement(scale=scale, turn_rad=turn_rad, source_center=center, center=moved)


def _view_start(*, view: float, length: int, low: float, high: float, random: np.random.Generator) -> float:
    """Where on one axis of the source the view begins (negative: before the frame).

    The part of the view beyond the frame is divided between the two sides in the ratio of the free background there, so
    that a narrow strip on one side is not mirrored many times.
    """
    gap_low, gap_high = max(low, 1.0), max(length - high, 1.0)
    share = gap_low / (gap_low + gap_high) + random.uniform(-0.5, 0.5) * _SHIFT_SHARE
    start = -(view - length) * min(max(share, 0.0), 1.0) + random.uniform(-1, 1) * _SHIFT_VIEW * view
    edge = _EDGE_VIEW * view
    return min(max(start, high + edge - view), low - edge)


def _render(bottle: Bottle, random: np.random.Generator, size: tuple[int, int], quality: int) -> bytes:
    with Image.open(bottle.path, formats=list(FORMATS.values())) as file:
        source = file.convert("RGB")
    placement = random_placement(bottle.box, source.size, size, random)
    light = _light(random)
    # The source is the smaller image, so it is blurred and lit before it is enlarged.
    source = source.point(light).filter(ImageFilter.GaussianBlur(random.uniform(*_BLUR_PX)))
    image = _transformed(source, bottle.box, placement, size)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, subsampling="4:2:0", optimize=False, progressive=False)
    return out.getvalue()


def _transformed(source: Image.Image, box: Box, placement: Placement, size: tuple[int, int]) -> Image.Image:
    corners = [placement.to_source(x, y) for x in (0, size[0]) for y in (0, size[1])]
    # Two pixels beyond the corners, for the neighbors that interpolation reads.
    left, right = (round(f(x for x, _ in corners)) + extra for f, extra in ((min, -2), (max, 3)))
    top, bottom = (round(f(y for _, y in corners)) + extra for f, extra in ((min, -2), (max, 3)))
    columns = _folded(np.arange(left, right), source.width, low=box.left, high=box.right)
    rows = _folded(np.arange(top, bottom), source.height, low=box.top, high=box.bottom)
    pixels: Pixels = np.asarray(source)
    canvas = Image.fromarray(pixels[rows][:, columns])
    origin_x, origin_y = placement.to_source(0, 0)
    cos, sin = math.cos(placement.turn_rad) / placement.scale, math.sin(placement.turn_rad) / placement.scale
    inverse = (cos, sin, origin_x - left, -sin, cos, origin_y - top)
    return canvas.transform(size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)


def _folded(index: npt.NDArray[np.int64], length: int, *, low: int, high: int) -> npt.NDArray[np.int64]:
    """Map indices outside 0..length into the strips before `low` and from `high` on, which hold no bottle."""
    before, after = max(low, 1), max(length - high, 1)
    left = _zigzag(-1 - index, before)
    right = length - 1 - _zigzag(index - length, after)
    return np.where(index < 0, left, np.where(index >= length, right, index))


def _zigzag(steps: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    """0, 1, … width-1, width-1, … 1, 0, 0, 1, …"""
    phase = steps % (2 * width)
    return np.where(phase < width, phase, 2 * width - 1 - phase)


def _light(random: np.random.Generator) -> list[int]:
    """A table of 3 x 256 values: exposure, gamma and a slight color cast from the lamp."""
    exposure, gamma = random.uniform(*_EXPOSURE), random.uniform(*_GAMMA)
    gains = random.uniform(*_CHANNEL_GAIN, size=3)
    return [
        min(255, round(255 * exposure * gain * (value / 255) ** gamma))
        for gain in gains.tolist()
        for value in range(256)
    ]


def _check(*, seed: int, size: tuple[int, int], quality: int, pool: int) -> None:
    if seed < 0:
        raise BadSetting(f"seed = {seed} must be 0 or more.")
    if not all(32 <= px <= 8192 for px in size):
        raise BadSetting(f"size = {size[0]}x{size[1]} must be between 32x32 and 8192x8192 pixels.")
    if not 1 <= quality <= 95:
        raise BadSetting(f"quality = {quality} must be from 1 to 95: above that, files get larger but hardly better.")
    if pool < 1:
        raise BadSetting(f"pool = {pool} must be 1 or more.")
