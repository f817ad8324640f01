"""A MobileNetV2 with random weights and a thirtieth of the real one's work, and bottles drawn by formula."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.backbones.module_saving import save_module, unit_to_signed_unit
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.tensorflow_imports import import_keras
from model_store.training.fine_tuning import Frames

ALPHA = 0.35
SIZE_PX = 96
# A tall bottle's half length and half width, in fractions of the frame.
HALF_LENGTH, HALF_WIDTH = 0.26, 0.09


def tiny_graph(*, seed: int = 11) -> Any:
    """The Keras graph. It is untrained, but its features depend on the color at each place.

    Its depthwise kernels have most of their weight at the center: dozens of random kernels in a row would leave only
    noise and the frame's border. Its batch normalizations get their statistics from pictures of belts: with means of 0
    and variances of 1, hardly any signal would pass.
    """
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    graph = keras.applications.MobileNetV2(
        alpha=ALPHA, include_top=False, pooling="avg", weights=None, input_shape=(SIZE_PX, SIZE_PX, 3)
    )
    rng = np.random.default_rng(seed)
    for layer in graph.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            (kernel,) = layer.get_weights()
            kernel *= 0.1
            kernel[1, 1] += 1.0
            layer.set_weights([kernel])
    normalizations = [layer for layer in graph.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in normalizations:
        gamma, beta, *statistics = layer.get_weights()
        drawn = rng.uniform(0.8, 1.2, gamma.shape), rng.normal(0.3, 0.3, beta.shape)
        layer.set_weights([*drawn, *statistics])
        layer.momentum = 0.0  # so that one pass sets the statistics
    graph(
        np.stack([sample(rng, size_px=SIZE_PX).frame / 127.5 - 1 for _ in range(24)]).astype(np.float32), training=True
    )
    return graph


def save_tiny_network(folder: Path) -> Path:
    """Save `tiny_graph` as a TF-Hub module."""
    save_module(tiny_graph(), folder, ProgressSteps(), size_px=SIZE_PX, from_unit=unit_to_signed_unit)
    return folder


class Bottle(NamedTuple):
    """Where a bottle lies: its center in fractions of the frame, and its long axis' angle from the x axis downwards."""

    x: float
    y: float
    angle_rad: float


def inside_bottle(bottle: Bottle, size_px: int, *, scale: float = 1.0) -> NDArray[np.bool_]:
    """The pixels of a rectangle along the bottle's axis, bool [S, S], `scale` times as long and wide as the bottle."""
    at = (np.arange(size_px) + 0.5) / size_px
    dx, dy = at[None, :] - bottle.x, at[:, None] - bottle.y
    cosine, sine = np.cos(bottle.angle_rad), np.sin(bottle.angle_rad)
    along, beside = dx * cosine + dy * sine, -dx * sine + dy * cosine
    return np.asarray((abs(along) < HALF_LENGTH * scale) & (abs(beside) < HALF_WIDTH * scale))


def belt(rng: np.random.Generator, size_px: int, color: NDArray[np.float64]) -> NDArray[np.float64]:
    """A striped, noisy conveyor belt, float [S, S, 3]."""
    stripes = 12 * np.sin(np.arange(size_px) * rng.uniform(0.15, 0.3) + rng.uniform(0, 6))
    return np.asarray(color + stripes[None, :, None] + rng.normal(0, 6, (size_px, size_px, 1)))


def frame_of(
    rng: np.random.Generator,
    bottle: Bottle,
    *,
    size_px: int,
    belt_color: NDArray[np.float64],
    color: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """A frame, uint8 [S, S, 3]: a bottle of one color with a lighter gleam along its middle, on a belt."""
    pixels = belt(rng, size_px, belt_color)
    hit = inside_bottle(bottle, size_px)
    pixels[hit] = color + rng.normal(0, 6, (int(hit.sum()), 1))
    pixels[inside_bottle(bottle, size_px, scale=0.4)] += 40
    return np.clip(pixels, 0, 255).astype(np.uint8)


class Sample(NamedTuple):
    """A frame, uint8 [S, S, 3], and the bottle in it."""

    frame: NDArray[np.uint8]
    bottle: Bottle


def sample(
    rng: np.random.Generator,
    *,
    size_px: int,
    belt_color: NDArray[np.float64] | None = None,
    color: NDArray[np.float64] | None = None,
) -> Sample:
    """A bottle anywhere in a frame, at any angle; colors that aren't given are random."""
    bottle = Bottle(rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), rng.uniform(0, np.pi))
    drawn_belt, drawn = rng.uniform(30, 120, 3), rng.uniform(130, 230, 3)
    frame = frame_of(
        rng,
        bottle,
        size_px=size_px,
        belt_color=drawn_belt if belt_color is None else belt_color,
        color=drawn if color is None else color,
    )
    return Sample(frame, bottle)


# Of `single`'s three classes, in their order: bottles that can be told apart without a localizer.
COLORS = np.array([[80.0, 220.0, 80.0], [220.0, 70.0, 70.0], [90.0, 90.0, 230.0]])


def colored_frames(count: int, *, seed: int, size_px: int) -> Frames:
    """Frames of green, red and blue bottles in turn on a gray belt, with their classes."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(count) % 3
    gray = np.array([90.0, 85.0, 80.0])
    images = [sample(rng, size_px=size_px, belt_color=gray, color=COLORS[kind]).frame for kind in kinds]
    return Frames(np.stack(images), np.eye(3, dtype=np.float32)[kinds])
