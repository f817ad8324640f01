"""Families of bottles: how the radius runs from the base to the neck, ribs, cross-section and base.

Lengths are in bottle heights: a bottle without its cap is 1 high. Good bottles of many families have waists, ribs,
flutes and odd shoulders, so that an unusual shape alone is no disfigurement.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bench.rendering.random_choices import Choices, Range
from bench.rendering.values import Values

NECK_LENGTH = 0.075


@dataclass(frozen=True, slots=True)
class Family:
    """Bounds that the bottles of a family lie between."""

    radius: Range
    # Height, and share of the greatest radius, of the outline between base and neck.
    outline: tuple[tuple[float, float], ...]
    neck_radius: Range
    ribs: tuple[int, int] = (0, 0)
    rib_depth: Range = (0.0, 0.0)
    # Where ribs are, from and to which height.
    ribbed: Range = (0.15, 0.6)
    # 2 is round; more is squarer.
    squareness: Range = (2.0, 2.0)
    # The narrow side's share of the wide side.
    flatness: Range = (1.0, 1.0)
    feet: int = 0
    flutes: tuple[int, int] = (0, 0)
    strip: Range = field(default=(0.3, 0.6))


FAMILIES = {
    "water": Family(
        radius=(0.13, 0.16),
        outline=((0.0, 0.92), (0.05, 1.0), (0.6, 1.0), (0.72, 0.95), (0.85, 0.6)),
        neck_radius=(0.05, 0.06),
        ribs=(6, 11),
        rib_depth=(0.02, 0.05),
        ribbed=(0.08, 0.6),
    ),
    "soda": Family(
        radius=(0.14, 0.17),
        outline=((0.0, 0.8), (0.06, 1.0), (0.3, 1.0), (0.6, 1.0), (0.8, 0.7), (0.88, 0.42)),
        neck_radius=(0.048, 0.056),
        feet=5,
    ),
    "longneck": Family(
        radius=(0.12, 0.14),
        outline=((0.0, 0.95), (0.03, 1.0), (0.5, 1.0), (0.62, 0.8), (0.74, 0.5), (0.88, 0.38)),
        neck_radius=(0.042, 0.05),
        strip=(0.12, 0.45),
    ),
    "hourglass": Family(
        radius=(0.14, 0.17),
        outline=((0.0, 0.9), (0.05, 1.0), (0.25, 0.96), (0.45, 0.74), (0.62, 1.0), (0.78, 0.85), (0.88, 0.5)),
        neck_radius=(0.05, 0.06),
        flutes=(0, 10),
        strip=(0.5, 0.76),
    ),
    "carafe": Family(
        radius=(0.18, 0.22),
        outline=((0.0, 0.95), (0.04, 1.0), (0.55, 1.0), (0.7, 0.88), (0.85, 0.5)),
        neck_radius=(0.07, 0.09),
        squareness=(2.0, 2.4),
        strip=(0.18, 0.52),
    ),
    "square": Family(
        radius=(0.15, 0.18),
        outline=((0.0, 0.95), (0.03, 1.0), (0.65, 1.0), (0.78, 0.8), (0.88, 0.5)),
        neck_radius=(0.055, 0.07),
        squareness=(3.5, 6.0),
        ribs=(0, 5),
        rib_depth=(0.0, 0.03),
    ),
    "grip": Family(
        radius=(0.14, 0.165),
        outline=(
            (0.0, 0.95),
            (0.05, 1.0),
            (0.32, 1.0),
            (0.4, 0.82),
            (0.55, 0.82),
            (0.62, 1.0),
            (0.76, 0.9),
            (0.88, 0.5),
        ),
        neck_radius=(0.05, 0.06),
        ribs=(3, 6),
        rib_depth=(0.02, 0.04),
        ribbed=(0.4, 0.56),
        strip=(0.1, 0.34),
    ),
    "dome": Family(
        radius=(0.15, 0.19),
        outline=((0.0, 0.96), (0.03, 1.0), (0.45, 1.0), (0.6, 0.96), (0.75, 0.82), (0.86, 0.58), (0.9, 0.45)),
        neck_radius=(0.055, 0.07),
        flutes=(0, 8),
    ),
    "flask": Family(
        radius=(0.2, 0.25),
        outline=((0.0, 0.9), (0.04, 1.0), (0.6, 0.98), (0.76, 0.8), (0.87, 0.4)),
        neck_radius=(0.05, 0.07),
        flatness=(0.5, 0.65),
        squareness=(2.4, 3.2),
        strip=(0.2, 0.55),
    ),
    "stepped": Family(
        radius=(0.13, 0.16),
        outline=(
            (0.0, 0.97),
            (0.03, 1.0),
            (0.3, 1.0),
            (0.33, 0.9),
            (0.58, 0.9),
            (0.61, 1.0),
            (0.74, 1.0),
            (0.86, 0.55),
        ),
        neck_radius=(0.05, 0.062),
        strip=(0.33, 0.58),
    ),
    "barrel": Family(
        radius=(0.17, 0.2),
        outline=((0.0, 0.8), (0.08, 0.95), (0.35, 1.0), (0.6, 0.95), (0.78, 0.75), (0.88, 0.5)),
        neck_radius=(0.06, 0.08),
        ribs=(0, 9),
        rib_depth=(0.01, 0.03),
        ribbed=(0.1, 0.75),
    ),
    "slim": Family(
        radius=(0.095, 0.12),
        outline=((0.0, 0.92), (0.03, 1.0), (0.68, 1.0), (0.8, 0.85), (0.89, 0.55)),
        neck_radius=(0.045, 0.055),
        ribs=(0, 12),
        rib_depth=(0.01, 0.04),
        ribbed=(0.1, 0.7),
        strip=(0.25, 0.65),
    ),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """One bottle's own measures."""

    family: Family
    radius: float
    neck_radius: float
    ribs: int
    rib_depth: float
    squareness: float
    flatness: float
    flutes: int
    # How far each point of the outline is moved, as a share of its radius.
    variation: tuple[float, ...]

    @property
    def resting_radius(self) -> float:
        """How high the axis is when the bottle lies on its wide side."""
        return self.radius * self.flatness


def pick_shape(name: str, choices: Choices) -> Shape:
    """A bottle of a family."""
    family = FAMILIES[name]
    return Shape(
        family,
        radius=choices.between(family.radius),
        neck_radius=choices.between(family.neck_radius),
        ribs=choices.whole(*family.ribs),
        rib_depth=choices.between(family.rib_depth),
        squareness=choices.between(family.squareness),
        flatness=choices.between(family.flatness),
        flutes=choices.whole(*family.flutes),
        variation=tuple(choices.between((-0.05, 0.05)) for _ in family.outline),
    )


def outline(shape: Shape, *, points: int) -> tuple[Values, Values]:
    """Height and radius along the surface, float32 [points] each, from the middle of the base to the mouth.

    The points are evenly spaced along the surface, so that the base and steep shoulders are as dense as the rest.
    """
    heights = [
        0.03,
        0.012,
        0.0,
        *(height for height, _ in shape.family.outline),
        1 - NECK_LENGTH - 0.02,
        1 - NECK_LENGTH,
        1.0,
    ]
    shares = [share * (1 + moved) for (_, share), moved in zip(shape.family.outline, shape.variation, strict=True)]
    neck = shape.neck_radius
    base = shares[0] * shape.radius
    radii = [0.0, 0.5 * base, 0.9 * base, *(share * shape.radius for share in shares), neck * 1.06, neck, neck]
    along = np.concatenate([[0], np.cumsum(np.hypot(np.diff(heights), np.diff(radii)))])
    even = np.linspace(0, along[-1], points)
    height, radius = np.interp(even, along, heights), np.interp(even, along, radii)
    return _smoothed(height, points // 30).astype(np.float32), _smoothed(radius, points // 30).astype(np.float32)


def _smoothed(values: Values, width: int) -> Values:
    """A moving average, applied twice: it rounds the outline's corners and keeps its ends."""
    width = max(3, width | 1)
    kernel = np.ones(width) / width
    for _ in range(2):
        padded = np.pad(values, width // 2, mode="reflect", reflect_type="odd")
        values = np.convolve(padded, kernel, mode="valid")
    return values
