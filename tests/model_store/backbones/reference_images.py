"""The images that PyTorch was run on once: what it gave for them is test data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.images.arrays import Pixels

DATA = Path(__file__).parent / "efficientnet_lite_logits.npz"
_ENLARGED = 2


def reference_images(frames: np.ndarray, *, size_px: int) -> Pixels:
    """Two drawn images, and each of the small frames enlarged: uint8 [N, S, S, 3].

    Only whole numbers are computed, so that the images are the same everywhere.
    """
    rows, columns = np.mgrid[:size_px, :size_px]
    waves = np.stack([rows * 3 % 256, columns * 5 % 256, (rows * columns // 7) % 256], axis=-1)
    noise = np.random.RandomState(17).randint(0, 256, (1, size_px, size_px, 3))
    enlarged = frames.repeat(_ENLARGED, axis=1).repeat(_ENLARGED, axis=2)[:, :size_px, :size_px]
    return np.concatenate([waves[None], noise, enlarged]).astype(np.uint8)
