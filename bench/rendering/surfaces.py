"""The surface of a bottle as dense points: where each is, which way it faces, and what it is made of.

The points lie so close that drawing them, nearest last, fills the bottle's picture without gaps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.rendering import noise
from bench.rendering.damage import Damage
from bench.rendering.families import NECK_LENGTH, Shape, outline
from bench.rendering.random_choices import Choices
from bench.rendering.strips import Strip
from bench.rendering.values import Values

PLASTIC, STRIP, CAP = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Cap:
    """A cap. Lengths in bottle heights; `overlap` is the cap's radius as a share of the neck's."""

    color: Values
    height: float
    overlap: float
    ridges: int
    # Share of light that passes: clear caps are not opaque.
    clear: float
    dome: float


@dataclass(frozen=True, slots=True)
class Surface:
    """Points of one surface: positions and normals [N, 3], the material [N], places on the strip's print [N], and the
    height above the base before any damage [N].
    """

    positions: Values
    normals: Values
    material: Values
    across: Values
    down: Values
    height: Values


def bottle_surface(
    shape: Shape, *, strip: Strip | None, cap: Cap | None, damage: Damage, choices: Choices, spacing: float
) -> Surface:
    """All points of a bottle, about `spacing` apart, in bottle heights."""
    parts = [_body(shape, strip, damage, choices, spacing)]
    if cap is not None:
        parts += [_cap_side(shape, cap, damage, spacing), _cap_top(shape, cap, damage, spacing)]
    return Surface(*(np.concatenate([getattr(part, name) for part in parts]) for name in Surface.__slots__))


def _body(shape: Shape, strip: Strip | None, damage: Damage, choices: Choices, spacing: float) -> Surface:
    rows = int((1 + 2 * shape.radius) * 1.1 / spacing)
    columns = int(2 * np.pi * shape.radius * 1.05 / spacing)
    height, radius = (values[:, None] for values in outline(shape, points=rows))
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False, dtype=np.float32)[None, :]
    relief = _relief(shape, height, angle, choices)
    strip_mask = np.zeros(relief.shape, bool)
    across = down = np.zeros(relief.shape, np.float32)
    if strip is not None:
        across, down, strip_mask = _strip_places(strip, height, angle)
        # A strip is stiff: it bridges ribs, and lies on top.
        relief = np.where(strip_mask, 1.006 + 0.25 * (relief - 1), relief)
    x, y = _cross_section(shape, angle, height)
    around = radius * relief
    positions = np.stack([around * x, around * y, np.broadcast_to(height, relief.shape)], axis=-1).astype(np.float32)
    positions = damage.of_whole(damage.of_body(positions))
    material = np.where(strip_mask, STRIP, PLASTIC)
    return _surface(positions, material, np.broadcast_to(height, material.shape), across=across, down=down)


def _relief(shape: Shape, height: Values, angle: Values, choices: Choices) -> Values:
    """Factors of the radius: ribs, flutes, feet, thread, and the slight waves that thin walls have."""
    low, high = shape.family.ribbed
    inside = noise.smooth_step(height, low, low + 0.03) * (1 - noise.smooth_step(height, high - 0.03, high))
    phase = (height - low) / (high - low)
    ribs = shape.rib_depth * inside * np.cos(2 * np.pi * shape.ribs * phase) if shape.ribs else 0 * height
    flutes = 0.03 * np.cos(shape.flutes * angle) * _bump(height, 0.45, 0.3) if shape.flutes else 0 * angle
    foot = 0.16 * (np.cos(shape.family.feet * angle) - 1) * np.clip(1 - height / 0.09, 0, 1) if shape.family.feet else 0
    waves = noise.tile(choices, 8, octaves=2)
    wall = 0.006 * noise.sample_smooth(waves, angle / (2 * np.pi), height * 2 + 0 * angle)
    above = noise.smooth_step(height, 1 - NECK_LENGTH + 0.012, 1 - NECK_LENGTH + 0.02)
    thread = 0.07 * above * np.cos(2 * np.pi * (height - 1) / 0.02 + angle)
    ring = 0.28 * np.exp(-(((height - 1 + NECK_LENGTH - 0.004) / 0.006) ** 2))
    relief: Values = 1 + ribs + flutes + foot + wall + thread + ring
    return relief.astype(np.float32)


def _bump(height: Values, center: float, width: float) -> Values:
    return np.exp(-(((height - center) / width) ** 2) * 2)


def _cross_section(shape: Shape, angle: Values, height: Values) -> tuple[Values, Values]:
    """The unit outline around the axis: round at the neck, squarer and flatter below, where the family is."""
    body = 1 - noise.smooth_step(height, 0.62, 0.88)
    power = 2 + (shape.squareness - 2) * body
    cosine, sine = np.cos(angle), np.sin(angle)
    size = (np.abs(cosine) ** power + np.abs(sine) ** power) ** (-1 / power)
    flat = 1 - (1 - shape.flatness) * body
    return size * cosine, size * sine * flat


def _strip_places(strip: Strip, height: Values, angle: Values) -> tuple[Values, Values, Values]:
    """Where each point is on the strip's print (0 to 1, across and down), and whether the strip is there at all."""
    turned = (angle - strip.turn) / (2 * np.pi) % 1.0
    across = np.broadcast_to(turned / strip.wraps, np.broadcast_shapes(height.shape, angle.shape))
    skewed = height + strip.slant * np.cos(angle - strip.turn)
    down = (strip.top - skewed) / (strip.top - strip.bottom)
    there = (across < 1) & (down > strip.torn(across, 0)) & (down < 1 - strip.torn(across, 1))
    return across.astype(np.float32), down.astype(np.float32), there


def _cap_side(shape: Shape, cap: Cap, damage: Damage, spacing: float) -> Surface:
    radius = shape.neck_radius * cap.overlap
    rows, columns = int(cap.height * 1.4 / spacing) + 3, int(2 * np.pi * radius * 1.1 / spacing)
    height = np.linspace(1.006 - cap.height, 1.006, rows, dtype=np.float32)[:, None]
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False, dtype=np.float32)[None, :]
    part = (height - height[0]) / cap.height
    ridged = np.where(part > 0.2, 1 + 0.025 * np.cos(cap.ridges * angle), 1.03 + 0 * angle)
    around = radius * ridged * (1 - cap.dome * np.clip(part - 0.5, 0, 1) ** 2)
    positions = np.stack([around * np.cos(angle), around * np.sin(angle), height + 0 * angle], axis=-1)
    positions = damage.of_whole(positions.astype(np.float32))
    return _surface(positions, np.full(around.shape, CAP), np.ones(around.shape, np.float32))


def _cap_top(shape: Shape, cap: Cap, damage: Damage, spacing: float) -> Surface:
    radius = shape.neck_radius * cap.overlap * (1 - 0.25 * cap.dome)
    columns = int(2 * np.pi * radius * 1.1 / spacing)
    distance = np.linspace(1, 0.02, int(radius * 1.5 / spacing) + 3, dtype=np.float32)[:, None]
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False, dtype=np.float32)[None, :]
    height = 1.006 + 0.006 * noise.smooth_step(1 - distance, 0.0, 0.15) + 0 * angle
    positions = np.stack([radius * distance * np.cos(angle), radius * distance * np.sin(angle), height], axis=-1)
    positions = damage.of_whole(positions.astype(np.float32))
    return _surface(positions, np.full(height.shape, CAP), np.ones(height.shape, np.float32))


def _surface(
    positions: Values, material: Values, height: Values, *, across: Values | None = None, down: Values | None = None
) -> Surface:
    """A grid of positions [rows, columns, 3] as a list of points. Columns go round, rows away from the base."""
    along = np.gradient(positions, axis=0)
    round_about = np.roll(positions, -1, axis=1) - np.roll(positions, 1, axis=1)
    normals = _crossed(round_about, along)
    normals /= np.maximum(np.sqrt((normals * normals).sum(axis=-1, keepdims=True)), 1e-9)
    nothing = np.zeros(material.shape, np.float32)
    return Surface(
        positions.reshape(-1, 3),
        normals.reshape(-1, 3).astype(np.float32),
        material.reshape(-1).astype(np.uint8),
        (nothing if across is None else across).reshape(-1),
        (nothing if down is None else down).reshape(-1),
        height.reshape(-1),
    )


def _crossed(first: Values, second: Values) -> Values:
    """The cross product; numpy's own takes twice as long."""
    a, b, c = (first[..., axis] for axis in range(3))
    d, e, f = (second[..., axis] for axis in range(3))
    return np.stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=-1)
