"""Colors as linear light, float32 [3]: sums and products of light are only right there."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from bench.rendering.random_choices import Choices, Range
from bench.rendering.values import Values
from shared.images.arrays import Pixels

GAMMA = 2.2
# The linear light of each value of a byte.
_LIGHT_OF_BYTES = ((np.arange(256) / 255) ** GAMMA).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Palette:
    """Colors of similar hue: bounds of hue (0 to 1, may exceed 1 to wrap), saturation and value."""

    hue: Range
    saturation: Range
    value: Range

    def pick(self, choices: Choices) -> Values:
        """One color, as linear light."""
        return linear(choices.between(self.hue), choices.between(self.saturation), choices.between(self.value))


ANY_HUE = (0.0, 1.0)
VIVID = Palette(ANY_HUE, (0.6, 0.95), (0.5, 0.95))
WHITE = Palette(ANY_HUE, (0.0, 0.06), (0.82, 0.97))
BLACK = Palette(ANY_HUE, (0.0, 0.3), (0.08, 0.2))
GRAY = Palette(ANY_HUE, (0.0, 0.1), (0.3, 0.7))
PALE = Palette(ANY_HUE, (0.08, 0.3), (0.75, 0.95))
DEEP = Palette(ANY_HUE, (0.7, 0.95), (0.2, 0.45))


def linear(hue: float, saturation: float, value: float) -> Values:
    """The linear light of a color that is given as on a screen."""
    return np.asarray(colorsys.hsv_to_rgb(hue % 1.0, saturation, value), np.float32) ** GAMMA


def light_of(pixels: Pixels) -> Values:
    """The linear light of 8-bit pixels."""
    light: Values = _LIGHT_OF_BYTES[pixels]
    return light


def on_screen(light: Values) -> tuple[int, int, int]:
    """The color as a screen takes it, 0 to 255: what PIL draws with."""
    red, green, blue = (np.clip(light, 0, 1) ** (1 / GAMMA) * 255).astype(int)
    return int(red), int(green), int(blue)
