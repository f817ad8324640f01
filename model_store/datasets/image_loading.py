"""Decodes samples to pixels, with the decoder that serving uses.

In: samples of a dataset. Out: DecodedSamples, including a list of the files that could not be decoded.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from model_store.bundle.manifest import Manifest
from model_store.bundle.preprocessing import sample_bits_for
from model_store.datasets.dataset import Sample
from model_store.datasets.dataset_files import DatasetFiles
from model_store.runtime.progress import OnProgress
from shared.cpu_cores import usable_cores
from shared.errors import BadImage, BadSetting
from shared.images.arrays import Pixels
from shared.images.crop_regions import Fit, Region, region_of
from shared.images.decode_cost import MAX_DECODE_S
from shared.images.decode_memory import MAX_DECODE_BYTES
from shared.images.decoding import MAX_BYTES, MAX_PX, decode_image
from shared.printable import printable
from shared.settings import Settings

# Above this size (about 7,000 images at 224 px), decoded images are kept in a file, if a folder for it is given. Below
# it they stay in memory, which is faster and large enough on a training machine.
MEMORY_BYTES = 1_000_000_000
# Decoded images per thread that may wait to be consumed: enough to keep all threads busy.
_AHEAD_PER_THREAD = 8


class DecodeSettings(NamedTuple):
    """How images are decoded, and how large they may be: the arguments of `decode_image` that come from the settings.

    With the settings' values, training accepts what workers accept.
    """

    max_bytes: int = MAX_BYTES
    max_px: int = MAX_PX
    max_decode_bytes: int = MAX_DECODE_BYTES
    max_decode_s: float = MAX_DECODE_S
    sample_bits: int = 0

    @classmethod
    def of(cls, settings: Settings) -> DecodeSettings:
        """The settings `max_image_bytes`, `max_image_px`, `max_decode_bytes`, `max_decode_s` and `sample_bits`."""
        return cls(
            settings.max_image_bytes,
            settings.max_image_px,
            settings.max_decode_bytes,
            settings.max_decode_s,
            settings.sample_bits,
        )

    def for_model(self, manifest: Manifest) -> DecodeSettings:
        """These settings with the `sample_bits` that this model's images need: its own, unless the setting is set."""
        return self._replace(sample_bits=sample_bits_for(manifest, self.sample_bits))


@dataclass(frozen=True)
class Unreadable:
    """A file that is not a usable image, and why; both are `printable`, because they are only told."""

    name: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """The form of `--json`."""
        return {"file": self.name, "reason": self.reason}


@dataclass(frozen=True)
class DecodedSamples:
    """Decoded samples, in the order in which they were given.

    `images` is uint8 [N, S, S, 3]; `samples` has N entries, and so has `digests`, the SHA-256 of each file;
    `sample_bits` has an entry for each file of more than 8 bits per sample: the number of bits it was read at;
    `fingerprint` is the SHA-256 over the sorted (file digest, labels, camera) of each sample, so it does not depend on
    names or layout.
    """

    samples: tuple[Sample, ...]
    images: Pixels
    unreadable: tuple[Unreadable, ...]
    fingerprint: str
    digests: tuple[str, ...] = ()
    sample_bits: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Decoded:
    """A sample that could be decoded, the SHA-256 of its file, and the number that `on_sample_bits` was called with."""

    sample: Sample
    digest: str
    sample_bits: int | None


@dataclass(frozen=True)
class _WithPixels(_Decoded):
    """A decoded sample with its pixels, before they are copied to their place in the result."""

    image: Pixels


def decode_samples(
    files: DatasetFiles,
    samples: Iterable[Sample],
    *,
    size_px: int,
    decode_settings: DecodeSettings,
    on_progress: OnProgress,
    fit: Fit = "stretch",
    regions: Mapping[str, Region] | None = None,
    scratch: Path | None = None,
) -> DecodedSamples:
    """Decode all samples (150 KB each at 224 px).

    Args:
        files: where the samples are read from.
        samples: the samples to decode.
        size_px: side of the decoded images.
        decode_settings: images above their limits count as unreadable.
        on_progress: called for each sample.
        fit: how an image that isn't square is made square.
        regions: the part of an image to keep, by camera; `*` stands for every other camera. Images of a camera without
            a region are kept whole.
        scratch: a folder for a file with the images if they need more than MEMORY_BYTES. None: keep them in memory.

    Raises:
        BadSetting: `scratch` can't hold the images.
    """
    wanted = list(samples)
    decode = functools.partial(
        _decode, files, size_px=size_px, decode_settings=decode_settings, fit=fit, regions=regions or {}
    )
    images = _allocate(len(wanted), size_px, scratch)
    decoded: list[_Decoded] = []
    unreadable: list[Unreadable] = []
    for item in _decode_in_threads(wanted, decode):
        on_progress(1)
        if isinstance(item, Unreadable):
            unreadable.append(item)
        else:
            images[len(decoded)] = item.image
            decoded.append(_Decoded(item.sample, item.digest, item.sample_bits))
    return DecodedSamples(
        samples=tuple(item.sample for item in decoded),
        images=images[: len(decoded)],
        unreadable=tuple(unreadable),
        fingerprint=_fingerprint(decoded),
        digests=tuple(item.digest for item in decoded),
        sample_bits=tuple(item.sample_bits for item in decoded if item.sample_bits is not None),
    )


def _fingerprint(decoded: Iterable[_Decoded]) -> str:
    lines = sorted(
        " ".join(filter(None, (item.digest, "|".join(item.sample.labels), item.sample.camera))) + "\n"
        for item in decoded
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _allocate(count: int, size_px: int, scratch: Path | None) -> Pixels:
    """Allocate uint8 [count, size_px, size_px, 3], not initialized; above MEMORY_BYTES in a file below `scratch`."""
    shape = (count, size_px, size_px, 3)
    size_bytes = math.prod(shape)
    if scratch is None or size_bytes <= MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        # The file has no name, so it disappears with the last array that maps it, or when the process ends in any way.
        with tempfile.TemporaryFile(dir=scratch) as file:
            # Allocate the space now: on a full disk, writing to a map of a sparse file kills the process with SIGBUS.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return np.asarray(np.memmap(file, np.uint8, mode="r+", shape=shape))
    except OSError as error:
        raise BadSetting(
            f"{count:,} decoded images need {size_bytes / 1e9:.1f} GB in {scratch}: {error.strerror}. Free some space, "
            "or name another folder with --cache-dir."
        ) from error


def _decode_in_threads(
    samples: Iterable[Sample], decode: Callable[[Sample], _WithPixels | Unreadable]
) -> Iterator[_WithPixels | Unreadable]:
    """Decode in threads (the codec releases the interpreter lock), in order, a limited number ahead of the consumer."""
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_WithPixels | Unreadable]] = deque()
        for sample in samples:
            waiting.append(pool.submit(decode, sample))
            if len(waiting) >= threads * _AHEAD_PER_THREAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decode(
    files: DatasetFiles,
    sample: Sample,
    *,
    size_px: int,
    decode_settings: DecodeSettings,
    fit: Fit,
    regions: Mapping[str, Region],
) -> _WithPixels | Unreadable:
    bits: list[int] = []
    try:
        data = files.read(sample.name, max_bytes=decode_settings.max_bytes)
        region = region_of(sample.camera, regions)
        image = decode_image(
            data,
            size_px=size_px,
            region=region,
            fit=fit,
            max_bytes=decode_settings.max_bytes,
            max_px=decode_settings.max_px,
            max_decode_bytes=decode_settings.max_decode_bytes,
            max_decode_s=decode_settings.max_decode_s,
            sample_bits=decode_settings.sample_bits,
            on_sample_bits=bits.append,
        )
    except BadImage as error:
        return Unreadable(printable(sample.name), printable(str(error)))
    return _WithPixels(sample, hashlib.sha256(data).hexdigest(), bits[0] if bits else None, image)
