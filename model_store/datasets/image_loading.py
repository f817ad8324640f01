"""Samples decoded to pixels, by the decoder that serving uses.

In: samples of a dataset. Out: a Pictures, with what could not be decoded listed beside it.
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
from numpy.typing import NDArray

from model_store.datasets.dataset import Sample
from model_store.datasets.sources import DatasetFiles
from model_store.engines.loading import usable_cores
from model_store.runtime.progress import OnProgress
from shared.errors import BadImage, BadSetting
from shared.images.crop_regions import Fit, Region, region_of
from shared.images.decode_memory import MAX_DECODE_BYTES
from shared.images.decoding import MAX_BYTES, MAX_PX, decode_image
from shared.settings import Settings

# Decoded images beyond this are kept in a file, where a folder for it is given: 7,000 at 224 px. Under it memory is
# faster, and a training machine has it.
MEMORY_BYTES = 1_000_000_000
# Decoded images that may wait for their reader, per thread: enough to keep all threads busy.
_AHEAD = 8


class Limits(NamedTuple):
    """What is too large to be decoded. Those of the settings, so that training takes what workers take."""

    max_bytes: int = MAX_BYTES
    max_px: int = MAX_PX
    max_decode_bytes: int = MAX_DECODE_BYTES

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """`max_image_bytes`, `max_image_px` and `max_decode_bytes`."""
        return cls(settings.max_image_bytes, settings.max_image_px, settings.max_decode_bytes)


@dataclass(frozen=True)
class Unreadable:
    """A file that is not a usable image, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Pictures:
    """Decoded samples, in their order.

    `images` is uint8 [N, S, S, 3]; `samples` has N entries, and so has `digests`, the SHA-256 of each file;
    `fingerprint` is the SHA-256 over the sorted (file digest, labels, camera) of each, so it does not depend on names
    or layout.
    """

    samples: tuple[Sample, ...]
    images: NDArray[np.uint8]
    unreadable: tuple[Unreadable, ...]
    fingerprint: str
    digests: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Decoded:
    """A sample that could be decoded, and the SHA-256 of its file."""

    sample: Sample
    digest: str


@dataclass(frozen=True)
class _Read(_Decoded):
    """With its pixels, until they are in their place."""

    image: NDArray[np.uint8]


def decode_samples(
    files: DatasetFiles,
    samples: Iterable[Sample],
    *,
    size_px: int,
    limits: Limits,
    on_progress: OnProgress,
    fit: Fit = "stretch",
    regions: Mapping[str, Region] | None = None,
    scratch: Path | None = None,
) -> Pictures:
    """Decode all of them (150 KB each at 224 px).

    Args:
        files: where the samples are read from.
        samples: what to decode.
        size_px: side of the decoded images.
        limits: what is larger is unreadable.
        on_progress: hears of each sample.
        fit: how a picture that is no square becomes one.
        regions: by camera, `*` for every other: the part of its pictures to keep; the whole where there is none.
        scratch: a folder for images beyond MEMORY_BYTES. They are kept in memory where it is None.

    Raises:
        BadSetting: `scratch` can't hold the images.
    """
    wanted = list(samples)
    decode = functools.partial(_decode, files, size_px=size_px, limits=limits, fit=fit, regions=regions or {})
    images = _room(len(wanted), size_px, scratch)
    decoded: list[_Decoded] = []
    unreadable: list[Unreadable] = []
    for item in _each(wanted, decode):
        on_progress(1)
        if isinstance(item, Unreadable):
            unreadable.append(item)
        else:
            images[len(decoded)] = item.image
            decoded.append(_Decoded(item.sample, item.digest))
    return Pictures(
        samples=tuple(item.sample for item in decoded),
        images=images[: len(decoded)],
        unreadable=tuple(unreadable),
        fingerprint=_fingerprint(decoded),
        digests=tuple(item.digest for item in decoded),
    )


def _fingerprint(decoded: Iterable[_Decoded]) -> str:
    lines = sorted(
        " ".join(filter(None, (item.digest, "|".join(item.sample.labels), item.sample.camera))) + "\n"
        for item in decoded
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _room(count: int, size_px: int, scratch: Path | None) -> NDArray[np.uint8]:
    """uint8 [count, size_px, size_px, 3] with no values yet, in a file of `scratch` where memory is too dear."""
    shape = (count, size_px, size_px, 3)
    size_bytes = math.prod(shape)
    if scratch is None or size_bytes <= MEMORY_BYTES:
        return np.empty(shape, np.uint8)
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        # A file without a name: gone with the last array that looks into it, or with the process, however it ends.
        with tempfile.TemporaryFile(dir=scratch) as file:
            # A map over a file with holes would end the process with SIGBUS when the disk is full.
            os.posix_fallocate(file.fileno(), 0, size_bytes)
            return np.asarray(np.memmap(file, np.uint8, mode="r+", shape=shape))
    except OSError as error:
        raise BadSetting(
            f"{count:,} decoded images need {size_bytes / 1e9:.1f} GB in {scratch}: {error.strerror}. Make room, or "
            "name another folder with --cache-dir."
        ) from error


def _each(samples: Iterable[Sample], decode: Callable[[Sample], _Read | Unreadable]) -> Iterator[_Read | Unreadable]:
    """Decode in threads (the codec releases the interpreter lock), in order, a bounded number ahead."""
    threads = usable_cores()
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Read | Unreadable]] = deque()
        for sample in samples:
            waiting.append(pool.submit(decode, sample))
            if len(waiting) >= threads * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decode(
    files: DatasetFiles, sample: Sample, *, size_px: int, limits: Limits, fit: Fit, regions: Mapping[str, Region]
) -> _Read | Unreadable:
    try:
        data = files.read(sample.name)
        region = region_of(sample.camera, regions)
        image = decode_image(
            data,
            size_px=size_px,
            region=region,
            fit=fit,
            max_bytes=limits.max_bytes,
            max_px=limits.max_px,
            max_decode_bytes=limits.max_decode_bytes,
        )
    except BadImage as error:
        return Unreadable(sample.name, str(error))
    return _Read(sample, hashlib.sha256(data).hexdigest(), image)
