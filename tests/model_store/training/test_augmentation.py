"""The changes that augmentation makes, and those that it must never make."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training import augmentation
from model_store.training.augmentation import augment_pixels, augment_transforms, random_generator

pytestmark = pytest.mark.training

COUNT = 3000
TURN = 0.14
# The crop of a bottle that lies at an angle: its angle, half width and half height.
ANGLE, WIDTH, HEIGHT = 0.4, 0.2, 0.3
TRANSFORM = [0.4, 0.6, np.cos(ANGLE) * WIDTH, np.sin(ANGLE) * WIDTH, -np.sin(ANGLE) * HEIGHT, np.cos(ANGLE) * HEIGHT]
PICTURE = (96, 64)


def transforms(seed: int = 1, *, upright: bool = True) -> NDArray[np.float64]:
    tf = import_tensorflow()
    start = tf.tile(tf.constant([TRANSFORM], tf.float32), [COUNT, 1])
    return np.asarray(augment_transforms(start, random_generator(seed), upright=upright), np.float64)


def light(pixels: NDArray[np.float32], seed: int = 1, *, upright: bool = True) -> NDArray[np.float32]:
    return np.asarray(augment_pixels(import_tensorflow().constant(pixels), random_generator(seed), upright=upright))


def plain(color: tuple[int, int, int], count: int = 200) -> NDArray[np.float32]:
    return np.broadcast_to(np.array(color, np.float32), (count, *PICTURE, 3)).copy()


def saturation(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The saturation of each picture's mean color, from 0 (gray) to 1."""
    mean = pixels.mean(axis=(1, 2))
    return np.asarray(1 - mean.min(axis=1) / mean.max(axis=1))


@pytest.fixture
def only_occlusion(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_LOG_GAMMA", "_LOG_LIGHT", "_LOG_CAST", "_LOG_CONTRAST", "_LOG_SATURATION", "_MAX_NOISE"):
        monkeypatch.setattr(augmentation, name, 0.0)


def test_a_seed_reproduces_transforms_and_pixels() -> None:
    np.testing.assert_array_equal(transforms(5), transforms(5))
    assert (transforms(5) != transforms(6)).mean() > 0.9
    picture = plain((120, 90, 60), 4)
    np.testing.assert_array_equal(light(picture, 5), light(picture, 5))
    assert (light(picture, 5) != light(picture, 6)).mean() > 0.9


def test_a_generator_gives_other_numbers_in_each_call() -> None:
    random, picture = random_generator(3), import_tensorflow().constant(plain((120, 90, 60), 2))
    first, second = (np.asarray(augment_pixels(picture, random, upright=True)) for _ in range(2))
    assert (first != second).mean() > 0.9


def test_crops_vary_in_size_position_and_shape_as_documented() -> None:
    found = transforms()
    width, height = np.hypot(found[:, 2], found[:, 3]) / WIDTH, np.hypot(found[:, 4], found[:, 5]) / HEIGHT
    size, aspect = np.log(width * height) / 2, np.log(width / height) / 2
    assert (size.mean(), size.std()) == pytest.approx((0, 0.10), abs=0.01)
    assert (aspect.mean(), aspect.std()) == pytest.approx((0, 0.06), abs=0.01)
    shift = (found[:, :2] - TRANSFORM[:2]) / HEIGHT
    np.testing.assert_allclose(shift.mean(axis=0), 0, atol=0.005)
    np.testing.assert_allclose(shift.std(axis=0), 0.05, atol=0.005)
    np.testing.assert_allclose((found[:, 2:4] * found[:, 4:]).sum(axis=1), 0, atol=1e-6)  # no shear


def test_upright_crops_are_mirrored_turned_a_little_and_put_upside_down() -> None:
    ux, uy, vx, vy = transforms().T[2:]
    down = (vx * TRANSFORM[4] + vy * TRANSFORM[5]) > 0
    mirrored = (ux * vy - uy * vx) < 0
    assert ((ux * TRANSFORM[2] + uy * TRANSFORM[3]) > 0).mean() == pytest.approx(0.5, abs=0.04)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.04)
    assert down.mean() == pytest.approx(0.5, abs=0.04)
    assert (down & mirrored).mean() == pytest.approx(0.25, abs=0.04)
    sign = np.where(down, 1, -1)
    turn = np.arctan2(-vx * sign, vy * sign) - ANGLE
    assert (turn.mean(), turn.std()) == pytest.approx((0, TURN), abs=0.01)


def test_full_frames_are_mirrored_and_turned_by_any_angle() -> None:
    ux, uy, vx, vy = transforms(upright=False).T[2:]
    assert ((ux * vy - uy * vx) < 0).mean() == pytest.approx(0.5, abs=0.04)
    counts, _ = np.histogram(np.arctan2(-vx, vy), bins=8, range=(-np.pi, np.pi))
    np.testing.assert_allclose(counts / COUNT, 1 / 8, atol=0.03)


def test_light_keeps_shape_and_range() -> None:
    pictures = np.random.default_rng(2).uniform(0, 255, (16, *PICTURE, 3)).astype(np.float32)
    pictures[:2], pictures[2:4] = 0, 255
    found = light(pictures)
    assert found.shape == pictures.shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 255
    assert abs(found - pictures)[4:].mean() > 3


def test_a_pale_bottle_stays_pale_and_a_pigmented_one_pigmented() -> None:
    pale, pigmented = saturation(light(plain((128, 128, 128)))), saturation(light(plain((190, 60, 60))))
    assert np.median(pale) < 0.15
    assert pale.max() < 0.40
    assert np.median(pigmented) == pytest.approx(1 - 60 / 190, abs=0.08)
    assert pigmented.min() > 0.40


def test_occlusion_never_touches_an_end(only_occlusion: None) -> None:
    # A blur changes a ramp only in its outer columns, and a hidden part gets the ramp's mean, 127.5.
    height, width = PICTURE
    ramp = np.linspace(40, 215, width, dtype=np.float32)
    pictures = np.broadcast_to(ramp[None, None, :, None], (400, *PICTURE, 3)).copy()
    changed = np.asarray(abs(light(pictures) - pictures) > 0.05).any(axis=3)[:, :, 1:-1]
    assert not changed[:, : height // 4].any()
    assert not changed[:, -(height // 4) :].any()
    hidden = changed.any(axis=(1, 2))
    assert hidden.mean() == pytest.approx(0.25, abs=0.08)
    assert changed.any(axis=2).sum(axis=1).max() <= height / 6 + 1
    assert changed.any(axis=1).sum(axis=1).max() <= width / 6 + 1
    assert changed.any(axis=2).any(axis=0)[height // 4 + 2 : -(height // 4) - 2].all(), "some rows are never hidden"


def test_nothing_is_hidden_if_the_ends_of_the_bottle_are_unknown(only_occlusion: None) -> None:
    pictures = np.broadcast_to(
        np.linspace(40, 215, 64, dtype=np.float32)[None, None, :, None], (60, *PICTURE, 3)
    ).copy()
    assert abs(light(pictures) - pictures)[:, :, 1:-1].max() > 1
    assert abs(light(pictures, upright=False) - pictures)[:, :, 1:-1].max() < 0.05


def test_a_hidden_part_gets_the_mean_of_the_picture(only_occlusion: None) -> None:
    pictures = np.broadcast_to(
        np.linspace(40, 215, 64, dtype=np.float32)[None, None, :, None], (60, *PICTURE, 3)
    ).copy()
    found = light(pictures)
    changed = np.asarray(abs(found - pictures) > 0.05)
    changed[:, :, [0, -1]] = False
    assert changed.any()
    np.testing.assert_allclose(found[changed], 127.5, atol=0.5)
