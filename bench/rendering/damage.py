"""How bottles are disfigured: dents, crushes, twists, crumples and bends.

In: positions of a surface in the bottle's own space (the axis is z; lengths in bottle heights). Out: moved positions.
Dents and crushes move the body only; bends and twists also carry the cap along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bench.rendering import noise
from bench.rendering.random_choices import Choices, Range
from bench.rendering.values import Values

Move = Callable[[Values], Values]
# The directions, around the axis, that the camera sees: `poses` turns the bottle's y axis toward it.
_SEEN = (0.1, np.pi - 0.1)
KINDS = ("dents", "crush", "twist", "crumple", "bend")


@dataclass(frozen=True, slots=True)
class Damage:
    """What has happened to one bottle. Without moves the bottle is whole."""

    # Moves of the body alone, and of the body with its cap, in this order.
    body: list[Move] = field(default_factory=list)
    whole: list[Move] = field(default_factory=list)

    def of_body(self, positions: Values) -> Values:
        for move in self.body:
            positions = move(positions)
        return positions

    def of_whole(self, positions: Values) -> Values:
        for move in self.whole:
            positions = move(positions)
        return positions


def pick_damage(choices: Choices, *, radius: float, severity: Range) -> Damage:
    """One or two kinds of damage. Severity is 0 (hardly seen) to 1 (a wreck)."""
    strength = choices.between(severity)
    kinds = [choices.one_of(KINDS)]
    if choices.happens(0.25 + 0.5 * strength):
        kinds.append(choices.one_of(KINDS))
    damage = Damage()
    for number, kind in enumerate(dict.fromkeys(kinds)):
        own = choices.stream(f"{kind} {number}")
        if kind == "bend":
            damage.whole.append(_bend(own, strength))
        elif kind == "twist":
            damage.body.append(_facets(own, strength))
            damage.whole.append(_twist(own, strength))
        else:
            damage.body.append({"dents": _dents, "crush": _crush, "crumple": _crumple}[kind](own, strength, radius))
    return damage


def _dents(choices: Choices, strength: float, radius: float) -> Move:
    """Round dents. The wall moves inward in a bowl with a sharp edge."""
    dents = [
        (
            choices.between((0.15, 0.75)),
            choices.between(_SEEN),
            radius * choices.between((0.5, 0.95)),
            radius * (0.25 + 0.5 * strength) * choices.between((0.7, 1.1)),
        )
        for _ in range(choices.whole(2, 2 + round(4 * strength)))
    ]

    def move(positions: Values) -> Values:
        for height, angle, width, depth in dents:
            direction = np.array([np.cos(angle), np.sin(angle), 0], np.float32)
            center = direction * radius + np.array([0, 0, height], np.float32)
            distance = np.sqrt(((positions - center) ** 2).sum(axis=-1)) / width
            bowl = np.clip(1 - distance**2, 0, 1) ** 0.8
            positions = positions - (depth * bowl)[..., None] * direction
        return positions

    return move


def _crush(choices: Choices, strength: float, radius: float) -> Move:
    """Flat presses: what lies beyond a plane is pushed back to it, and buckles a little."""
    presses = [
        (
            choices.between((0.15, 0.8)),
            choices.between(_SEEN),
            choices.between((0.08, 0.25)),
            choices.between((-0.35, 0.35)),
            radius * (0.8 - 0.75 * strength * choices.between((0.6, 1.0))),
        )
        for _ in range(choices.whole(1, 2 + round(2 * strength)))
    ]

    def move(positions: Values) -> Values:
        for height, angle, length, slant, reach in presses:
            direction = np.array([np.cos(angle), np.sin(angle), slant], np.float32)
            direction /= np.linalg.norm(direction)
            beyond = positions @ direction - height * direction[2]
            away = np.abs(positions[..., 2] - height) / length
            limit = reach + np.clip(away - 0.6, 0, None) * 2.5 * radius
            excess = np.clip(beyond - limit, 0, None)
            positions = positions - (1.25 * excess)[..., None] * direction
        return positions

    return move


def _crumple(choices: Choices, strength: float, radius: float) -> Move:
    """Creases all over, as on a bottle that was squeezed: ridges of folded noise."""
    folds = noise.tile(choices, choices.whole(4, 7), octaves=2)
    depth = radius * (0.18 + 0.4 * strength)
    low = choices.between((0.05, 0.4))
    high = low + choices.between((0.3, 0.5))

    def move(positions: Values) -> Values:
        height = positions[..., 2]
        around = np.arctan2(positions[..., 1], positions[..., 0]) / (2 * np.pi)
        ridge = np.abs(noise.sample_smooth(folds, around, height * 1.5)) * 1.6 - 0.3
        where = noise.smooth_step(height, low - 0.08, low) * (1 - noise.smooth_step(height, high, high + 0.1))
        scale = 1 - np.clip(depth * ridge * where / radius, -0.2, 0.75)
        return np.concatenate([positions[..., :2] * scale[..., None], positions[..., 2:]], axis=-1)

    return move


def _facets(choices: Choices, strength: float) -> Move:
    """Slanted folds, as a twisted wall has them."""
    count, slope = choices.whole(3, 5), choices.between((8, 16)) * choices.one_of((-1, 1))
    depth = 0.12 + 0.25 * strength
    low, high = choices.between((0.1, 0.3)), choices.between((0.55, 0.75))

    def move(positions: Values) -> Values:
        height = positions[..., 2]
        around = np.arctan2(positions[..., 1], positions[..., 0])
        fold = np.abs(np.sin(0.5 * (count * around + slope * height)))
        where = noise.smooth_step(height, low - 0.1, low + 0.05) * (
            1 - noise.smooth_step(height, high - 0.05, high + 0.1)
        )
        scale = 1 - depth * (1 - fold) * where
        return np.concatenate([positions[..., :2] * scale[..., None], positions[..., 2:]], axis=-1)

    return move


def _twist(choices: Choices, strength: float) -> Move:
    """A turn of the upper part against the lower, and a small bend with it."""
    turn = choices.between((0.5, 1.5)) * (0.5 + strength)
    bend = _bend(choices, 0.4 * strength)

    def move(positions: Values) -> Values:
        angle = turn * noise.smooth_step(positions[..., 2], 0.2, 0.7)
        cosine, sine = np.cos(angle), np.sin(angle)
        x, y = positions[..., 0], positions[..., 1]
        return bend(np.stack([cosine * x - sine * y, sine * x + cosine * y, positions[..., 2]], axis=-1))

    return move


def _bend(choices: Choices, strength: float) -> Move:
    """A kink: everything beyond a height is turned sideways, over a short length."""
    height = choices.between((0.25, 0.7))
    length = choices.between((0.05, 0.2))
    angle = (0.15 + 0.7 * strength) * choices.between((0.7, 1.1)) * choices.one_of((-1, 1))
    # Across what the camera sees; a bend toward the belt can't happen.
    direction = choices.between((-0.5, 0.5))

    def move(positions: Values) -> Values:
        cosine, sine = np.cos(direction), np.sin(direction)
        sideways = cosine * positions[..., 0] + sine * positions[..., 1]
        across = -sine * positions[..., 0] + cosine * positions[..., 1]
        turned, up, aside = _along_arc(positions[..., 2], height, length, angle)
        x = aside + sideways * np.cos(turned)
        z = up - sideways * np.sin(turned)
        return np.stack([cosine * x - sine * across, sine * x + cosine * across, z], axis=-1).astype(np.float32)

    return move


def _along_arc(heights: Values, start: float, length: float, angle: float) -> tuple[Values, Values, Values]:
    """The direction of a bent axis at these heights, and where it is: up, and aside."""
    inside = np.clip((heights - start) / length, 0, 1)
    turned = angle * inside
    bend_radius = length / angle
    up = np.minimum(heights, start) + bend_radius * np.sin(turned)
    aside = bend_radius * (1 - np.cos(turned))
    rest = np.clip(heights - start - length, 0, None)
    return turned, up + rest * np.cos(turned), aside + rest * np.sin(turned)
