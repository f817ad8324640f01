"""The localizer on drawn bottles that it has not seen, and its arithmetic compared with slower methods."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from model_store.backbones.keras_graphs import Network
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.crop_geometry import CropSize, upright_transforms
from model_store.training.feature_extractor import graph_extractor
from model_store.training.object_localizer import ObjectLocalizer, Regression, otsu_threshold, resize_frames
from tests.model_store.tiny_network import Bottle, Sample, inside_bottle, sample

pytestmark = pytest.mark.training

SIZE_PX = 192
CROP_SIZE = CropSize(192, 128)
GRAY_BELT = np.array([90.0, 80.0, 70.0])


def samples(count: int, *, seed: int, belt: NDArray[np.float64] | None = None) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [sample(rng, size_px=SIZE_PX, belt_color=belt) for _ in range(count)]


def frames(of: Sequence[Sample]) -> NDArray[np.uint8]:
    return np.stack([one.frame for one in of])


def heatmap(network: Network, localizer: ObjectLocalizer, of: Sequence[Sample]) -> NDArray[np.float32]:
    locate = network.up_to(network.architecture.localizer_layer)
    return np.asarray(
        localizer.heatmap(
            locate(resize_frames(import_tensorflow().constant(frames(of)), network.architecture), training=False)
        )
    )


def covered(transform: NDArray[np.float64], *, size: int = 128) -> NDArray[np.bool_]:
    """The cells of a size x size raster inside a crop transform."""
    at = (np.arange(size) + 0.5) / size
    dx, dy = at[None, :] - transform[0], at[:, None] - transform[1]
    s, t = (dx * transform[a] + dy * transform[b] for a, b in ((2, 3), (4, 5)))
    return np.asarray(
        (abs(s) < transform[2] ** 2 + transform[3] ** 2) & (abs(t) < transform[4] ** 2 + transform[5] ** 2)
    )


def drawn(bottle: Bottle) -> NDArray[np.float32]:
    return inside_bottle(bottle, 128)[None].astype(np.float32)


def overlaps(network: Network, localizer: ObjectLocalizer, of: Sequence[Sample]) -> NDArray[np.float64]:
    """Intersection over union of the detected crop and the crop of the bottle as drawn."""
    tf = import_tensorflow()
    found = np.asarray(upright_transforms(tf.constant(heatmap(network, localizer, of)), CROP_SIZE), np.float64)
    right = [np.asarray(upright_transforms(tf.constant(drawn(one.bottle)), CROP_SIZE), np.float64)[0] for one in of]
    pairs = [(covered(a), covered(b)) for a, b in zip(found, right, strict=True)]
    return np.array([(a & b).sum() / (a | b).sum() for a, b in pairs])


@pytest.mark.parametrize(
    ("belt", "well_found"),
    [pytest.param(GRAY_BELT, 0.75, id="one belt"), pytest.param(None, 0.5, id="another color in each frame")],
)
def test_bottles_that_it_has_not_seen_are_detected(
    tiny_network: Network, belt: NDArray[np.float64] | None, well_found: float
) -> None:
    told: list[int] = []
    localizer = ObjectLocalizer.fit(tiny_network, frames(samples(80, seed=1, belt=belt)), on_progress=told.append)
    assert sum(told) == 80
    held_out = samples(16, seed=2, belt=belt)
    found = heatmap(tiny_network, localizer, held_out)
    at = (np.arange(found.shape[1]) + 0.5) / found.shape[1]
    away_cells = []
    for one, cells in zip(held_out, found, strict=True):
        share = cells / cells.sum()
        center = (share.sum(axis=0) @ at, share.sum(axis=1) @ at)
        away_cells.append(np.hypot(center[0] - one.bottle.x, center[1] - one.bottle.y) * len(at))
    assert np.median(away_cells) < 1.5
    assert max(away_cells) < 3.5
    assert (overlaps(tiny_network, localizer, held_out) > 0.5).mean() >= well_found


def test_one_frame_is_enough_to_fit(tiny_network: Network) -> None:
    one = samples(1, seed=4, belt=GRAY_BELT)
    localizer = ObjectLocalizer.fit(tiny_network, frames(one), on_progress=lambda count: None)
    assert np.isfinite(localizer.kernel).all()
    assert overlaps(tiny_network, localizer, one)[0] > 0.35


def test_an_extractor_sets_the_detected_bottle_upright(tiny_network: Network) -> None:
    localizer = ObjectLocalizer.fit(
        tiny_network, frames(samples(24, seed=1, belt=GRAY_BELT)), on_progress=lambda count: None
    )
    extractor = graph_extractor(tiny_network, localizer=localizer)
    held_out = samples(8, seed=3, belt=GRAY_BELT)
    transforms = np.asarray(extractor.crop_transforms(import_tensorflow().constant(frames(held_out))))
    askew = [
        abs(transform[4] * np.cos(one.bottle.angle_rad) + transform[5] * np.sin(one.bottle.angle_rad))
        / np.hypot(*transform[4:])
        for one, transform in zip(held_out, transforms, strict=True)
    ]
    assert np.median(askew) > np.cos(np.radians(15))


@pytest.mark.parametrize("seed", range(5))
def test_otsus_threshold_minimizes_the_variance_within_both_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(2, 1, 60), rng.normal(6 + seed, 1.5, 25)])
    threshold = otsu_threshold(values)

    def left(at: float) -> float:
        sides = values[values <= at], values[values > at]
        return float(sum(side.var() * len(side) for side in sides if len(side)))

    best = min(left(at) for at in np.sort(values)[:-1])
    assert left(threshold) == pytest.approx(best, rel=1e-9)


def test_the_regression_equals_weighted_least_squares() -> None:
    rng = np.random.default_rng(8)
    maps = rng.normal(0, 1, (6, 5, 5, 7)) * rng.uniform(0.1, 4, 7) + rng.normal(0, 3, 7)
    share = np.clip(maps[..., 0] / 4 + rng.normal(0, 0.3, maps.shape[:3]), 0, 1)
    regression = Regression()
    for part in (slice(0, 2), slice(2, 6)):
        regression.add(maps[part], share[part])
    solved = regression.solve()

    # Each cell counts twice, as belt (-1) and as bottle (1); the weights of each side add up to a half.
    rows, bottle = np.concatenate([maps.reshape(-1, 7)] * 2), share.ravel()
    weights = np.concatenate([(1 - bottle) / (1 - bottle).sum(), bottle / bottle.sum()]) / 2
    labels = np.repeat([-1.0, 1.0], bottle.size)
    mean = weights @ rows
    deviation = np.sqrt(weights @ (rows - mean) ** 2)
    scale = deviation + 0.05 * np.sqrt((deviation**2).mean())
    root = np.sqrt(weights)[:, None]
    design = np.concatenate([root * (rows - mean) / scale, np.sqrt(0.01) * np.eye(7)])
    answer = np.concatenate([root[:, 0] * labels, np.zeros(7)])
    kernel = np.linalg.lstsq(design, answer, rcond=None)[0] / scale
    np.testing.assert_allclose(solved.kernel, kernel, rtol=1e-4, atol=1e-7)
    assert solved.bias == pytest.approx(float(-mean @ kernel), rel=1e-4)


def test_the_heatmap_is_the_positive_part_of_the_linear_layer() -> None:
    maps = np.random.default_rng(3).normal(0, 1, (2, 4, 5, 6)).astype(np.float32)
    localizer = ObjectLocalizer(np.linspace(-1, 1, 6, dtype=np.float32), 0.2)
    expected = np.maximum(maps @ localizer.kernel + 0.2, 0)
    np.testing.assert_allclose(localizer.heatmap(import_tensorflow().constant(maps)), expected, atol=1e-5)
