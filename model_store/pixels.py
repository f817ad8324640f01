"""Samples decoded to pixels, by the decoder that serving uses.

In: samples of a dataset. Out: a Pictures, with what could not be decoded listed beside it.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.dataset_files import DatasetFiles
from model_store.datasets import Sample
from model_store.progress import Advance
from shared.errors import BadImage
from shared.images import decode_image

# Decoded images that may wait for their reader, per thread: enough to keep all threads busy.
_AHEAD = 8


@dataclass(frozen=True)
class Unreadable:
    """A file that is not a usable image, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Pictures:
    """Decoded samples, in their order.

    `images` is uint8 [N, S, S, 3]; `samples` has N entries; `fingerprint` is the SHA-256 over the sorted
    (file digest, labels) pairs, so it does not depend on names or layout.
    """

    samples: tuple[Sample, ...]
    images: NDArray[np.uint8]
    unreadable: tuple[Unreadable, ...]
    fingerprint: str


@dataclass(frozen=True)
class _Decoded:
    sample: Sample
    digest: str
    image: NDArray[np.uint8]


def decode_samples(files: DatasetFiles, samples: Iterable[Sample], *, size_px: int, advance: Advance) -> Pictures:
    """Decode all of them into memory (150 KB each at 224 px)."""
    decoded: list[_Decoded] = []
    unreadable: list[Unreadable] = []
    for item in _each(files, samples, size_px=size_px):
        advance(1)
        if isinstance(item, Unreadable):
            unreadable.append(item)
        else:
            decoded.append(item)
    pairs = sorted(f"{item.digest} {'|'.join(item.sample.labels)}\n" for item in decoded)
    return Pictures(
        samples=tuple(item.sample for item in decoded),
        images=np.stack([item.image for item in decoded]) if decoded else np.empty((0, size_px, size_px, 3), np.uint8),
        unreadable=tuple(unreadable),
        fingerprint=hashlib.sha256("".join(pairs).encode()).hexdigest(),
    )


def _each(files: DatasetFiles, samples: Iterable[Sample], *, size_px: int) -> Iterator[_Decoded | Unreadable]:
    """Decode in threads (the codec releases the interpreter lock), in order, a bounded number ahead."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Decoded | Unreadable]] = deque()
        for sample in samples:
            waiting.append(pool.submit(_decode, files, sample, size_px))
            if len(waiting) >= threads * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _decode(files: DatasetFiles, sample: Sample, size_px: int) -> _Decoded | Unreadable:
    try:
        data = files.read(sample.name)
        image = decode_image(data, size_px=size_px)
    except BadImage as error:
        return Unreadable(sample.name, str(error))
    return _Decoded(sample, hashlib.sha256(data).hexdigest(), image)
