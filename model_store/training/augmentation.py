"""Augmentation: varies a picture of a bottle only in ways that a camera, a belt or the localizer could.

In: crop transforms and pixels. Out: crop transforms and pixels. Nothing here changes the true labels of a bottle:

    flips, turns, shifts, sizes    of the crop; small enough that the bottle's ends, where caps are, stay inside it.
                                   A full frame is turned by any angle: bottles lie on a belt in any direction
    light, contrast, color cast, saturation    a pale bottle stays pale: the change is far smaller than a pigment's
    blur, noise                    a cap stays visible
    occlusion                      one gray patch, a sixth of the picture in each direction, in the middle half of the
                                   length: too small to hide a strip, and never over an end. Only for upright bottles,
                                   because the position of the ends is unknown for others

All random numbers come from a given generator, so a seed reproduces a run.
"""

from __future__ import annotations

import math
from typing import Any

from model_store.runtime.tensorflow_imports import import_tensorflow

# Standard deviations, found by trial on the bottle frames; half or twice as much was no better.
_TURN_RAD = 0.14  # of upright crops
_LOG_SIZE = 0.10
_LOG_ASPECT = 0.06
_SHIFT = 0.05  # of half the crop's height
_LOG_GAMMA = 0.20
_LOG_LIGHT = 0.15
_LOG_CAST = 0.06
_LOG_CONTRAST = 0.15
_LOG_SATURATION = 0.15
_MAX_NOISE = 0.04  # of full scale; uniform from 0
_OCCLUDED_SHARE = 0.25  # of the pictures
_PATCH = 1 / 6


def random_generator(seed: int) -> Any:
    """The source of random numbers of one run."""
    return import_tensorflow().random.Generator.from_seed(seed)


def augment_transforms(transforms: Any, random: Any, *, upright: bool) -> Any:
    """Crop transforms [N, 6], each turned, shifted and stretched a little, half of them mirrored.

    `upright`: the crops show upright bottles, with either end up: they are turned a little, and half of them by 180
    degrees. Other crops are turned by any angle. On frames with other belts than in training (200 of the bottle frames,
    trained on 160, EfficientNet-Lite0, full frames) that raised the defects' macro F1 from 0.89 to 0.92.
    """
    tf = import_tensorflow()
    count = tf.shape(transforms)[0]

    def normal(deviation: float) -> Any:
        return random.normal([count], stddev=deviation)

    def sign() -> Any:
        return tf.where(random.uniform([count]) < 0.5, -1.0, 1.0)

    cx, cy, ux, uy, vx, vy = tf.unstack(transforms, 6, axis=1)
    turn = normal(_TURN_RAD) if upright else random.uniform([count], minval=-math.pi, maxval=math.pi)
    size, aspect = tf.exp(normal(_LOG_SIZE)), tf.exp(normal(_LOG_ASPECT))
    cosine, sine = tf.cos(turn) * size, tf.sin(turn) * size
    across, down = aspect * sign(), (sign() if upright else 1.0) / aspect
    half_height = tf.sqrt(vx * vx + vy * vy)
    return tf.stack(
        [
            cx + normal(_SHIFT) * half_height,
            cy + normal(_SHIFT) * half_height,
            (cosine * ux - sine * uy) * across,
            (sine * ux + cosine * uy) * across,
            (cosine * vx - sine * vy) * down,
            (sine * vx + cosine * vy) * down,
        ],
        axis=1,
    )


def augment_pixels(pixels: Any, random: Any, *, upright: bool) -> Any:
    """Pixels float32 [N, h, w, 3] from 0 to 255, changed as if taken in another light by another sensor.

    `upright`: the bottles stand upright and fill the pictures from end to end; then some pictures get an occlusion.
    """
    tf = import_tensorflow()
    count = tf.shape(pixels)[0]

    def factor(deviation: float, channels: int = 1) -> Any:
        return tf.exp(random.normal([count, 1, 1, channels], stddev=deviation))

    x = tf.pow(tf.clip_by_value(pixels / 255.0, 1e-4, 1.0), factor(_LOG_GAMMA))
    x = x * factor(_LOG_LIGHT) * factor(_LOG_CAST, channels=3)
    mean = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
    x = mean + (x - mean) * factor(_LOG_CONTRAST)
    gray = tf.reduce_mean(x, axis=3, keepdims=True)
    x = gray + (x - gray) * factor(_LOG_SATURATION)
    x = _blur(x, random)
    if upright:
        x = _occlude(x, random)
    x = x + random.normal(tf.shape(x)) * random.uniform([count, 1, 1, 1], maxval=_MAX_NOISE)
    return tf.clip_by_value(x, 0.0, 1.0) * 255.0


def _blur(x: Any, random: Any) -> Any:
    """Mix half of the pictures with their mean over 3 x 3 pixels, each by a random share."""
    tf = import_tensorflow()
    share = tf.maximum(random.uniform([tf.shape(x)[0], 1, 1, 1], minval=-1.0), 0.0)
    return x + (tf.nn.avg_pool2d(x, 3, 1, "SAME") - x) * share


def _occlude(x: Any, random: Any) -> Any:
    """Put the gray patch into some of the pictures."""
    tf = import_tensorflow()
    count, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    middle_y = random.uniform([count, 1, 1, 1], minval=0.25 + _PATCH / 2, maxval=0.75 - _PATCH / 2)
    middle_x = random.uniform([count, 1, 1, 1])
    y = ((tf.range(height, dtype=tf.float32) + 0.5) / height)[None, :, None, None]
    across = ((tf.range(width, dtype=tf.float32) + 0.5) / width)[None, None, :, None]
    hidden = (tf.abs(y - middle_y) < _PATCH / 2) & (tf.abs(across - middle_x) < _PATCH / 2)
    hidden &= random.uniform([count, 1, 1, 1]) < _OCCLUDED_SHARE
    return tf.where(hidden, tf.reduce_mean(x, axis=[1, 2], keepdims=True), x)
