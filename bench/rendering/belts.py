"""What bottles lie on and stand before: belts of many kinds, walls, rails, stains and litter.

A belt is a function of places on it, in bottle heights; it returns how much of each color it throws back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from bench.rendering import colors, noise
from bench.rendering.colors import Palette
from bench.rendering.random_choices import Choices
from bench.rendering.values import Values

# A pattern: factors of the belt's color around 1, from places on the belt.
Pattern = Callable[[Values, Values], Values]


def _grain(choices: Choices, amount: float, *, cells: int = 128) -> Pattern:
    texture = noise.tile(choices, cells)
    return lambda x, y: 1 + amount * noise.sample(texture, x * 1.7, y * 1.7)


def _rubber(choices: Choices) -> Pattern:
    fine, coarse = _grain(choices, 0.18, cells=200), _grain(choices, 0.12, cells=9)
    return lambda x, y: fine(x, y) * coarse(x, y)


def _fabric(choices: Choices) -> Pattern:
    threads, grain = choices.between((45, 80)), _grain(choices, 0.15)
    return lambda x, y: (1 + 0.25 * np.sin(threads * x * 2) * np.sin(threads * y * 2)) * grain(x, y)


def _stripes(choices: Choices) -> Pattern:
    width, depth, grain = choices.between((20, 60)), choices.between((0.25, 0.6)), _grain(choices, 0.1)
    return lambda x, y: (1 + depth * np.tanh(2 * np.sin(width * y))) * grain(x, y)


def _grid(choices: Choices) -> Pattern:
    width, depth, grain = choices.between((7, 14)), choices.between((0.2, 0.55)), _grain(choices, 0.1)

    def pattern(x: Values, y: Values) -> Values:
        hole = (np.abs((x * width) % 1 - 0.5) < 0.28) & (np.abs((y * width) % 1 - 0.5) < 0.28)
        return np.where(hole, 1 - depth, 1 + 0.1) * grain(x, y)

    return pattern


def _bricks(choices: Choices) -> Pattern:
    width, depth, grain = choices.between((6, 11)), choices.between((0.25, 0.6)), _grain(choices, 0.12)

    def pattern(x: Values, y: Values) -> Values:
        row = np.floor(y * width)
        gap = ((y * width) % 1 < 0.1) | ((x * width / 1.8 + 0.5 * (row % 2)) % 1 < 0.06)
        return np.where(gap, 1 - depth, 1.0) * grain(x, y)

    return pattern


def _steel(choices: Choices) -> Pattern:
    """Brushed: noise that is drawn out along one direction, and scratches."""
    texture, coarse = noise.tile(choices, 160), _grain(choices, 0.2, cells=5)
    return lambda x, y: (1 + 0.3 * noise.sample(texture, x * 0.06, y * 1.5)) * coarse(x, y)


def _rollers(choices: Choices) -> Pattern:
    """Turning tubes side by side: each is bright along its middle, with dark gaps."""
    width, grain = choices.between((3.5, 7)), _grain(choices, 0.08)

    def pattern(x: Values, y: Values) -> Values:
        part = (y * width) % 1 - 0.5
        return (0.35 + 0.9 * np.sqrt(np.clip(1 - (part / 0.46) ** 2, 0, 1)) ** 1.5) * grain(x, y)

    return pattern


def _chevrons(choices: Choices) -> Pattern:
    width, depth, grain = choices.between((5, 10)), choices.between((0.3, 0.6)), _grain(choices, 0.12)
    return lambda x, y: (
        np.where((y * width + np.abs((x * 1.5) % 2 - 1) * width * 0.6) % 1 < 0.22, 1 + depth, 1.0) * grain(x, y)
    )


def _studs(choices: Choices) -> Pattern:
    width, depth, grain = choices.between((9, 18)), choices.between((0.35, 0.8)), _grain(choices, 0.12)

    def pattern(x: Values, y: Values) -> Values:
        row = np.floor(y * width)
        across, down = (x * width + 0.5 * (row % 2)) % 1 - 0.5, (y * width) % 1 - 0.5
        distance = np.hypot(across, down)
        shade = noise.smooth_step(across + down, -0.4, 0.4)
        return np.where(distance < 0.25, 1 + depth * (1 - 2 * shade), 1.0) * grain(x, y)

    return pattern


def _slats(choices: Choices) -> Pattern:
    """Boards or plates side by side, each of a slightly different shade."""
    width, grain = choices.between((2.5, 6)), _grain(choices, 0.1)
    shades, drawn_out = noise.tile(choices, 64), noise.tile(choices, 100)

    def pattern(x: Values, y: Values) -> Values:
        board = np.floor(y * width)
        shade = (
            1 + 0.3 * noise.sample(shades, board * 0.37, board * 0.11) + 0.2 * noise.sample(drawn_out, x * 0.1, y * 2)
        )
        return np.where((y * width) % 1 < 0.05, 0.3, shade) * grain(x, y)

    return pattern


def _wire(choices: Choices) -> Pattern:
    """A mesh of bright wires above a dark gap."""
    width, grain = choices.between((14, 26)), _grain(choices, 0.15)

    def pattern(x: Values, y: Values) -> Values:
        first, second = np.abs(np.sin(width * (x + y))), np.abs(np.sin(width * (x - y)))
        return np.where(np.maximum(first, second) > 0.93, 1.35, 0.65) * grain(x, y)

    return pattern


def _worn(choices: Choices) -> Pattern:
    """Painted or coated, with large worn patches and scratches along the way."""
    patches, scratches = noise.tile(choices, 6, octaves=4), noise.tile(choices, 200)

    def pattern(x: Values, y: Values) -> Values:
        worn = noise.smooth_step(noise.sample(patches, x * 0.8, y * 0.8), 0.0, 0.9)
        return 1 + 0.6 * worn + 0.25 * noise.sample(scratches, x * 1.5, y * 0.05)

    return pattern


BELTS: Mapping[str, Callable[[Choices], Pattern]] = {
    "rubber": _rubber,
    "fabric": _fabric,
    "stripes": _stripes,
    "grid": _grid,
    "bricks": _bricks,
    "steel": _steel,
    "rollers": _rollers,
    "chevrons": _chevrons,
    "studs": _studs,
    "slats": _slats,
    "wire": _wire,
    "worn": _worn,
}


def belt_colors(name: str, palette: Palette, choices: Choices, places: tuple[Values, Values]) -> Values:
    """A belt's colors at places in bottle heights, [H, W, 3], turned by a random angle."""
    pattern = BELTS[name](choices.stream("pattern"))
    angle = choices.one_of((0.0, np.pi / 2)) + choices.between((-0.2, 0.2))
    x, y = places
    shift_x, shift_y = choices.between((0, 1)), choices.between((0, 1))
    turned_x = np.cos(angle) * x + np.sin(angle) * y + shift_x
    turned_y = np.cos(angle) * y - np.sin(angle) * x + shift_y
    factor = np.clip(pattern(turned_x.astype(np.float32), turned_y.astype(np.float32)), 0.05, 3)
    colored: Values = np.clip(factor[..., None] * palette.pick(choices), 0, 1)
    return colored.astype(np.float32)


def add_stains(belt: Values, choices: Choices, places: tuple[Values, Values], *, amount: float) -> Values:
    """Dark and dusty patches."""
    texture = noise.tile(choices, choices.whole(3, 9), octaves=4)
    patches = noise.smooth_step(noise.sample_smooth(texture, places[0] * 0.7, places[1] * 0.7), 0.1, 1.5)[..., None]
    stain = colors.GRAY.pick(choices) * choices.between((0.1, 1.0))
    share = amount * patches
    return belt * (1 - share) + stain * share


def add_rail(belt: Values, choices: Choices, places: tuple[Values, Values]) -> Values:
    """A metal edge along the belt, and what is beyond it."""
    angle = choices.one_of((0.0, np.pi / 2, np.pi, -np.pi / 2)) + choices.between((-0.15, 0.15))
    distance = np.cos(angle) * places[0] + np.sin(angle) * places[1] - choices.between((0.4, 0.75))
    width = choices.between((0.04, 0.12))
    metal = 0.25 + 0.55 * np.exp(-(((distance - 0.4 * width) / (0.25 * width)) ** 2))
    beyond = colors.GRAY.pick(choices) * choices.between((0.05, 0.8))
    belt = np.where((distance > 0)[..., None], metal[..., None].astype(np.float32), belt)
    return np.where((distance > width)[..., None], beyond, belt)


def add_litter(belt: Values, choices: Choices, places: tuple[Values, Values], *, pieces: int) -> Values:
    """Scraps of paper and film, lids of other things, crumbs."""
    for number in range(pieces):
        own = choices.stream(f"piece {number}")
        angle, size = own.between((0, np.pi)), own.between((0.015, 0.09))
        x, y = places[0] - own.between((-0.9, 0.9)), places[1] - own.between((-0.9, 0.9))
        along = (np.cos(angle) * x + np.sin(angle) * y) / size
        across = (np.cos(angle) * y - np.sin(angle) * x) / (size * own.between((0.3, 1.0)))
        power = own.one_of((2, 2, 6))
        inside = np.abs(along) ** power + np.abs(across) ** power < 1
        palette = own.one_of((colors.VIVID, colors.WHITE, colors.GRAY, colors.BLACK, colors.PALE))
        shade = 0.8 + 0.2 * np.clip(along + across, -1, 1)[..., None]
        belt = np.where(inside[..., None], palette.pick(own) * shade, belt)
    return belt


def wall_colors(palette: Palette, choices: Choices, size_px: int, *, shapes: int) -> Values:
    """A wall behind the belt, out of focus, with shapes of other machines before it: [size, size, 3]."""
    image = Image.new("RGB", (128, 128), colors.on_screen(palette.pick(choices)))
    draw = ImageDraw.Draw(image)
    for _ in range(shapes):
        left, top = choices.between((-20, 120)), choices.between((-20, 90))
        box = (left, top, left + choices.between((4, 50)), top + choices.between((10, 100)))
        other = choices.one_of((palette, palette, colors.GRAY, colors.BLACK, colors.VIVID))
        fill = colors.on_screen(other.pick(choices))
        (draw.ellipse if choices.happens(0.25) else draw.rectangle)(box, fill=fill)
    image = image.filter(ImageFilter.GaussianBlur(choices.between((1.5, 4))))
    large = image.resize((size_px, size_px), Image.Resampling.BICUBIC)
    slope = np.linspace(choices.between((0.7, 1.2)), choices.between((0.7, 1.2)), size_px, dtype=np.float32)
    return colors.light_of(np.asarray(large)) * slope[None, :, None]
