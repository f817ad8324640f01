"""The light that each pixel of a bottle sends to the camera.

Clear plastic: the belt behind it, shifted by refraction and dimmed by the walls' thickness, and the mirror images of
the lamps on the near and the far wall (Fresnel's equations, in Schlick's form). Opaque plastic, strips and caps: the
light that falls on them, and a gloss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.rendering.lights import Lighting, diffuse, mirrored
from bench.rendering.strips import Strip
from bench.rendering.surfaces import CAP, STRIP, Cap, Surface
from bench.rendering.values import Values
from bench.rendering.view import View, Visible

# PET: a refractive index of 1.57 mirrors 5 % at right angles.
_MIRRORED_STRAIGHT = 0.05
# The share of the light that reaches a bottle's inner side.
_INSIDE = 0.4


@dataclass(frozen=True, slots=True)
class Plastic:
    """What a bottle is made of. `passes` is the share of each color that one wall lets through at right angles.

    `opaque` is the color of what doesn't pass, and `cover` its share: 0 for clear plastic, 1 for opaque plastic.
    """

    passes: Values
    opaque: Values
    cover: float
    haze: float
    # A rest of what was in the bottle: up to which height, and how much of each color one wall of it passes.
    content_height: float
    content: Values


@dataclass(frozen=True, slots=True)
class Look:
    """What the parts of one bottle look like."""

    plastic: Plastic
    strip: Strip | None
    cap: Cap | None


def shade(
    picture: Values, view: View, visible: Visible, surface: Surface, *, normals: Values, look: Look, lighting: Lighting
) -> Values:
    """The picture [size, size, 3] with a bottle on it. `normals` are the surface's in camera space."""
    front, back = _toward_camera(normals[visible.front]), _toward_camera(normals[visible.back])
    material = surface.material[visible.front]
    inside = normals[visible.front][:, 2] < 0  # seen through the mouth of an open bottle
    light = _plastic(picture, view, visible, surface, (front, back), inside=inside, look=look, lighting=lighting)
    world = view.to_world(front)
    fallen = diffuse(lighting, world)
    mirror, fresnel = mirrored(lighting, view.to_world(_reflected(front))), _fresnel(front)
    if look.strip is not None:
        print_color = _print_at(look.strip, surface, visible.front)
        dull = print_color * fallen * np.where(inside, _INSIDE, 1.0)[:, None]
        light = np.where((material == STRIP)[:, None], dull + look.strip.gloss * fresnel * mirror, light)
    if look.cap is not None:
        cap, share = look.cap, 1 - look.cap.clear
        solid = cap.color * fallen * share + light * cap.clear * 0.8 + 0.5 * fresnel * mirror
        light = np.where((material == CAP)[:, None], solid, light)
    result = picture.copy()
    result[visible.rows, visible.columns] = light
    return result


def _plastic(
    picture: Values,
    view: View,
    visible: Visible,
    surface: Surface,
    normals: tuple[Values, Values],
    *,
    inside: Values,
    look: Look,
    lighting: Lighting,
) -> Values:
    """The light of each pixel as if all of the bottle were its plastic, [N, 3]."""
    front, back = normals
    plastic = look.plastic
    slant = 1 / np.clip(front[:, 2:], 0.18, 1) + 1 / np.clip(back[:, 2:], 0.18, 1)
    passed = plastic.passes ** (0.5 * slant)
    wet = (surface.height[visible.front] < plastic.content_height)[:, None]
    passed = np.where(wet, passed * plastic.content, passed)
    behind = _behind(picture, view, visible, front, back)
    if look.strip is not None:  # its inner side shows through
        far = (surface.material[visible.back] == STRIP)[:, None]
        inner = (0.25 * _print_at(look.strip, surface, visible.back) + 0.25) * diffuse(lighting, view.to_world(-back))
        behind = np.where(far, inner, behind)
    fallen = diffuse(lighting, view.to_world(front))
    near = _fresnel(front) * mirrored(lighting, view.to_world(_reflected(front)))
    far_wall = _fresnel(back) * mirrored(lighting, view.to_world(_reflected(back * (-1, -1, 1))))
    through = passed * (behind * (1 - plastic.haze) + far_wall) + plastic.haze * fallen * 0.5
    shell = plastic.opaque * fallen * np.where(inside, _INSIDE, 1.0)[:, None]
    light: Values = (1 - plastic.cover) * through + plastic.cover * shell + near
    return light


def _behind(picture: Values, view: View, visible: Visible, front: Values, back: Values) -> Values:
    """The picture behind each pixel, shifted by refraction: little in the middle, much near the edges."""
    bent = front[:, :2] / (front[:, 2:] + 0.25) + 0.6 * back[:, :2] / (back[:, 2:] + 0.25)
    shift = -0.022 * view.scale_px * bent
    last = view.size_px - 1
    rows = np.clip(visible.rows + shift[:, 1], 0, last).astype(np.int32)
    columns = np.clip(visible.columns + shift[:, 0], 0, last).astype(np.int32)
    shifted: Values = picture[rows, columns]
    return shifted


def _print_at(strip: Strip, surface: Surface, points: Values) -> Values:
    rows, columns = strip.print.shape[:2]
    down = np.clip(surface.down[points] * rows, 0, rows - 1).astype(np.int32)
    across = np.clip(surface.across[points] * columns, 0, columns - 1).astype(np.int32)
    printed: Values = strip.print[down, across]
    return printed


def _toward_camera(normals: Values) -> Values:
    return np.where(normals[:, 2:] < 0, -normals, normals)


def _fresnel(normals: Values) -> Values:
    return _MIRRORED_STRAIGHT + (1 - _MIRRORED_STRAIGHT) * (1 - np.clip(normals[:, 2:], 0, 1)) ** 5


def _reflected(normals: Values) -> Values:
    """Where a look straight down is mirrored to."""
    reflected = 2 * normals[:, 2:] * normals
    reflected[:, 2] -= 1
    return reflected
