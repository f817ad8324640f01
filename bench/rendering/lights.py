"""Lights: lamps whose mirror images are the highlights on plastic, their shadows, and how they fall on the belt.

Directions are of the world: x to the right, y toward the camera's lower edge, z up from the belt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.rendering.noise import smooth_step
from bench.rendering.random_choices import Choices, Range
from bench.rendering.values import Values

Vector = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Lamp:
    """A flat lamp far away. `size` is its half width and half length, as tangents of the angles that it is seen at."""

    direction: Vector
    size: tuple[float, float]
    # Which way its length runs, in radians, around the direction to it.
    turn: float
    brightness: float
    color: Vector = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Rig:
    """A set of lamps as a plant has it, with bounds of what differs from frame to frame."""

    lamps: tuple[Lamp, ...]
    ambient: float
    ambient_color: Vector = (1.0, 1.0, 1.0)
    # How dark and how soft shadows are: 0 to 1, and a blur in bottle heights.
    shadow: Range = (0.4, 0.7)
    softness: Range = (0.02, 0.08)
    # How much the light on the belt differs from one side to the other, and a spot of light's share.
    falloff: Range = (0.0, 0.3)
    spot: Range = (0.0, 0.0)
    # How far directions differ, as lengths of a vector that is added.
    sway: float = 0.25
    # A veil of stray light over the whole frame, as glare in the lens makes it.
    veil: Range = (0.0, 0.0)


COOL, WARM, AMBER = (0.95, 0.99, 1.05), (1.08, 1.0, 0.88), (1.15, 0.98, 0.72)
GREENISH, BLUE, PINK = (0.92, 1.05, 0.94), (0.8, 0.92, 1.2), (1.12, 0.92, 1.04)

RIGS = {
    "tubes": Rig(
        lamps=(
            Lamp((-0.4, 0.2, 1.0), (0.08, 1.6), 1.5, 9.0),
            Lamp((0.4, 0.2, 1.0), (0.08, 1.6), 1.5, 9.0),
        ),
        ambient=0.45,
    ),
    "softbox": Rig(lamps=(Lamp((-0.5, -0.5, 1.2), (0.35, 0.5), 0.4, 6.0, COOL),), ambient=0.5, shadow=(0.4, 0.65)),
    "window": Rig(
        lamps=(
            Lamp((-1.2, -0.2, 1.0), (0.3, 0.45), 0.0, 5.0, COOL),
            Lamp((0.9, 0.5, 1.2), (0.12, 0.2), 0.3, 4.0, WARM),
        ),
        ambient=0.4,
        falloff=(0.2, 0.5),
        shadow=(0.4, 0.7),
    ),
    "rows": Rig(
        lamps=(
            Lamp((-0.7, 0.0, 1.0), (0.06, 0.5), 0.0, 10.0),
            Lamp((0.0, -0.3, 1.0), (0.06, 0.5), 0.0, 10.0),
            Lamp((0.7, 0.0, 1.0), (0.06, 0.5), 0.0, 10.0),
        ),
        ambient=0.4,
        softness=(0.04, 0.1),
    ),
    "ring": Rig(
        lamps=(
            Lamp((0.25, 0.0, 1.0), (0.1, 0.1), 0.0, 12.0),
            Lamp((-0.25, 0.0, 1.0), (0.1, 0.1), 0.0, 12.0),
            Lamp((0.0, 0.25, 1.0), (0.1, 0.1), 0.0, 12.0),
            Lamp((0.0, -0.25, 1.0), (0.1, 0.1), 0.0, 12.0),
        ),
        ambient=0.3,
        spot=(0.4, 0.9),
        shadow=(0.3, 0.5),
    ),
    "low side": Rig(
        lamps=(Lamp((1.6, 0.3, 0.6), (0.2, 0.7), 0.2, 9.0, WARM), Lamp((-0.8, 0.2, 1.0), (0.1, 0.3), 0.0, 1.5, COOL)),
        ambient=0.34,
        ambient_color=COOL,
        shadow=(0.5, 0.85),
        softness=(0.01, 0.05),
        falloff=(0.3, 0.6),
    ),
    "amber": Rig(
        lamps=(
            Lamp((-0.3, 0.5, 1.0), (0.2, 0.25), 0.5, 9.0, AMBER),
            Lamp((0.8, -0.4, 1.0), (0.1, 0.5), 0.9, 6.0, WARM),
        ),
        ambient=0.35,
        ambient_color=AMBER,
        shadow=(0.3, 0.6),
    ),
    "two colors": Rig(
        lamps=(Lamp((-1.1, 0.2, 0.8), (0.25, 0.5), 0.2, 6.0, BLUE), Lamp((1.1, 0.1, 0.8), (0.25, 0.5), 0.1, 6.0, PINK)),
        ambient=0.3,
        ambient_color=(0.95, 0.95, 1.1),
        shadow=(0.3, 0.6),
        falloff=(0.1, 0.5),
    ),
    "spots": Rig(
        lamps=(
            Lamp((0.6, -0.6, 1.0), (0.09, 0.09), 0.0, 25.0),
            Lamp((-0.7, 0.1, 1.0), (0.07, 0.07), 0.0, 25.0, WARM),
        ),
        ambient=0.34,
        shadow=(0.5, 0.9),
        softness=(0.005, 0.02),
        spot=(0.3, 0.8),
        veil=(0.0, 0.06),
    ),
    "glare": Rig(
        lamps=(Lamp((0.0, -0.5, 0.8), (0.4, 0.22), 0.0, 9.0), Lamp((0.5, 0.5, 1.0), (0.2, 0.6), 0.8, 7.0, COOL)),
        ambient=0.45,
        veil=(0.02, 0.08),
        spot=(0.2, 0.7),
        falloff=(0.2, 0.6),
    ),
    "dim green": Rig(
        lamps=(Lamp((0.4, 0.5, 1.0), (0.05, 0.9), 0.7, 7.0, GREENISH),),
        ambient=0.34,
        ambient_color=GREENISH,
        shadow=(0.4, 0.7),
    ),
}


@dataclass(frozen=True, slots=True)
class Lighting:
    """One frame's light. `lamps` are swayed; directions are unit vectors of the world."""

    lamps: tuple[Lamp, ...]
    ambient: Values
    shadow: float
    softness: float
    falloff: tuple[float, float]
    spot: tuple[float, float, float]
    veil: float

    @property
    def key(self) -> Values:
        """The direction that shadows fall from: that of the first lamp."""
        return np.asarray(self.lamps[0].direction, np.float32)


def pick_lighting(name: str, choices: Choices) -> Lighting:
    """A rig, with everything that differs from frame to frame."""
    rig = RIGS[name]
    sway = choices.generator.normal(0, rig.sway, 3) * (1, 1, 0.3)
    lamps = tuple(
        Lamp(
            _unit(np.asarray(lamp.direction) + sway),
            lamp.size,
            lamp.turn + choices.between((-0.4, 0.4)),
            lamp.brightness * choices.between((0.7, 1.3)),
            lamp.color,
        )
        for lamp in rig.lamps
    )
    angle, slope = choices.between((0, 2 * np.pi)), choices.between(rig.falloff)
    spot = (choices.between((0.2, 0.8)), choices.between((0.2, 0.8)), choices.between(rig.spot))
    return Lighting(
        lamps,
        np.asarray(rig.ambient_color, np.float32) * rig.ambient * choices.between((0.85, 1.15)),
        shadow=choices.between(rig.shadow),
        softness=choices.between(rig.softness),
        falloff=(slope * np.cos(angle), slope * np.sin(angle)),
        spot=spot,
        veil=choices.between(rig.veil),
    )


def _unit(vector: Values) -> Vector:
    x, y, z = vector / np.linalg.norm(vector)
    return float(x), float(y), float(z)


def mirrored(lighting: Lighting, directions: Values) -> Values:
    """The light that comes from directions [N, 3] of the world: what a mirror there would show, [N, 3]."""
    up = np.clip(directions[:, 2:] * 0.5 + 0.5, 0, 1)
    light = lighting.ambient * (0.25 + 0.9 * up**2)
    for lamp in lighting.lamps:
        toward = np.asarray(lamp.direction, np.float32)
        first, second = _frame(toward, lamp.turn)
        depth = np.maximum(directions @ toward, 1e-3)
        a, b = np.abs(directions @ first) / depth, np.abs(directions @ second) / depth
        inside = (1 - smooth_step(a, lamp.size[0] * 0.8, lamp.size[0] * 1.2)) * (
            1 - smooth_step(b, lamp.size[1] * 0.85, lamp.size[1] * 1.15)
        )
        light = light + (inside * lamp.brightness)[:, None] * np.asarray(lamp.color, np.float32)
    return light.astype(np.float32)


def diffuse(lighting: Lighting, normals: Values) -> Values:
    """The light that falls on a dull surface that faces along normals [N, 3]; about 1 for one that faces the lamps."""
    light = lighting.ambient * (0.7 + 0.3 * normals[:, 2:])
    share = 0.65 / len(lighting.lamps)
    for lamp in lighting.lamps:
        facing = np.clip(normals @ np.asarray(lamp.direction, np.float32) * 0.85 + 0.15, 0, 1)
        light = light + (share * facing)[:, None] * np.asarray(lamp.color, np.float32)
    return light.astype(np.float32)


def on_belt(lighting: Lighting, x: Values, y: Values) -> Values:
    """How bright the light is at places of the frame (0 to 1), [N] → [N, 3], without shadows."""
    up = np.array([[0, 0, 1]], np.float32)
    level = 1 + lighting.falloff[0] * (x - 0.5) * 2 + lighting.falloff[1] * (y - 0.5) * 2
    spot_x, spot_y, strength = lighting.spot
    level = level + strength * np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / 0.08)
    fallen: Values = np.clip(level, 0.1, None)[..., None] * diffuse(lighting, up)[0]
    return fallen.astype(np.float32)


def _frame(toward: Values, turn: float) -> tuple[Values, Values]:
    """Two unit vectors that stand on a direction, turned around it."""
    helper = np.array([1, 0, 0] if abs(toward[0]) < 0.8 else [0, 1, 0], np.float32)
    first = np.cross(toward, helper)
    first /= np.linalg.norm(first)
    second = np.cross(toward, first)
    cosine, sine = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    return cosine * first + sine * second, cosine * second - sine * first
