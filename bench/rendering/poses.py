"""Where a bottle is: lying on the belt with its axis at any angle, or standing on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.rendering.domains import Domain
from bench.rendering.random_choices import Choices
from bench.rendering.values import Values
from bench.rendering.view import View


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the bottle is, how it is turned, and the camera that sees it. Angles in radians."""

    view: View
    standing: bool
    # Of the axis of a lying bottle in the belt's plane, and of a standing bottle around its axis.
    angle: float

    def turn(self, vectors: Values) -> Values:
        """Vectors of the bottle's space [N, 3] in the world."""
        cosine, sine = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
        if self.standing:
            return np.stack([cosine * x - sine * y, sine * x + cosine * y, z], axis=1)
        return np.stack([cosine * z - sine * x, sine * z + cosine * x, y], axis=1)

    def place(self, positions: Values, *, resting_radius: float) -> Values:
        """Points of the bottle's space [N, 3] in the world, where its origin is below the middle of the bottle.

        A lying bottle rests on its wide side, `resting_radius` below its axis.
        """
        if self.standing:
            return self.turn(positions)
        middle = np.array([0, 0, 0.5], np.float32)
        return self.turn(positions - middle) + np.array([0, 0, resting_radius], np.float32)


def pick_pose(domain: Domain, choices: Choices, *, drawn_px: int) -> Pose:
    """A pose of a domain, in a picture of `drawn_px` on each side. The bottle is mostly inside of the picture."""
    standing = choices.happens(domain.standing)
    scale = choices.between(domain.size) * drawn_px
    room = max(0.0, (drawn_px - scale) / 2)
    x = drawn_px / 2 + choices.between((-0.8, 0.8)) * room
    if standing:  # the world's origin is at its base
        y = drawn_px / 2 + scale / 2 + choices.between((-0.5, 0.7)) * room
    else:
        y = drawn_px / 2 + choices.between((-0.8, 0.8)) * room
    tilt = choices.between(domain.standing_tilt if standing else domain.lying_tilt)
    # A standing bottle shows its y side, as a lying one does: a dent at its back would not be seen.
    angle = choices.between((-0.5, 0.5) if standing else (0, 2 * np.pi))
    return Pose(View(drawn_px, tilt, scale, (x, y)), standing, angle)
