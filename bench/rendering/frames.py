"""Draws one frame: a bottle with chosen defects, on a belt of a domain, under its lamps."""

from __future__ import annotations

import numpy as np

from bench.rendering import belts, colors, noise
from bench.rendering.camera import photograph
from bench.rendering.domains import Domain
from bench.rendering.lights import Lighting, on_belt
from bench.rendering.random_choices import Choices
from bench.rendering.scenes import Scene, pick_scene
from bench.rendering.shading import shade
from bench.rendering.surfaces import bottle_surface
from bench.rendering.values import Values
from bench.rendering.view import View, find_visible

FRAME_PX = 256
# The picture is drawn larger, and reduced: edges are smooth then.
DRAWN_PX = FRAME_PX * 3 // 2
# Points lie this far apart, in drawn pixels; closer than one, so that hardly a pixel stays without a point.
_SPACING_PX = 0.8


def draw_frame(domain: Domain, defects: frozenset[str], choices: Choices) -> bytes:
    """A frame as a JPEG."""
    return photograph(draw_light(domain, defects, choices), domain.camera, choices.stream("camera"), size_px=FRAME_PX)


def draw_light(domain: Domain, defects: frozenset[str], choices: Choices) -> Values:
    """What the camera's lens gets: linear light, float32 [384, 384, 3].

    Frames from the same choices differ only by the defects.
    """
    scene = pick_scene(domain, defects, choices, drawn_px=DRAWN_PX)
    pose, view, lighting = scene.pose, scene.pose.view, scene.lighting
    surface = bottle_surface(
        scene.shape,
        strip=scene.look.strip,
        cap=scene.look.cap,
        damage=scene.damage,
        choices=choices.stream("wall waves"),
        spacing=_SPACING_PX / view.scale_px,
    )
    positions = pose.place(surface.positions, resting_radius=scene.shape.resting_radius)
    picture = _background(domain, scene, choices)
    picture *= 1 - _shadow(view, positions, lighting, clear=scene.look.plastic.cover < 0.5)[..., None]
    picture = shade(
        picture,
        view,
        find_visible(view, view.to_camera(positions)),
        surface,
        normals=view.to_camera(pose.turn(surface.normals)),
        look=scene.look,
        lighting=lighting,
    )
    return picture + lighting.veil * lighting.ambient


def _background(domain: Domain, scene: Scene, choices: Choices) -> Values:
    """The belt under the lamps and, beyond its end where a bottle stands, the wall."""
    pose = scene.pose
    places = pose.view.belt_places(FRAME_PX)
    belt = belts.belt_colors(scene.belt, scene.belt_palette, choices.stream("belt look"), places)
    own = choices.stream("belt's dirt")
    belt = belts.add_stains(belt, own.stream("stains"), places, amount=own.between(domain.stains))
    if not pose.standing and own.happens(domain.rails):
        belt = belts.add_rail(belt, own.stream("rail"), places)
    belt = belts.add_litter(belt, own.stream("litter"), places, pieces=own.whole(*domain.litter))
    if pose.standing:
        wall = choices.stream("wall")
        palette = wall.one_of((*domain.belt_palettes, colors.PALE, colors.GRAY))
        end = -wall.between((0.25, 0.9))
        colored = belts.wall_colors(palette, wall, FRAME_PX, shapes=wall.whole(*domain.wall_shapes))
        belt = np.where((places[1] < end)[..., None], colored, belt)
    pixels = np.linspace(0, 1, FRAME_PX, dtype=np.float32)
    return noise.resized(belt * on_belt(scene.lighting, pixels[None, :], pixels[:, None]), DRAWN_PX)


def _shadow(view: View, positions: Values, lighting: Lighting, *, clear: bool) -> Values:
    """How much darker the bottle makes each pixel of the belt, 0 to 1. Clear bottles throw light shadows."""
    points = positions[::5]
    key = lighting.key
    reach = np.maximum(points[:, 2:], 0) / max(float(key[2]), 0.35)
    fallen = points - reach * key
    fallen[:, 2] = 0
    columns, rows, _ = view.pixels_of(view.to_camera(fallen))
    inside = (columns >= 0) & (columns < view.size_px) & (rows >= 0) & (rows < view.size_px)
    small = view.size_px // 4
    mask = np.zeros((small, small), np.float32)
    mask[rows[inside] // 4, columns[inside] // 4] = 1
    mask = noise.blurred(mask, lighting.softness * view.scale_px / 4)
    return lighting.shadow * (0.55 if clear else 1.0) * noise.resized(noise.blurred(mask, 0.7), view.size_px)
