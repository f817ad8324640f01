"""Chooses what one frame shows: its bottle and that bottle's defects, its lamps and its pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.rendering import colors
from bench.rendering.colors import Palette
from bench.rendering.damage import Damage, pick_damage
from bench.rendering.domains import DEFECT_PROBABILITY, Domain
from bench.rendering.families import Shape, pick_shape
from bench.rendering.lights import Lighting, pick_lighting
from bench.rendering.poses import Pose, pick_pose
from bench.rendering.random_choices import Choices
from bench.rendering.shading import Look, Plastic
from bench.rendering.strips import Strip, pick_strip
from bench.rendering.surfaces import Cap
from bench.rendering.values import Values

DEFECTS = ("disfigured", "no cap", "no strip", "pigmented")
_BROWN = Palette((0.05, 0.12), (0.8, 0.95), (0.25, 0.5))


@dataclass(frozen=True, slots=True)
class Scene:
    """One frame, before it is drawn."""

    pose: Pose
    shape: Shape
    damage: Damage
    look: Look
    lighting: Lighting
    belt: str
    belt_palette: Palette


def pick_defects(choices: Choices) -> frozenset[str]:
    """Each defect with the same probability, whatever the others are."""
    return frozenset(name for name in DEFECTS if choices.stream(name).happens(DEFECT_PROBABILITY))


def pick_scene(domain: Domain, defects: frozenset[str], choices: Choices, *, drawn_px: int) -> Scene:
    """A scene of a domain. Scenes from the same choices differ only by the defects."""
    shape = pick_shape(choices.stream("family").one_of(domain.families), choices.stream("shape"))
    palette = choices.stream("belt palette").one_of(domain.belt_palettes)
    camouflage = palette.pick(choices.stream("cap like the belt"))
    damage = Damage()
    if "disfigured" in defects:
        damage = pick_damage(choices.stream("damage"), radius=shape.radius, severity=domain.severity)
    look = Look(
        _pick_plastic(domain, choices.stream("plastic"), pigmented="pigmented" in defects),
        None if "no strip" in defects else _pick_strip(domain, shape, choices.stream("strip")),
        None if "no cap" in defects else _pick_cap(domain, camouflage, choices.stream("cap")),
    )
    return Scene(
        pose=pick_pose(domain, choices.stream("pose"), drawn_px=drawn_px),
        shape=shape,
        damage=damage,
        look=look,
        lighting=pick_lighting(choices.stream("rig").one_of(domain.rigs), choices.stream("light")),
        belt=choices.stream("belt").one_of(domain.belts),
        belt_palette=palette,
    )


def _pick_plastic(domain: Domain, choices: Choices, *, pigmented: bool) -> Plastic:
    """Clear plastic, which may have a tint or a rest of colored content; or pigmented plastic."""
    haze = choices.between((0.03, 0.11))
    content_height = choices.between((0.05, 0.3)) if choices.happens(domain.content) else 0.0
    content = colors.PALE.pick(choices) ** 0.6
    clear: Values = np.full(3, choices.between((0.74, 0.9)), np.float32)
    tint = colors.PALE.pick(choices) ** 0.25
    if choices.happens(domain.tinted):
        clear = clear * tint
    if not pigmented:
        return Plastic(clear, np.zeros(3, np.float32), 0.0, haze, content_height, content)
    own = choices.stream("pigment")
    if own.happens(domain.translucent):
        color = own.one_of((colors.DEEP, _BROWN, colors.VIVID)).pick(own)
        return Plastic(np.clip(color, 0.02, 1) ** 0.9, color, own.between((0.15, 0.45)), haze, 0.0, content)
    palette = own.one_of((colors.VIVID, colors.VIVID, colors.VIVID, colors.WHITE, colors.BLACK, colors.DEEP))
    return Plastic(clear, palette.pick(own), own.between((0.92, 1.0)), haze, 0.0, content)


def _pick_strip(domain: Domain, shape: Shape, choices: Choices) -> Strip:
    return pick_strip(choices, within=shape.family.strip, height=domain.strip_height, torn=domain.torn)


def _pick_cap(domain: Domain, camouflage: Values, choices: Choices) -> Cap:
    """A cap. Some have the belt's color, `camouflage`, and some are clear."""
    color = choices.one_of(domain.cap_palettes).pick(choices)
    if choices.happens(domain.camouflaged_caps):
        color = camouflage
    clear = choices.between((0.4, 0.75)) if choices.happens(domain.clear_caps) else 0.0
    return Cap(
        color=color,
        height=choices.between(domain.cap_height),
        overlap=choices.between((1.15, 1.35)),
        ridges=choices.whole(20, 48),
        clear=clear,
        dome=choices.one_of((0.0, 0.0, 0.3, 0.7)),
    )
