"""Views of images: the same bottles as another camera, in another light, would show them.

In: frames. Out: frames. A small dataset has too few images to measure the ranges of activations by, and too few unseen
ones to say whether int8 gives the same labels on 99 %: of five images, one is 20 %. Views need no new labels, because
`training.augmentation` never changes one.
"""

from __future__ import annotations

import numpy as np

from model_store.datasets.lazy_images import ImageStack
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.augmentation import augment_pixels, augment_transforms, random_generator
from model_store.training.crop_geometry import CropSize, crop_frames, full_frame_transforms
from shared.images.arrays import Pixels

_BATCH_SIZE = 32


def views_of(frames: ImageStack, count: int, *, seed: int) -> Pixels:
    """Views of frames uint8 [N, S, S, 3], N >= 1, in turn: uint8 [count, S, S, 3]. View i is of frame i % N.

    The same arguments give the same views.
    """
    tf, random = import_tensorflow(), random_generator(seed)
    side_px = frames.shape[1]
    rows = np.arange(count) % len(frames)
    found = np.empty((count, side_px, side_px, 3), np.uint8)
    for start in range(0, count, _BATCH_SIZE):
        batch = tf.constant(frames[rows[start : start + _BATCH_SIZE]])
        # As upright crops are: turned a little, or by 180 degrees. Another angle would leave corners without a picture.
        transforms = augment_transforms(full_frame_transforms(len(batch)), random, upright=True)
        pixels = augment_pixels(crop_frames(batch, transforms, CropSize(side_px, side_px)), random, upright=False)
        found[start : start + len(pixels)] = tf.cast(tf.round(pixels), tf.uint8).numpy()
    return found


def filled_up(frames: ImageStack, count: int, *, seed: int) -> Pixels:
    """The frames [N, S, S, 3], followed by views of them until there are `count`."""
    return np.concatenate([frames[np.arange(len(frames))], views_of(frames, max(0, count - len(frames)), seed=seed)])
