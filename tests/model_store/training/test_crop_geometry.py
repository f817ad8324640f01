"""Crops compared with pixels moved by hand, PIL's affine transform, and bars drawn by formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model_store.runtime.native_output import quiet_native
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.crop_geometry import (
    UPRIGHT_SIZE,
    CropSize,
    crop_frames,
    full_frame_transforms,
    upright_transforms,
)

pytestmark = pytest.mark.training

SIZE_PX = 40
SQUARE = CropSize(SIZE_PX, SIZE_PX)
FRAME = np.random.default_rng(1).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
# Half length and half width of a drawn bar, in fractions of the frame.
LONG, SHORT = 0.3, 0.05
# Constants of `upright_transforms`: 2.1 standard deviations, a tenth more in width, 3e-4 added to each variance.
REACH, SIDE, LEAST = 2.1, 1.1, 3e-4
ANGLES_DEG = (0, 1, 20, 45, 70, 89, 90, 91, 110, 135, 160, -45, 179)


def pixels(transform: list[float], size: CropSize = SQUARE, frame: NDArray[np.uint8] = FRAME) -> NDArray[np.float32]:
    found = crop_frames(import_tensorflow().constant(frame[None]), np.array([transform], np.float32), size)
    return np.asarray(found[0], np.float32)


def bar(angle_deg: float, *, long: float = LONG, short: float = SHORT, size: int = 64) -> NDArray[np.float32]:
    """Heatmap [1, size, size] of a bar centered on (0.55, 0.45): the share of each cell that the bar covers."""
    fine = size * 8
    at = (np.arange(fine) + 0.5) / fine
    dx, dy = at[None, :] - 0.55, at[:, None] - 0.45
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    hit = (abs(dx * cosine + dy * sine) < long) & (abs(-dx * sine + dy * cosine) < short)
    return np.asarray(hit.reshape(1, size, 8, size, 8).mean(axis=(2, 4)), np.float32)


def crop_of(heatmap: NDArray[np.float32], size: CropSize = UPRIGHT_SIZE) -> tuple[NDArray[np.float64], ...]:
    """The crop's center, u and v."""
    row = np.asarray(upright_transforms(import_tensorflow().constant(heatmap), size), np.float64)[0]
    return row[:2], row[2:4], row[4:]


def determinant(u: NDArray[np.float64], v: NDArray[np.float64]) -> float:
    return float(u[0] * v[1] - u[1] * v[0])


def test_the_full_frame_at_its_own_size_is_the_frame() -> None:
    found = crop_frames(import_tensorflow().constant(FRAME[None]), full_frame_transforms(1), SQUARE)
    np.testing.assert_allclose(found[0], FRAME, atol=0.01)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ([0.5, 0.5, -0.5, 0, 0, 0.5], FRAME[:, ::-1]),
        ([0.5, 0.5, 0.5, 0, 0, -0.5], FRAME[::-1]),
        ([0.5, 0.5, 0, 0.5, -0.5, 0], np.rot90(FRAME, 1)),
        ([0.5, 0.5, 0, -0.5, 0.5, 0], np.rot90(FRAME, -1)),
        ([0.5, 0.5, -0.5, 0, 0, -0.5], np.rot90(FRAME, 2)),
        ([0.5, 0.5, 0, 0.5, 0.5, 0], FRAME.transpose(1, 0, 2)),
    ],
    ids=["mirrored", "upside down", "left turned up", "right turned up", "turned around", "transposed"],
)
def test_turned_and_mirrored_crops(transform: list[float], expected: NDArray[np.uint8]) -> None:
    np.testing.assert_allclose(pixels(transform), expected, atol=0.01)


def test_a_shifted_crop_repeats_the_border_beyond_it() -> None:
    shifted = pixels([0.5 + 6 / SIZE_PX, 0.5 - 9 / SIZE_PX, 0.5, 0, 0, 0.5])
    edged = np.pad(FRAME, ((9, 0), (0, 6), (0, 0)), mode="edge")
    np.testing.assert_allclose(shifted, edged[:SIZE_PX, 6:], atol=0.01)


def test_a_crop_far_outside_shows_the_corner() -> None:
    np.testing.assert_allclose(pixels([3, 3, 0.5, 0, 0, 0.5]), np.broadcast_to(FRAME[-1, -1], FRAME.shape), atol=0.01)


def test_a_crop_shifted_by_a_part_of_a_pixel_interpolates() -> None:
    shifted = pixels([0.5 + 0.25 / SIZE_PX, 0.5, 0.5, 0, 0, 0.5])
    whole = FRAME.astype(float)
    np.testing.assert_allclose(shifted[:, :-1], 0.75 * whole[:, :-1] + 0.25 * whole[:, 1:], atol=0.01)


def test_a_crop_equals_pils_affine_transform() -> None:
    size = CropSize(30, 22)
    cx, cy, ux, uy, vx, vy = transform = [0.52, 0.47, 0.13, 0.09, -0.14, 0.21]
    affine = (
        2 * ux * SIZE_PX / size.width_px,
        2 * vx * SIZE_PX / size.height_px,
        (cx - ux - vx) * SIZE_PX,
        2 * uy * SIZE_PX / size.width_px,
        2 * vy * SIZE_PX / size.height_px,
        (cy - uy - vy) * SIZE_PX,
    )
    pil_size = (size.width_px, size.height_px)
    expected = [
        np.asarray(
            Image.fromarray(FRAME[..., channel].astype(np.float32)).transform(
                pil_size, Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR
            )
        )
        for channel in range(3)
    ]
    np.testing.assert_allclose(pixels(transform, size), np.stack(expected, axis=-1), atol=0.05)


def test_each_frame_has_its_own_crop() -> None:
    other = FRAME[::-1].copy()
    transforms = np.array([[0.5, 0.5, -0.5, 0, 0, 0.5], [0.5, 0.5, 0.5, 0, 0, 0.5]], np.float32)
    found = crop_frames(import_tensorflow().constant(np.stack([FRAME, other])), transforms, SQUARE)
    np.testing.assert_allclose(found, np.stack([FRAME[:, ::-1], other]), atol=0.01)


@pytest.mark.parametrize("angle_deg", ANGLES_DEG)
def test_a_bar_of_any_angle_is_set_upright(angle_deg: float) -> None:
    center, u, v = crop_of(bar(angle_deg))
    height, width = np.hypot(*v), np.hypot(*u)
    np.testing.assert_allclose(center, (0.55, 0.45), atol=2e-3)
    axis = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    assert abs(v @ axis) / height == pytest.approx(1.0, abs=1e-4)
    assert u @ v == pytest.approx(0.0, abs=1e-6)
    assert determinant(u, v) > 0, "the crop is mirrored"
    assert height == pytest.approx(REACH * np.sqrt(LONG**2 / 3 + LEAST), rel=0.01)
    assert width / height == pytest.approx(128 / 192, rel=1e-4)


@pytest.mark.parametrize("angle_deg", ANGLES_DEG)
def test_the_cropped_bar_stands_upright(angle_deg: float) -> None:
    tf = import_tensorflow()
    heatmap = bar(angle_deg, size=160)
    frame = np.repeat((heatmap * 255).round().astype(np.uint8)[..., None], 3, axis=-1)
    transforms = upright_transforms(tf.constant(heatmap), UPRIGHT_SIZE)
    seen = np.asarray(crop_frames(tf.constant(frame), transforms, UPRIGHT_SIZE))[0, ..., 0] / 255
    reach = REACH * np.sqrt(LONG**2 / 3 + LEAST)
    rows, columns = seen.mean(axis=1), seen.mean(axis=0)
    assert (rows > columns.max() / 20).mean() == pytest.approx(LONG / reach, abs=0.03)
    assert (columns > columns.max() / 2).mean() == pytest.approx(SHORT / (reach * 128 / 192), abs=0.03)
    assert abs(np.flatnonzero(columns > columns.max() / 2).mean() - 63.5) < 1.5


def test_a_thick_bar_gets_a_crop_for_its_width() -> None:
    _, u, v = crop_of(bar(30, long=0.2, short=0.19))
    assert np.hypot(*v) == pytest.approx(REACH * SIDE * np.sqrt(0.19**2 / 3 + LEAST) * 1.5, rel=0.02)
    assert np.hypot(*u) == pytest.approx(REACH * SIDE * np.sqrt(0.19**2 / 3 + LEAST), rel=0.02)


@pytest.mark.parametrize("warmth", [0.0, 1.0, 1e4])
def test_a_flat_heatmap_gives_a_crop_of_the_middle(warmth: float) -> None:
    center, u, v = crop_of(np.full((1, 16, 16), warmth, np.float32))
    np.testing.assert_allclose(center, 0.5, atol=1e-4)
    assert 0.3 < np.hypot(*v) < 1.1
    assert 0.3 < np.hypot(*u) < 1.1
    assert determinant(u, v) > 0


def test_a_single_warm_cell_gives_a_small_crop() -> None:
    heatmap = np.zeros((1, 16, 16), np.float32)
    heatmap[0, 4, 9] = 5
    center, u, v = crop_of(heatmap)
    np.testing.assert_allclose(center, (9.5 / 16, 4.5 / 16), atol=2e-3)
    assert 0.02 < np.hypot(*u) < np.hypot(*v) < 0.15


def test_litert_crops_the_same() -> None:
    tf = import_tensorflow()
    from ai_edge_litert.interpreter import Interpreter

    size = CropSize(24, 16)

    def crop(frames: Any, heatmap: Any) -> Any:
        return crop_frames(frames, upright_transforms(heatmap, size), size)

    module = tf.Module()
    module.crop = tf.function(
        crop,
        input_signature=[
            tf.TensorSpec([None, SIZE_PX, SIZE_PX, 3], tf.uint8, "frames"),
            tf.TensorSpec([None, 64, 64], tf.float32, "heatmap"),
        ],
    )
    with quiet_native():
        convert = tf.lite.TFLiteConverter.from_concrete_functions([module.crop.get_concrete_function()], module)
        model = convert.convert()
        interpreter = Interpreter(model_content=model)
    for angles in ((0, 45, -45, 90), (17,)):
        heatmap = np.concatenate([bar(angle) for angle in angles])
        frames = np.random.default_rng(len(angles)).integers(0, 256, (len(angles), *FRAME.shape), dtype=np.uint8)
        for detail in interpreter.get_input_details():
            is_heatmap = len(detail["shape"]) == 3
            interpreter.resize_tensor_input(detail["index"], (heatmap if is_heatmap else frames).shape)
        with quiet_native():
            interpreter.allocate_tensors()
        for detail in interpreter.get_input_details():
            interpreter.set_tensor(detail["index"], heatmap if len(detail["shape"]) == 3 else frames)
        interpreter.invoke()
        answer = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        # In fractions of full scale.
        np.testing.assert_allclose(answer / 255, np.asarray(module.crop(frames, heatmap)) / 255, atol=1e-4)


def test_rounding_does_not_turn_the_crop() -> None:
    """TensorFlow and LiteRT round differently. A covariance of 0 but for rounding must not decide which end is up."""
    nothing = np.zeros((1, 16, 16), np.float32)
    upright = np.zeros((1, 16, 16), np.float32)
    upright[0, 3:13, 7:9] = 1
    for heatmap, faint in ((nothing, 1e-11), (upright, 1e-6)):
        leaning = heatmap.copy()
        leaning[0, 2, 6] += faint  # a little to one side, and its mirror image to the other
        for before, after in zip(crop_of(leaning), crop_of(leaning[:, :, ::-1]), strict=True):
            np.testing.assert_allclose(after, before, atol=5e-3)  # of about 0.5
