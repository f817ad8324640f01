"""Raw bytes of an image file to the pixels that a published model is to see: its size, fit and regions.

In: a manifest and a worker's limits. Out: a decoder. Used by the worker and by `sortline classify` alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Manifest
from shared.images import decode_image
from shared.regions import Fit, Region, region_of
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class ImageDecoder:
    """The decoder of training and serving, bound to what a model wants and to a worker's limits.

    Equal ones give equal pixels.
    """

    size_px: int
    fit: Fit
    regions: tuple[tuple[str, Region], ...]  # (camera, its region) by name: pairs, since a dict can't be hashed
    max_bytes: int
    max_px: int

    def __call__(self, data: bytes, camera: str) -> NDArray[np.uint8]:
        """uint8 [size_px, size_px, 3] of a file that `camera` took, ANY_CAMERA where that isn't known.

        Raises:
            BadImage: not a usable image.
        """
        return decode_image(
            data,
            size_px=self.size_px,
            region=region_of(camera, dict(self.regions)),
            fit=self.fit,
            max_bytes=self.max_bytes,
            max_px=self.max_px,
        )


def decoder_of(manifest: Manifest, settings: Settings) -> ImageDecoder:
    """The decoder for one version, with the settings' limits."""
    return ImageDecoder(
        size_px=manifest.input_size_px,
        fit=manifest.fit,
        regions=tuple(sorted(manifest.regions.items(), key=lambda item: item[0])),
        max_bytes=settings.max_image_bytes,
        max_px=settings.max_image_px,
    )
