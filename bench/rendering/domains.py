"""The pairs of domains: what the learn frames of each pair show, and what its judge frames show instead.

| pair | to learn from | to judge by |
| --- | --- | --- |
| `belt` | plain rubber and cloth, dull colors | grids, slats, steel, bricks, litter, rails; strong colors |
| `light` | even white lamps at the ceiling | colored, low, harsh or dim lamps, glare, a noisy sensor |
| `camera` | near, sharp, mostly from above | farther, slanted, often from beside; moving, blurred, too dark or bright |

No belt, rig of lamps or family of bottles of a pair's learn frames occurs in its judge frames. Sensor, exposure, blur,
size in the picture and JPEG quality differ in all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bench.rendering.camera import Camera
from bench.rendering.colors import ANY_HUE, BLACK, GRAY, VIVID, WHITE, Palette
from bench.rendering.random_choices import Range

# The probability of each defect, as in the frames that the project ships.
DEFECT_PROBABILITY = 0.3


@dataclass(frozen=True, slots=True)
class Domain:
    """What the frames of one plant show."""

    families: tuple[str, ...]
    belts: tuple[str, ...]
    belt_palettes: tuple[Palette, ...]
    rigs: tuple[str, ...]
    camera: Camera
    # Share of frames with standing bottles, and the camera's tilt in radians for lying and for standing ones.
    standing: float = 0.35
    lying_tilt: Range = (0.0, 0.35)
    standing_tilt: Range = (1.15, 1.42)
    # The bottle's height as a share of the picture's.
    size: Range = (0.58, 0.9)
    cap_palettes: tuple[Palette, ...] = (VIVID, VIVID, WHITE, BLACK)
    # Probability of a cap of the belt's color, and of clear plastic.
    camouflaged_caps: float = 0.03
    clear_caps: float = 0.03
    cap_height: Range = (0.085, 0.115)
    severity: Range = (0.8, 1.0)
    strip_height: Range = (0.65, 1.0)
    torn: float = 0.08
    # Probability that clear plastic has a tint, and a rest of colored content: neither is pigment.
    tinted: float = 0.08
    content: float = 0.03
    # Probability that pigmented plastic lets some light pass.
    translucent: float = 0.15
    stains: Range = (0.0, 0.5)
    rails: float = 0.2
    litter: tuple[int, int] = (0, 2)
    wall_shapes: tuple[int, int] = (0, 5)


class Pair(NamedTuple):
    """Frames to learn from, and frames of another domain to judge by."""

    learn: Domain
    judge: Domain


_DULL = (GRAY, Palette((0.5, 0.7), (0.05, 0.35), (0.3, 0.6)), Palette((0.05, 0.15), (0.05, 0.25), (0.35, 0.6)))
_GREEN = Palette((0.36, 0.46), (0.3, 0.7), (0.25, 0.5))
_BLUE = Palette((0.56, 0.64), (0.3, 0.7), (0.3, 0.65))
_RED = Palette((0.97, 1.06), (0.3, 0.65), (0.3, 0.6))
_PURPLE = Palette((0.72, 0.88), (0.1, 0.4), (0.35, 0.65))
_OCHER = Palette((0.08, 0.14), (0.3, 0.6), (0.4, 0.7))
_LIGHT = Palette(ANY_HUE, (0.0, 0.12), (0.65, 0.9))

_FIRST = ("water", "soda", "longneck", "hourglass", "carafe", "stepped")
_SECOND = ("square", "grip", "dome", "flask", "barrel", "slim")
_NOISY = Camera(
    exposure=(0.9, 1.3),
    read_noise=(0.003, 0.006),
    shot_noise=(0.001, 0.0025),
    blur_px=(0.4, 0.8),
    motion_px=(0.0, 1.0),
    vignette=(0.1, 0.35),
    cast=(-0.07, 0.07),
    quality=(70, 85),
)

PAIRS = {
    "belt": Pair(
        learn=Domain(
            families=_FIRST,
            belts=("rubber", "fabric", "worn", "stripes"),
            belt_palettes=(*_DULL, _GREEN, _BLUE, _PURPLE, _LIGHT),
            rigs=("tubes", "softbox", "rows", "low side"),
            camera=Camera(),
        ),
        judge=Domain(
            families=_SECOND,
            belts=("grid", "slats", "steel", "bricks", "studs", "wire"),
            belt_palettes=(_LIGHT, *_DULL, _OCHER, _GREEN, _RED),
            rigs=("window", "ring"),
            camera=Camera(exposure=(0.9, 1.3), motion_px=(0.0, 2.0), quality=(75, 88), saturation=(0.8, 1.05)),
            size=(0.6, 0.9),
            rails=0.3,
            litter=(0, 2),
            stains=(0.0, 0.7),
        ),
    ),
    "light": Pair(
        learn=Domain(
            families=("square", "dome", "flask", "water", "slim", "stepped"),
            belts=("rubber", "stripes", "bricks", "steel"),
            belt_palettes=(*_DULL, _PURPLE, _BLUE, _LIGHT),
            rigs=("tubes", "softbox", "ring", "rows", "window"),
            camera=Camera(quality=(80, 92)),
        ),
        judge=Domain(
            families=("soda", "longneck", "hourglass", "carafe", "grip", "barrel"),
            belts=("fabric", "worn", "chevrons", "rollers"),
            belt_palettes=(*_DULL, _GREEN, _OCHER, _BLUE),
            rigs=("low side", "amber", "two colors", "spots", "glare", "dim green"),
            camera=_NOISY,
            size=(0.6, 0.9),
        ),
    ),
    "camera": Pair(
        learn=Domain(
            families=("soda", "grip", "square", "water", "carafe", "barrel"),
            belts=("fabric", "grid", "rubber", "slats"),
            belt_palettes=(*_DULL, _GREEN, _OCHER, _BLUE),
            rigs=("rows", "window", "softbox"),
            camera=Camera(motion_px=(0.0, 1.5)),
            standing=0.3,
            size=(0.58, 0.92),
        ),
        judge=Domain(
            families=("longneck", "slim", "dome", "flask", "hourglass", "stepped"),
            belts=("worn", "stripes", "studs", "steel"),
            belt_palettes=(*_DULL, _LIGHT, _BLUE),
            rigs=("tubes", "ring", "low side"),
            camera=Camera(
                exposure=(0.88, 1.25),
                blur_px=(0.5, 0.85),
                motion_px=(0.3, 1.6),
                vignette=(0.1, 0.35),
                contrast=(0.92, 1.1),
                quality=(70, 85),
            ),
            standing=0.4,
            lying_tilt=(0.0, 0.45),
            standing_tilt=(1.05, 1.45),
            size=(0.6, 0.88),
        ),
    ),
}
