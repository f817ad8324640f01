"""Other pictures of the same bottle: what a camera, a belt or the finder could have done differently, nothing more.

In: views and pixels. Out: views and pixels. Nothing here changes what is true of a bottle:

    flips, turns, shifts, sizes    of the view, small enough that the bottle's ends, where caps are, stay in it
    light, contrast, colour cast, saturation    a pale bottle stays pale: far less than a pigment does
    blur, noise                    a cap stays a cap
    occlusion                      one grey patch, a sixth of the picture each way, in the middle half of the length:
                                   too small to hide a strip, and never over an end; only of upright bottles, as
                                   nobody knows where the ends of others are

All random numbers come from a generator that is given, so that a seed reproduces a run.
"""

from __future__ import annotations

from typing import Any

from model_store.runtime.tensorflow_imports import import_tensorflow

# Standard deviations, by trial on the bottle frames; half or twice as much was no better.
_TURN_RAD = 0.14
_LOG_SIZE = 0.10
_LOG_ASPECT = 0.06
_SHIFT = 0.05  # of half the view's height
_LOG_GAMMA = 0.20
_LOG_LIGHT = 0.15
_LOG_CAST = 0.06
_LOG_CONTRAST = 0.15
_LOG_SATURATION = 0.15
_MOST_NOISE = 0.04  # of full scale; uniform from 0
_OCCLUDED_SHARE = 0.25  # of the pictures
_PATCH = 1 / 6


def generator(seed: int) -> Any:
    """The source of random numbers of one run."""
    return import_tensorflow().random.Generator.from_seed(seed)


def other_views(views: Any, random: Any, *, upside_down: bool) -> Any:
    """Views [N, 6] a little turned, shifted, stretched, half of them mirrored.

    `upside_down`: half of them turned around too, where which end is up means nothing.
    """
    tf = import_tensorflow()
    count = tf.shape(views)[0]

    def normal(deviation: float) -> Any:
        return random.normal([count], stddev=deviation)

    def sign() -> Any:
        return tf.where(random.uniform([count]) < 0.5, -1.0, 1.0)

    cx, cy, ux, uy, vx, vy = tf.unstack(views, 6, axis=1)
    turn, size, aspect = normal(_TURN_RAD), tf.exp(normal(_LOG_SIZE)), tf.exp(normal(_LOG_ASPECT))
    cosine, sine = tf.cos(turn) * size, tf.sin(turn) * size
    across, down = aspect * sign(), (sign() if upside_down else 1.0) / aspect
    reach = tf.sqrt(vx * vx + vy * vy)
    return tf.stack(
        [
            cx + normal(_SHIFT) * reach,
            cy + normal(_SHIFT) * reach,
            (cosine * ux - sine * uy) * across,
            (sine * ux + cosine * uy) * across,
            (cosine * vx - sine * vy) * down,
            (sine * vx + cosine * vy) * down,
        ],
        axis=1,
    )


def other_light(pixels: Any, random: Any, *, upright: bool) -> Any:
    """Pixels float32 [N, h, w, 3] from 0 to 255 in another light, by another sensor.

    `upright`: the bottles fill the pictures from end to end, and now and then a part in between is hidden.
    """
    tf = import_tensorflow()
    count = tf.shape(pixels)[0]

    def factor(deviation: float, channels: int = 1) -> Any:
        return tf.exp(random.normal([count, 1, 1, channels], stddev=deviation))

    x = tf.pow(tf.clip_by_value(pixels / 255.0, 1e-4, 1.0), factor(_LOG_GAMMA))
    x = x * factor(_LOG_LIGHT) * factor(_LOG_CAST, channels=3)
    mean = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
    x = mean + (x - mean) * factor(_LOG_CONTRAST)
    grey = tf.reduce_mean(x, axis=3, keepdims=True)
    x = grey + (x - grey) * factor(_LOG_SATURATION)
    x = _blurred(x, random)
    if upright:
        x = _occluded(x, random)
    x = x + random.normal(tf.shape(x)) * random.uniform([count, 1, 1, 1], maxval=_MOST_NOISE)
    return tf.clip_by_value(x, 0.0, 1.0) * 255.0


def _blurred(x: Any, random: Any) -> Any:
    """Half of the pictures mixed with their mean over 3 x 3 pixels, by any share."""
    tf = import_tensorflow()
    share = tf.maximum(random.uniform([tf.shape(x)[0], 1, 1, 1], minval=-1.0), 0.0)
    return x + (tf.nn.avg_pool2d(x, 3, 1, "SAME") - x) * share


def _occluded(x: Any, random: Any) -> Any:
    tf = import_tensorflow()
    count, height, width = tf.shape(x)[0], x.shape[1], x.shape[2]
    middle_y = random.uniform([count, 1, 1, 1], minval=0.25 + _PATCH / 2, maxval=0.75 - _PATCH / 2)
    middle_x = random.uniform([count, 1, 1, 1])
    y = ((tf.range(height, dtype=tf.float32) + 0.5) / height)[None, :, None, None]
    across = ((tf.range(width, dtype=tf.float32) + 0.5) / width)[None, None, :, None]
    hidden = (tf.abs(y - middle_y) < _PATCH / 2) & (tf.abs(across - middle_x) < _PATCH / 2)
    hidden &= random.uniform([count, 1, 1, 1]) < _OCCLUDED_SHARE
    return tf.where(hidden, tf.reduce_mean(x, axis=[1, 2], keepdims=True), x)
