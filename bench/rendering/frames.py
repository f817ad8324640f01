"""Draws one frame: a bottle with chosen defects, on a belt of a domain, under its lamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.rendering import belts, colors, noise
from bench.rendering.camera import photograph
from bench.rendering.damage import Damage, pick_damage
from bench.rendering.domains import DEFECT_PROBABILITY, Domain
from bench.rendering.families import Shape, pick_shape
from bench.rendering.lights import Lighting, on_belt, pick_lighting
from bench.rendering.random_choices import Choices
from bench.rendering.shading import Look, Plastic, shade
from bench.rendering.strips import Strip, pick_strip
from bench.rendering.surfaces import Cap, bottle_surface
from bench.rendering.values import Values
from bench.rendering.view import View, find_visible

FRAME_PX = 256
# The picture is drawn larger, and reduced: edges are smooth then.
_DRAWN_PX = FRAME_PX * 3 // 2
# Points lie this far apart, in drawn pixels; closer than one, so that no pixel stays without a point.
_SPACING_PX = 0.8

DEFECTS = ("disfigured", "no cap", "no strip", "pigmented")


def pick_defects(choices: Choices) -> frozenset[str]:
    """Each defect with the same probability, whatever the others are."""
    return frozenset(name for name in DEFECTS if choices.stream(name).happens(DEFECT_PROBABILITY))


def draw_frame(domain: Domain, defects: frozenset[str], choices: Choices) -> bytes:
    """A frame as a JPEG."""
    return photograph(draw_light(domain, defects, choices), domain.camera, choices.stream("camera"), size_px=FRAME_PX)


def draw_light(domain: Domain, defects: frozenset[str], choices: Choices) -> Values:
    """What the camera's lens gets: linear light, float32 [384, 384, 3].

    Frames from the same choices differ only by the defects.
    """
    pose = _pick_pose(domain, choices.stream("pose"))
    shape = pick_shape(choices.stream("family").one_of(domain.families), choices.stream("shape"))
    lighting = pick_lighting(choices.stream("rig").one_of(domain.rigs), choices.stream("light"))
    palette = choices.stream("belt palette").one_of(domain.belt_palettes)
    belt_color = palette.pick(choices.stream("cap color"))
    look = Look(
        _pick_plastic(domain, choices.stream("plastic"), pigmented="pigmented" in defects),
        _pick_strip(domain, shape, choices.stream("strip"), missing="no strip" in defects),
        _pick_cap(domain, belt_color, choices.stream("cap"), missing="no cap" in defects),
    )
    damage = Damage()
    if "disfigured" in defects:
        damage = pick_damage(choices.stream("damage"), radius=shape.radius, severity=domain.severity)
    surface = bottle_surface(
        shape,
        strip=look.strip,
        cap=look.cap,
        damage=damage,
        choices=choices.stream("wall waves"),
        spacing=_SPACING_PX / pose.view.scale_px,
    )
    positions = pose.place(surface.positions, shape)
    camera_positions, normals = pose.view.to_camera(positions), pose.view.to_camera(pose.turn(surface.normals))
    picture = _background(domain, pose, palette, lighting, choices)
    picture *= 1 - _shadow(pose.view, positions, lighting, clear=look.plastic.cover < 0.5)[..., None]
    picture = shade(
        picture,
        pose.view,
        find_visible(pose.view, camera_positions),
        surface,
        normals=normals,
        look=look,
        lighting=lighting,
    )
    return picture + lighting.veil * lighting.ambient


@dataclass(frozen=True, slots=True)
class _Pose:
    """Where the bottle is and how it is turned: lying with its axis at an angle, or standing."""

    view: View
    standing: bool
    angle: float
    roll: float
    # How far it is from the world's origin along its axis.
    shift: float

    def turn(self, vectors: Values) -> Values:
        """Vectors of the bottle's space [N, 3] in the world."""
        cosine, sine = np.float32(np.cos(self.roll)), np.float32(np.sin(self.roll))
        x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
        if self.standing:
            return np.stack([cosine * x - sine * y, sine * x + cosine * y, z], axis=1)
        along_x, along_y = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        # The axis lies in the belt's plane; the bottle's wide side lies on the belt.
        return np.stack([along_x * z - along_y * x, along_y * z + along_x * x, y], axis=1)

    def place(self, positions: Values, shape: Shape) -> Values:
        """Points of the bottle's space in the world."""
        if self.standing:
            return self.turn(positions)
        return self.turn(positions - np.array([0, 0, 0.5], np.float32)) + np.array(
            [0, 0, shape.resting_radius], np.float32
        )


def _pick_pose(domain: Domain, choices: Choices) -> _Pose:
    standing = choices.happens(domain.standing)
    scale = choices.between(domain.size) * _DRAWN_PX
    room = max(0.0, (_DRAWN_PX - scale) / 2)
    x = _DRAWN_PX / 2 + choices.between((-0.8, 0.8)) * room
    y = _DRAWN_PX / 2 + choices.between((-0.8, 0.8)) * room
    if standing:
        y = _DRAWN_PX / 2 + scale / 2 + choices.between((-0.5, 0.7)) * room
    tilt = choices.between(domain.standing_tilt if standing else domain.lying_tilt)
    view = View(_DRAWN_PX, tilt, scale, (x, y))
    return _Pose(view, standing, choices.between((0, 2 * np.pi)), choices.between((0, 2 * np.pi)), 0.0)


def _pick_plastic(domain: Domain, choices: Choices, *, pigmented: bool) -> Plastic:
    haze = choices.between((0.01, 0.08))
    content_height = choices.between((0.05, 0.3)) if choices.happens(domain.content) else 0.0
    content = colors.PALE.pick(choices) ** 0.8
    clear = np.full(3, choices.between((0.8, 0.93)), np.float32)
    tint = colors.PALE.pick(choices) ** 0.35
    if choices.happens(domain.tinted):
        clear = clear * tint
    if not pigmented:
        return Plastic(clear, np.zeros(3, np.float32), 0.0, haze, content_height, content)
    own = choices.stream("pigment")
    if own.happens(domain.translucent):
        palette = own.one_of((colors.DEEP, colors.Palette((0.05, 0.12), (0.8, 0.95), (0.25, 0.5)), colors.VIVID))
        color = palette.pick(own)
        return Plastic(np.clip(color, 0.02, 1) ** 0.9, color, own.between((0.05, 0.35)), haze, 0.0, content)
    palette = own.one_of((colors.VIVID, colors.VIVID, colors.WHITE, colors.BLACK, colors.DEEP, colors.GRAY))
    return Plastic(clear, palette.pick(own), own.between((0.92, 1.0)), haze, 0.0, content)


def _pick_strip(domain: Domain, shape: Shape, choices: Choices, *, missing: bool) -> Strip | None:
    if missing:
        return None
    return pick_strip(choices, within=shape.family.strip, height=domain.strip_height, torn=domain.torn)


def _pick_cap(domain: Domain, belt_color: Values, choices: Choices, *, missing: bool) -> Cap | None:
    if missing:
        return None
    color = choices.one_of(domain.cap_palettes).pick(choices)
    if choices.happens(domain.camouflaged_caps):
        color = belt_color
    clear = choices.between((0.4, 0.75)) if choices.happens(domain.clear_caps) else 0.0
    return Cap(
        color=color,
        height=choices.between(domain.cap_height),
        overlap=choices.between((1.12, 1.3)),
        ridges=choices.whole(20, 48),
        clear=clear,
        dome=choices.one_of((0.0, 0.0, 0.3, 0.7)),
    )


def _background(domain: Domain, pose: _Pose, palette: colors.Palette, lighting: Lighting, choices: Choices) -> Values:
    """The belt and, beyond its end where a bottle stands, the wall, under the lamps."""
    places = pose.view.belt_places(FRAME_PX)
    belt = belts.belt_colors(choices.stream("belt").one_of(domain.belts), palette, choices.stream("belt look"), places)
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
    lit = (belt * on_belt(lighting, pixels[None, :], pixels[:, None])).astype(np.float32)
    return noise.resized(lit, _DRAWN_PX)


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
