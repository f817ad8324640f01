"""Decodes image files to the pixels that a published model expects: its size, fit and regions.

In: a manifest and a worker's limits. Out: a decoder. Both the worker and `sortline classify` use it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from model_store.bundle.manifest import IMAGES_BY_BITS_KEY, SAMPLE_BITS_KEY, Manifest
from shared.images.arrays import Pixels
from shared.images.crop_regions import Fit, Region, region_of
from shared.images.decode_cost import is_costly
from shared.images.decoder_process import DecoderProcess
from shared.images.decoding import decode_into
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class ImageDecoder:
    """The decoder of `shared.images`, which training uses too, with the parameters of a model and a worker's limits.

    Decoders that compare equal give equal pixels.
    """

    size_px: int
    fit: Fit
    regions: tuple[tuple[str, Region], ...]  # (camera, its region), sorted; a dict can't be hashed
    max_bytes: int
    max_px: int
    max_decode_bytes: int
    max_decode_s: float
    sample_bits: int = 0  # bits of the samples in 16-bit files; 0: what each file says
    decoder_process: DecoderProcess | None = field(
        default=None, repr=False, compare=False
    )  # decodes costly images, if given
    _by_camera: dict[str, Region] = field(init=False, repr=False, compare=False)
    _for_other_cameras: Region | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_camera = dict(self.regions)
        object.__setattr__(self, "_by_camera", by_camera)
        object.__setattr__(self, "_for_other_cameras", region_of(None, by_camera))

    def __call__(self, data: bytes, camera: str) -> Pixels:
        """Decode a file that `camera` took to uint8 [size_px, size_px, 3]; ANY_CAMERA if the camera isn't known.

        Raises:
            BadImage: not a usable image.
        """
        out = np.empty((self.size_px, self.size_px, 3), np.uint8)
        self.decode_into(data, camera, out)
        return out

    def decode_into(self, data: bytes, camera: str, out: Pixels) -> None:
        """Decode into `out`, uint8 [size_px, size_px, 3], e.g. a row of a batch. A C-contiguous `out` saves copies.

        After an error the content of `out` is undefined. May be called from many threads; threads with costly images
        wait for one another if a DecoderProcess decodes these.

        Raises:
            BadImage: not a usable image.
            DecoderLost: a costly image could not be decoded this time; the caller may try again.
            ValueError: `out` has another shape or type.
        """
        if len(out) != self.size_px:
            raise ValueError(f"out must be uint8 [{self.size_px}, {self.size_px}, 3], not {list(out.shape)}")
        process = self.decoder_process
        decode = process.decode_into if process is not None and self.is_costly(data, camera) else decode_into
        decode(
            data,
            out,
            region=self._region(camera),
            fit=self.fit,
            max_bytes=self.max_bytes,
            max_px=self.max_px,
            max_decode_bytes=self.max_decode_bytes,
            max_decode_s=self.max_decode_s,
            sample_bits=self.sample_bits,
        )

    def is_costly(self, data: bytes, camera: str) -> bool:
        """Whether an image should be decoded where no other image waits for it."""
        region = self._region(camera)
        part = 1.0 if region is None else min(region.right - region.left, region.bottom - region.top)
        return is_costly(data, max_decode_s=self.max_decode_s, part=part)

    def _region(self, camera: str) -> Region | None:
        return self._by_camera.get(camera, self._for_other_cameras)


def sample_bits_for(manifest: Manifest, setting: int) -> int:
    """How many bits samples in 16-bit files use: the setting, else the model's own; 0 if neither is set."""
    trained_with: int = manifest.training.settings.get(SAMPLE_BITS_KEY, 0)
    return setting or trained_with


def sample_bits_warning(manifest: Manifest, setting: int) -> str | None:
    """A warning if the setting reads images at a number of bits at which the model's training read none; else None."""
    trained_at = manifest.training.settings.get(IMAGES_BY_BITS_KEY, {})
    if not setting or not trained_at or str(setting) in trained_at:
        return None
    return (
        f"sample_bits is {setting}, but {manifest.name}@{manifest.version} was trained on images of "
        f"{' and '.join(trained_at)} bits per sample. 16-bit files look too dark or too bright to it. Unset "
        "sample_bits, unless the camera was changed."
    )


def decoder_of(
    manifest: Manifest, settings: Settings, *, decoder_process: DecoderProcess | None = None
) -> ImageDecoder:
    """The decoder for one version, with the settings' limits. The decoder process, if given, decodes costly images."""
    return ImageDecoder(
        size_px=manifest.input_size_px,
        fit=manifest.fit,
        regions=tuple(sorted(manifest.regions.items(), key=lambda item: item[0])),
        max_bytes=settings.max_image_bytes,
        max_px=settings.max_image_px,
        max_decode_bytes=settings.max_decode_bytes,
        max_decode_s=settings.max_decode_s,
        sample_bits=sample_bits_for(manifest, settings.sample_bits),
        decoder_process=decoder_process,
    )
