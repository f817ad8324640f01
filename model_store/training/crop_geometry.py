"""Cropping: which part of a frame the network sees, how it is turned, and its pixels. Training and serving share it.

A crop transform is six numbers in fractions of the frame, float32 [N, 6]: the crop's center (cx, cy), half of its width
as a vector u, and half of its height as a vector v. The vectors need not be parallel to the frame's sides.

    (cx, cy) + s * u + t * v,  s and t from -1 to 1: from left to right and from top to bottom of the crop

Everything here consists of operations that LiteRT has too, because it becomes part of the exported model.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from model_store.runtime.tensorflow_imports import import_tensorflow

# Half the crop's height, in standard deviations of the heatmap along the bottle. The ends of a rod lie 1.73 deviations
# from its middle; the rest is a margin for a localizer that is a little off. Measured on the hand-drawn boxes of the
# bottle frames: with 2.1 a box keeps 98 % of the bottle, with 1.8 it keeps 88 %.
_HALF_HEIGHT_DEVIATIONS = 2.1
# Half the crop's width is at least this factor times _HALF_HEIGHT_DEVIATIONS deviations across the bottle, so that some
# belt is always visible beside it.
_SIDE_MARGIN = 1.1
# Added to the variance in each direction, in squared fractions of the frame, so that a bottle that fills only one cell
# has a size too.
_ADDED_VARIANCE = 3e-4
# The sign of the covariance decides which end of a bottle is up. For an upright bottle, or a frame in which nothing was
# found, the covariance is 0 but for rounding (below 1e-7). TensorFlow and LiteRT round differently, which must not turn
# the crop by 180 or 90 degrees. The covariance of a bottle that leans by a tenth of a degree is above 1e-5.
_MIN_COVARIANCE = 1e-6


class CropSize(NamedTuple):
    """Height and width of a crop, pixels."""

    height_px: int
    width_px: int

    def __str__(self) -> str:
        return f"{self.height_px}x{self.width_px}"


# Bottles are two to four times as long as wide. This size has slightly fewer pixels than 160 x 160, and is as good as
# 224 x 144.
UPRIGHT_SIZE = CropSize(192, 128)
FULL_FRAME_SIZE = CropSize(224, 224)


def full_frame_transforms(count: Any) -> Any:
    """Crop transforms, [count, 6], that keep each frame as it is."""
    tf = import_tensorflow()
    return tf.tile(tf.constant([[0.5, 0.5, 0.5, 0.0, 0.0, 0.5]], tf.float32), [count, 1])


def upright_transforms(heatmaps: Any, size: CropSize) -> Any:
    """Crop transforms [N, 6] around the bottles in `heatmaps`, float [N, H, W] >= 0, with their long axis upright.

    A heatmap does not tell which end of the bottle is up, so training shows the network both orientations.
    """
    tf = import_tensorflow()
    cx, cy, cxx, cyy, cxy = _moments(heatmaps)
    # Eigenvalues and the first eigenvector of the covariance [[cxx, cxy], [cxy, cyy]], written out: LiteRT has no eigh.
    mean, half = (cxx + cyy) / 2, (cxx - cyy) / 2
    root = tf.sqrt(half * half + cxy * cxy + 1e-12)
    long, short = tf.sqrt(mean + root), tf.sqrt(tf.maximum(mean - root, 0.0) + 1e-12)
    # Half-angle formulas of the axis' double angle (cos = half / root, sin = cxy / root).
    axis_x = tf.sqrt(tf.maximum((1 + half / root) / 2, 0.0))
    axis_y = tf.sqrt(tf.maximum((1 - half / root) / 2, 0.0)) * tf.where(cxy < -_MIN_COVARIANCE, -1.0, 1.0)
    height = tf.maximum(
        _HALF_HEIGHT_DEVIATIONS * long,
        _HALF_HEIGHT_DEVIATIONS * _SIDE_MARGIN * short * (size.height_px / size.width_px),
    )
    width = height * (size.width_px / size.height_px)
    return tf.stack([cx, cy, axis_y * width, -axis_x * width, axis_x * height, axis_y * height], axis=1)


def crop_frames(frames: Any, transforms: Any, size: CropSize) -> Any:
    """The crops' pixels, float32 [N, height, width, 3] from 0 to 255.

    Each is interpolated between the four nearest pixels of the frame.

    Args:
        frames: uint8 [N, S, S, 3].
        transforms: crop transforms [N, 6]. A crop that reaches beyond its frame repeats the frame's border.
        size: the size of the crops.
    """
    tf = import_tensorflow()
    size_px = frames.shape[1]
    s = (tf.range(size.width_px, dtype=tf.float32) + 0.5) * (2.0 / size.width_px) - 1.0
    t = (tf.range(size.height_px, dtype=tf.float32) + 0.5) * (2.0 / size.height_px) - 1.0
    # Sliced, not unstacked: the int8 converter quantizes an operator with several outputs even if told to keep it in
    # float. Reshaped, because TensorFlow's optimizer folds slices of a stack and then loses axes added by the slice.
    cx, cy, ux, uy, vx, vy = (tf.reshape(transforms[:, column], [-1, 1, 1]) for column in range(6))
    across, down = s[None, None, :], t[None, :, None]
    x = tf.clip_by_value((cx + across * ux + down * vx) * size_px - 0.5, 0.0, size_px - 1.0)
    y = tf.clip_by_value((cy + across * uy + down * vy) * size_px - 0.5, 0.0, size_px - 1.0)
    # The last row and column are interpolated from the ones before them, with a weight of 1.
    left, top = tf.minimum(tf.floor(x), size_px - 2.0), tf.minimum(tf.floor(y), size_px - 2.0)
    # Repeated for the three channels: LiteRT's broadcasting over the last axis takes longer than the arithmetic.
    channels = tf.ones([1, 1, 1, 3])
    right_share, bottom_share = (x - left)[..., None] * channels, (y - top)[..., None] * channels
    corner = tf.cast(top, tf.int32) * size_px + tf.cast(left, tf.int32)
    pixels = tf.reshape(tf.cast(frames, tf.float32), [-1, size_px * size_px, 3])

    def interpolated_row(first: Any) -> Any:
        near = tf.gather(pixels, first, batch_dims=1)
        far = tf.gather(pixels, first + 1, batch_dims=1)
        return near + (far - near) * right_share

    upper = interpolated_row(corner)
    return upper + (interpolated_row(corner + size_px) - upper) * bottom_share


def _moments(heatmaps: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Center (x, y) and covariance (xx, yy, xy) of each heatmap, in fractions of the frame, each [N]."""
    tf = import_tensorflow()
    rows, columns = heatmaps.shape[1], heatmaps.shape[2]
    weights = (heatmaps + 1e-6) / tf.reduce_sum(heatmaps + 1e-6, axis=[1, 2], keepdims=True)
    x = ((tf.range(columns, dtype=tf.float32) + 0.5) / columns)[None, None, :]
    y = ((tf.range(rows, dtype=tf.float32) + 0.5) / rows)[None, :, None]

    def mean(values: Any) -> Any:
        return tf.reduce_sum(weights * values, axis=[1, 2], keepdims=True)

    cx, cy = mean(x), mean(y)
    dx, dy = x - cx, y - cy
    covariance = mean(dx * dx) + _ADDED_VARIANCE, mean(dy * dy) + _ADDED_VARIANCE, mean(dx * dy)
    return tuple(value[:, 0, 0] for value in (cx, cy, *covariance))
