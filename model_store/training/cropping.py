"""Which part of a frame a network looks at, how turned, and the pixels of it. One code for training and serving.

A view is six numbers in fractions of the frame, float32 [N, 6]: centre x, y; half of the view's width as a vector
u_x, u_y; half of its height v_x, v_y. The vectors need not lie along the frame's axes.

    (cx, cy) + s * u + t * v,  s and t from -1 to 1: left to right and top to bottom of what is cut out

Everything here is made of operations that LiteRT has too: it ends up in the exported model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from model_store.runtime.tensorflow_imports import import_tensorflow

# How far a view reaches from the bottle's centre, in standard deviations of where the finder sees bottle. A rod's ends
# lie 1.73 from its middle; the rest is for a finder that is a little off. Measured on the bottle frames' hand-drawn
# boxes: at 2.1 a box keeps 98 % of the bottle, at 1.8 88 %.
_REACH = 2.1
# Width against height of the bottle's own spread: a thin bottle gets some belt beside it.
_SIDE_REACH = 1.1
# Added to the spread in each direction, in fractions squared: a bottle in one cell of the map has a size all the same.
_LEAST_SPREAD = 3e-4


class Canvas(NamedTuple):
    """Size of what is cut out, pixels."""

    height_px: int
    width_px: int

    def __str__(self) -> str:
        return f"{self.height_px}x{self.width_px}"


# Bottles are two to four times as long as wide; some pixels fewer than 160 x 160, and as good as 224 x 144.
UPRIGHT = Canvas(192, 128)
SQUARE = Canvas(224, 224)


def whole_frame(count: Any) -> Any:
    """The views, [count, 6], that show all of each frame as it is."""
    tf = import_tensorflow()
    return tf.tile(tf.constant([[0.5, 0.5, 0.5, 0.0, 0.0, 0.5]], tf.float32), [count, 1])


def upright(heat: Any, canvas: Canvas) -> Any:
    """The views [N, 6] around what is warm in `heat`, float [N, H, W] >= 0, its long axis upright.

    Which end is up can't be told from this: training shows both.
    """
    tf = import_tensorflow()
    cx, cy, cxx, cyy, cxy = _moments(heat)
    # Eigenvalues and the first eigenvector of the covariance [[cxx, cxy], [cxy, cyy]], written out: LiteRT has no eigh.
    mean, half = (cxx + cyy) / 2, (cxx - cyy) / 2
    root = tf.sqrt(half * half + cxy * cxy + 1e-12)
    long, short = tf.sqrt(mean + root), tf.sqrt(tf.maximum(mean - root, 0.0) + 1e-12)
    # Half-angle formulas of the axis' double angle (cos = half / root, sin = cxy / root).
    axis_x = tf.sqrt(tf.maximum((1 + half / root) / 2, 0.0))
    axis_y = tf.sqrt(tf.maximum((1 - half / root) / 2, 0.0)) * tf.where(cxy < 0, -1.0, 1.0)
    height = tf.maximum(_REACH * long, _REACH * _SIDE_REACH * short * (canvas.height_px / canvas.width_px))
    width = height * (canvas.width_px / canvas.height_px)
    return tf.stack([cx, cy, axis_y * width, -axis_x * width, axis_x * height, axis_y * height], axis=1)


def cut(frames: Any, views: Any, canvas: Canvas) -> Any:
    """The views' pixels, float32 [N, height, width, 3] from 0 to 255, interpolated between the four nearest.

    Args:
        frames: uint8 [N, S, S, 3].
        views: [N, 6]. What reaches beyond the frame repeats its border.
    """
    tf = import_tensorflow()
    size_px = frames.shape[1]
    s = (tf.range(canvas.width_px, dtype=tf.float32) + 0.5) * (2.0 / canvas.width_px) - 1.0
    t = (tf.range(canvas.height_px, dtype=tf.float32) + 0.5) * (2.0 / canvas.height_px) - 1.0
    # Sliced, not unstacked: the int8 converter rounds what has several outputs, whatever it is told to keep. Reshaped,
    # not given axes by the slice: TensorFlow's optimiser puts slices of a stack aside, and forgets those.
    cx, cy, ux, uy, vx, vy = (tf.reshape(views[:, column], [-1, 1, 1]) for column in range(6))
    across, down = s[None, None, :], t[None, :, None]
    x = tf.clip_by_value((cx + across * ux + down * vx) * size_px - 0.5, 0.0, size_px - 1.0)
    y = tf.clip_by_value((cy + across * uy + down * vy) * size_px - 0.5, 0.0, size_px - 1.0)
    # The last row and column are reached from the one before, with the full weight.
    left, top = tf.minimum(tf.floor(x), size_px - 2.0), tf.minimum(tf.floor(y), size_px - 2.0)
    # Of three channels each, as LiteRT's broadcasting over the last axis takes longer than the arithmetic.
    channels = tf.ones([1, 1, 1, 3])
    right_share, bottom_share = (x - left)[..., None] * channels, (y - top)[..., None] * channels
    corner = tf.cast(top, tf.int32) * size_px + tf.cast(left, tf.int32)
    pixels = tf.reshape(tf.cast(frames, tf.float32), [-1, size_px * size_px, 3])

    def row(first: Any) -> Any:
        near = tf.gather(pixels, first, batch_dims=1)
        far = tf.gather(pixels, first + 1, batch_dims=1)
        return near + (far - near) * right_share

    upper = row(corner)
    return upper + (row(corner + size_px) - upper) * bottom_share


def _moments(heat: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Centre and covariance of where the heat is, in fractions of the frame, each [N]."""
    tf = import_tensorflow()
    rows, columns = heat.shape[1], heat.shape[2]
    weights = (heat + 1e-6) / tf.reduce_sum(heat + 1e-6, axis=[1, 2], keepdims=True)
    x = ((tf.range(columns, dtype=tf.float32) + 0.5) / columns)[None, None, :]
    y = ((tf.range(rows, dtype=tf.float32) + 0.5) / rows)[None, :, None]

    def mean(values: Any) -> Any:
        return tf.reduce_sum(weights * values, axis=[1, 2], keepdims=True)

    cx, cy = mean(x), mean(y)
    dx, dy = x - cx, y - cy
    spread = mean(dx * dx) + _LEAST_SPREAD, mean(dy * dy) + _LEAST_SPREAD, mean(dx * dy)
    return tuple(value[:, 0, 0] for value in (cx, cy, *spread))
