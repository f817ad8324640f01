"""Localizes the bottle in a frame. Nobody has to draw boxes: the cells that differ from the belt serve as labels.

In: training frames and a Network. Out: an ObjectLocalizer, a linear layer on an early feature map of the network. For
each cell of the map it estimates how much of the cell is bottle. It is fitted to each dataset, because belts and lights
differ between plants.

A teacher labels the cells of each training frame. It assumes that the frame's border cells show belt, and labels as
bottle the cells that are far from them (Mahalanobis distance in a deep feature map, Otsu's threshold per frame). It
would be too slow for serving: it inverts a matrix for each frame and runs the network up to the teacher layer at full
size. The localizer is a ridge regression of the teacher's labels of all training frames on an early map of a small
picture. It costs a tenth of the network's forward pass. It is better than the teacher, because the teacher's errors
differ from frame to frame. On the 80 hand-drawn boxes of the bottle frames (mean intersection over union, share above
0.5): teacher 0.69 and 0.89; localizer 0.76 and 0.95; a ridge regression on the drawn boxes themselves (cross-validated)
0.66 and 0.89.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.backbones.keras_graphs import Architecture, Network
from model_store.datasets.lazy_images import ImageStack
from model_store.runtime.progress import OnProgress
from model_store.runtime.tensorflow_imports import import_tensorflow
from shared.arrays import Bools, Doubles, Floats

# Side of the localizer's input; with 96 the boxes were as good, with 192 no better.
INPUT_PX = 128
# Side of the teacher's input: 16 x 16 cells, 60 of them at the border.
_TEACHER_INPUT_PX = 256
# How far the border's covariance is shrunk towards a multiple of the identity: 60 cells are few for some 100 channels.
_SHRINKAGE = 0.3
_RIDGE = 0.01
_BATCH_SIZE = 16
# More frames improve nothing, and take 10 ms each.
MAX_FRAMES = 1000


@dataclass(frozen=True)
class ObjectLocalizer:
    """The localizer's layer. The heat of a cell is max(0, features . kernel + bias); `kernel` is float32 [channels]."""

    kernel: Floats
    bias: float

    @classmethod
    def fit(cls, network: Network, frames: ImageStack, *, on_progress: OnProgress) -> ObjectLocalizer:
        """A localizer for frames like these, uint8 [N >= 1, S, S, 3]; uses at most MAX_FRAMES of them."""
        tf = import_tensorflow()
        architecture = network.architecture
        localizer_graph = network.up_to(architecture.localizer_layer)
        teacher_graph = network.up_to(architecture.teacher_layer)
        run = tf.function(
            lambda images: (
                localizer_graph(resize_frames(images, architecture)),
                teacher_graph(resize_frames(images, architecture, size_px=_TEACHER_INPUT_PX)),
            )
        )
        regression = Regression()
        rows = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).astype(int)
        for start in range(0, len(rows), _BATCH_SIZE):
            batch = frames[rows[start : start + _BATCH_SIZE]]
            maps, deep_maps = (np.asarray(value, np.float64) for value in run(tf.constant(batch)))
            masks = np.stack([_differs_from_border(cells) for cells in deep_maps]).astype(np.float32)
            shares = tf.image.resize(masks[..., None], maps.shape[1:3], antialias=True)
            regression.add(maps, np.asarray(shares)[..., 0])
            on_progress(len(batch))
        return regression.solve()

    def heatmap(self, maps: Any) -> Any:
        """Where the bottle is: [N, h, w] >= 0, from the localizer layer's maps [N, h, w, channels]."""
        tf = import_tensorflow()
        kernel = tf.constant(self.kernel[None, None, :, None])
        return tf.nn.relu(tf.nn.conv2d(maps, kernel, strides=1, padding="VALID")[..., 0] + self.bias)


def resize_frames(frames: Any, architecture: Architecture, *, size_px: int = INPUT_PX) -> Any:
    """Frames uint8 [N, S, S, 3] as the localizer's layers take them: float32 [N, size_px, size_px, 3], normalized."""
    tf = import_tensorflow()
    return architecture.normalize(tf.image.resize(tf.cast(frames, tf.float32), [size_px, size_px]))


def _differs_from_border(cells: Doubles) -> Bools:
    """The teacher: which cells [H, W, channels] of one frame are unlike its border, [H, W]."""
    channels = cells.shape[-1]
    border = np.concatenate([cells[0], cells[-1], cells[1:-1, 0], cells[1:-1, -1]])
    covariance = np.cov(border.T) + np.eye(channels) * (_SHRINKAGE * border.var() + 1e-9)
    differences = cells.reshape(-1, channels) - border.mean(axis=0)
    squared = (differences * np.linalg.solve(covariance, differences.T).T).sum(axis=1)
    distance = np.sqrt(squared).reshape(cells.shape[:2])
    return np.asarray(distance > otsu_threshold(distance.ravel()))


def otsu_threshold(values: Doubles) -> float:
    """The threshold that leaves the least variance on its two sides (Otsu 1979)."""
    ordered = np.sort(values)
    count = np.arange(1, len(ordered))
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    below = squares[:-1] - sums[:-1] ** 2 / count
    above = (squares[-1] - squares[:-1]) - (sums[-1] - sums[:-1]) ** 2 / (len(ordered) - count)
    index = int((below + above).argmin())
    return float((ordered[index] + ordered[index + 1]) / 2)


class Regression:
    """Ridge regression that predicts -1 for belt and 1 for bottle, with equal total weights, from sums over batches."""

    def __init__(self) -> None:
        # For belt and for bottle: the sums of the weights, of the weighted features, and of their weighted products.
        self._sums: list[list[Any]] = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]

    def add(self, maps: Doubles, bottle_shares: NDArray[np.floating]) -> None:
        """Add cells [N, h, w, channels], and the share of each cell that is bottle, 0 to 1, [N, h, w]."""
        rows = maps.reshape(-1, maps.shape[-1])
        bottle = bottle_shares.reshape(-1).astype(np.float64)
        for sums, weights in zip(self._sums, (1 - bottle, bottle), strict=True):
            weighted = rows * weights[:, None]
            sums[0] += weights.sum()
            sums[1] = sums[1] + weighted.sum(axis=0)
            sums[2] = sums[2] + weighted.T @ rows

    def solve(self) -> ObjectLocalizer:
        """The localizer. The features' means and scales are folded into its kernel and bias."""
        (_, belt, belt_products), (_, bottle, bottle_products) = (
            [part / max(sums[0], 1e-9) for part in sums] for sums in self._sums
        )
        mean = (belt + bottle) / 2
        products = (belt_products + bottle_products) / 2 - np.outer(mean, mean)
        scale = np.sqrt(np.diag(products).clip(0)) + 0.05 * np.sqrt(np.diag(products).mean().clip(0)) + 1e-9
        normal = products / np.outer(scale, scale) + _RIDGE * np.eye(len(mean))
        kernel = np.linalg.solve(normal, (bottle - belt) / 2 / scale) / scale
        return ObjectLocalizer(kernel.astype(np.float32), float(-mean @ kernel))
