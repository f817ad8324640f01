"""What is drawn is what the labels say, and the same choices draw the same frame."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.rendering.domains import PAIRS, Domain
from bench.rendering.frames import DRAWN_PX, FRAME_PX, draw_frame, draw_light
from bench.rendering.lights import Lamp
from bench.rendering.random_choices import Choices
from bench.rendering.scenes import DEFECTS, Scene, pick_scene
from bench.rendering.values import Values

NONE: frozenset[str] = frozenset()
# Lying bottles only, whose shadows are near to them.
LYING = replace(PAIRS["belt"].learn, standing=0.0, camouflaged_caps=0.0, clear_caps=0.0)
SEEDS = range(2)


def changed(domain: Domain, defect: str, seed: int) -> Values:
    """Where a defect makes a clear difference to a frame, in bottle heights along and across the axis, [N, 2].

    0 is the middle of the base, 1 the mouth.
    """
    good, bad = (draw_light(domain, defects, Choices([seed])) for defects in (NONE, frozenset({defect})))
    rows, columns = np.nonzero(np.abs(good - bad).max(axis=-1) > 0.05)
    base, mouth = ends(pick_scene(domain, NONE, Choices([seed]), drawn_px=DRAWN_PX))
    axis = (mouth - base) / np.sum((mouth - base) ** 2)
    away = np.stack([columns, rows], axis=1) - base
    return np.stack([away @ axis, away @ np.array([-axis[1], axis[0]])], axis=1)


def ends(scene: Scene) -> Values:
    """The pixels of the middle of the base and of the mouth, as (column, row)."""
    points = scene.pose.place(np.array([[0, 0, 0], [0, 0, 1]], np.float32), resting_radius=scene.shape.resting_radius)
    columns, rows, _ = scene.pose.view.pixels_of(scene.pose.view.to_camera(points))
    return np.stack([columns, rows], axis=1).astype(float)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_cap_changes_the_mouth_only(seed: int) -> None:
    places = changed(LYING, "no cap", seed)
    assert len(places) > 20
    assert places[:, 0].min() > 0.7
    assert places[:, 0].max() < 1.3
    assert np.abs(places[:, 1]).max() < 0.35


@pytest.mark.parametrize("seed", SEEDS)
def test_a_missing_strip_changes_its_place_only(seed: int) -> None:
    low, high = pick_scene(LYING, NONE, Choices([seed]), drawn_px=DRAWN_PX).shape.family.strip
    along = changed(LYING, "no strip", seed)[:, 0]
    assert len(along) > 100
    assert low - 0.1 < np.quantile(along, 0.02) < np.quantile(along, 0.98) < high + 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_pigment_changes_the_whole_body(seed: int) -> None:
    along = changed(LYING, "pigmented", seed)[:, 0]
    assert np.quantile(along, 0.05) < 0.3
    assert np.quantile(along, 0.95) > 0.7


def test_every_disfigured_bottle_has_been_moved() -> None:
    for seed in range(40):
        damage = pick_scene(LYING, frozenset({"disfigured"}), Choices([seed]), drawn_px=DRAWN_PX).damage
        around = np.linspace(0, 2 * np.pi, 60)
        heights, angles = np.meshgrid(np.linspace(0.05, 0.85, 80), around, indexing="ij")
        wall = np.stack([0.15 * np.cos(angles), 0.15 * np.sin(angles), heights], axis=-1).astype(np.float32)
        moved = np.linalg.norm(damage.of_whole(damage.of_body(wall)) - wall, axis=-1)
        assert moved.max() > 0.015, seed


def test_the_other_choices_do_not_depend_on_the_defects() -> None:
    good, bad = (pick_scene(LYING, defects, Choices([3]), drawn_px=DRAWN_PX) for defects in (NONE, frozenset(DEFECTS)))
    assert good.pose == bad.pose
    assert good.shape == bad.shape
    assert good.belt == bad.belt
    assert bad.look.cap is None
    assert bad.look.strip is None
    assert good.lighting.lamps == bad.lighting.lamps
    assert isinstance(good.lighting.lamps[0], Lamp)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_frame_is_a_jpeg_that_the_same_choices_draw_again(pair: str) -> None:
    for domain in PAIRS[pair]:
        first, again, other = (draw_frame(domain, NONE, Choices([seed])) for seed in (1, 1, 2))
        assert first == again
        assert first != other
        with Image.open(io.BytesIO(first)) as image:
            assert (image.format, image.size) == ("JPEG", (FRAME_PX, FRAME_PX))
