"""Printed strips: the paper or film around a bottle, with words, bands, emblems, small print and bar codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.rendering import colors, noise
from bench.rendering.random_choices import Choices, Range
from bench.rendering.values import Values

_WIDTH_PX = 640
_SYLLABLES = (
    "ba",
    "co",
    "di",
    "fe",
    "ga",
    "hu",
    "ja",
    "ki",
    "lo",
    "ma",
    "ne",
    "po",
    "ra",
    "si",
    "tu",
    "va",
    "wo",
    "zi",
)


@dataclass(frozen=True, slots=True)
class Strip:
    """A strip on one bottle: its print, float32 [rows, columns, 3], and where it is (heights; radians around)."""

    print: Values
    bottom: float
    top: float
    turn: float
    # Share of the way round that it covers.
    wraps: float
    slant: float
    # How far an edge (0: upper, 1: lower) is torn in at places across, as a share of the height.
    torn: Callable[[Values, int], Values]
    # How much it shines: film shines more than paper.
    gloss: float


def pick_strip(choices: Choices, *, within: Range, height: Range, torn: float) -> Strip:
    """A strip within a range of heights. `torn` is the probability that it is torn."""
    low, high = within
    length = (high - low) * choices.between(height)
    bottom = choices.between((low, max(low, high - length)))
    wraps = 1.0 if choices.happens(0.8) else choices.between((0.7, 0.9))
    turn = choices.between((0, 2 * np.pi))
    if wraps < 1:  # the gap is at the back, seen from the camera (`poses`), or a little to a side
        turn = -0.5 * np.pi - np.pi * (1 + wraps) + choices.between((-1.0, 1.0))
    tear = noise.tile(choices, choices.whole(4, 12), octaves=3)
    depth = choices.between((0.1, 0.5)) if choices.happens(torn) else 0.0

    def torn_in(across: Values, edge: int) -> Values:
        if not depth:
            return np.zeros_like(across)
        return depth * np.clip(noise.sample(tear, across, np.full_like(across, 0.3 + 0.4 * edge)) + 0.1, 0, 1)

    return Strip(
        print=_print(choices.stream("print"), ratio=length / 0.95),
        bottom=bottom,
        top=bottom + length,
        turn=turn,
        wraps=wraps,
        slant=choices.between((-0.01, 0.01)),
        torn=torn_in,
        gloss=choices.between((0.1, 1.0)),
    )


def _print(choices: Choices, *, ratio: float) -> Values:
    """The print as linear light."""
    height = max(48, int(_WIDTH_PX * ratio))
    ground = choices.one_of((colors.VIVID, colors.VIVID, colors.WHITE, colors.PALE, colors.DEEP, colors.BLACK))
    image = Image.new("RGB", (_WIDTH_PX, height), colors.on_screen(ground.pick(choices)))
    draw = ImageDraw.Draw(image)
    for _ in range(choices.whole(0, 3)):
        _draw_band(draw, choices, height)
    panels = choices.whole(1, 3)
    for panel in range(panels):
        _draw_panel(draw, choices.stream("panel"), (panel * _WIDTH_PX // panels, height))
    _draw_bar_code(draw, choices, height)
    return colors.light_of(np.asarray(image))[:, ::-1]


def _any_color(choices: Choices) -> tuple[int, int, int]:
    palette = choices.one_of((colors.VIVID, colors.VIVID, colors.WHITE, colors.DEEP, colors.PALE))
    return colors.on_screen(palette.pick(choices))


def _draw_band(draw: ImageDraw.ImageDraw, choices: Choices, height: int) -> None:
    top = choices.between((0, 0.9)) * height
    draw.rectangle((0, top, _WIDTH_PX, top + choices.between((0.04, 0.35)) * height), fill=_any_color(choices))


def _draw_panel(draw: ImageDraw.ImageDraw, choices: Choices, corner: tuple[int, int]) -> None:
    """An emblem, a word, and lines of small print. All panels of a strip are alike."""
    left, height = corner
    middle = choices.between((0.3, 0.6)) * height
    size = choices.between((0.2, 0.45)) * height
    shape = choices.whole(0, 3)
    box = (left + 10, middle - size, left + 20 + 2.4 * size, middle + size)
    if shape == 0:
        draw.ellipse(box, fill=_any_color(choices))
    elif shape == 1:
        draw.rounded_rectangle(box, radius=size / 3, fill=_any_color(choices))
    elif shape == 2:
        draw.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) / 2, box[1])], fill=_any_color(choices))
    word = "".join(choices.one_of(_SYLLABLES) for _ in range(choices.whole(2, 3))).upper()
    draw.text(
        (left + 16, middle - size / 2), word, fill=_any_color(choices), font=ImageFont.load_default(max(10, size))
    )
    ink = _any_color(choices)
    for line in range(choices.whole(0, 4)):
        top = height * (0.72 + 0.06 * line)
        draw.rectangle((left + 16, top, left + choices.between((70, 170)), top + max(2, height * 0.025)), fill=ink)


def _draw_bar_code(draw: ImageDraw.ImageDraw, choices: Choices, height: int) -> None:
    left = choices.between((0.3, 0.85)) * _WIDTH_PX
    top, bottom = 0.3 * height, 0.75 * height
    draw.rectangle((left - 6, top - 4, left + 76, bottom + 4), fill=(240, 240, 236))
    position = left
    while position < left + 68:
        width = choices.whole(2, 6)
        draw.rectangle((position, top, position + width - 1, bottom), fill=(20, 20, 24))
        position += width + choices.whole(2, 5)
