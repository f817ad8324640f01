"""A cache of features: the features of frozen layers are computed once, so that a head trains in seconds.

In: frames. Out: float32 features, read from disk if they are cached. The key is the digest of the crop's pixels (after
augmentation, if any), so that a changed file, size, crop or decoder gives another key. Frames are processed a batch at
a time, because all of them may not fit into memory.

    <cache>/features/<the extractor's digest>/<aa>/<digest of the pixels>.npy
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from model_store.bundle.array_files import read_npy
from model_store.datasets.lazy_images import ImageStack, in_batches
from model_store.runtime.progress import OnProgress
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.augmentation import augment_pixels, augment_transforms
from model_store.training.crop_geometry import crop_frames
from model_store.training.feature_extractor import FeatureExtractor
from shared.arrays import Floats
from shared.images.arrays import Pixels
from shared.regular_files import open_regular

log = logging.getLogger("sortline.train")

# As in the tutorial (see `head.TUTORIAL`); larger batches are no faster on CPUs.
BATCH_SIZE = 32


class FeatureCache:
    """Computes an extractor's features of frames, with a cache on disk."""

    def __init__(self, extractor: FeatureExtractor, *, cache: Path) -> None:
        """`cache` is the settings' `cache_path`."""
        self._extractor = extractor
        self._folder = cache / "features" / extractor.digest

    def features(self, frames: ImageStack, *, on_progress: OnProgress, random: Any = None) -> Floats:
        """Features of frames uint8 [N, S, S, 3], float32 [N, width].

        With `random`, an `augmentation.random_generator`, the frames are augmented first.
        """
        found = np.empty((len(frames), self._extractor.feature_width), np.float32)
        done = 0
        for pixels in crop_batches(self._extractor, frames, random=random):
            found[done : done + len(pixels)] = self._features(pixels)
            done += len(pixels)
            on_progress(len(pixels))
        return found

    def _features(self, pixels: Pixels) -> Floats:
        """Features of one batch: those in the cache are read from disk, the others are computed together."""
        found = np.empty((len(pixels), self._extractor.feature_width), np.float32)
        files = [self._file(image) for image in pixels]
        missing = []
        for index, file in enumerate(files):
            cached = _read(file, width=self._extractor.feature_width)
            if cached is None:
                missing.append(index)
            else:
                found[index] = cached
        if missing:
            found[missing] = np.asarray(self._run(pixels[missing]), np.float32)
        for index in missing:
            try:
                _write(files[index], found[index])
            except OSError as error:  # a full disk must not end the training
                # The file's name is left out because it differs each time, and the warning is to be given once.
                _warn_uncached(self._folder.parent, error.strerror or str(error))
        return found

    @functools.cached_property
    def _run(self) -> Any:
        tf = import_tensorflow()
        signature = [tf.TensorSpec([None, *self._extractor.crop_size, 3], tf.uint8)]
        feature_fn = self._extractor.feature_fn
        return tf.function(
            lambda pixels: feature_fn(tf.cast(pixels, tf.float32), training=False), input_signature=signature
        )

    def _file(self, pixels: Pixels) -> Path:
        digest = hashlib.sha256(f"{pixels.shape} ".encode() + pixels.tobytes()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.npy"


def crop_batches(extractor: FeatureExtractor, frames: ImageStack, *, random: Any = None) -> Iterator[Pixels]:
    """The extractor's crops of frames [N, S, S, 3], in batches of uint8 [n, height, width, 3], rounded.

    With `random`, an `augmentation.random_generator`, they are augmented.
    """
    tf = import_tensorflow()
    is_detected = extractor.crop == "detected"

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator] # TensorFlow has no types
    def crop(batch: Any) -> Any:
        if random is None:
            return extractor.pixels(batch)
        transforms = augment_transforms(extractor.crop_transforms(batch), random, upright=is_detected)
        return augment_pixels(crop_frames(batch, transforms, extractor.crop_size), random, upright=is_detected)

    for start in range(0, len(frames), BATCH_SIZE):
        batch = tf.constant(frames[start : start + BATCH_SIZE])
        yield np.asarray(tf.cast(tf.round(crop(batch)), tf.uint8))


def extract_features(extractor: FeatureExtractor, frames: ImageStack) -> Floats:
    """Features of frames uint8 [N, S, S, 3], float32 [N, width], computed as in the exported model; no cache."""
    tf = import_tensorflow()
    run = tf.function(extractor.features, reduce_retracing=True)
    return in_batches(lambda batch: run(tf.constant(batch)), frames, size=BATCH_SIZE)


def _read(file: Path, *, width: int) -> Floats | None:
    try:
        with open_regular(file, follow_link=False) as opened:
            features = read_npy(opened, max_bytes=width * np.dtype(np.float32).itemsize)
    except (OSError, ValueError):  # absent, cut off by a full disk, or not ours: compute them again
        return None
    return features if features.shape == (width,) and features.dtype == np.float32 else None


def _write(file: Path, features: Floats) -> None:
    """Write the file completely or not at all, even if another process writes the same file now."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=file.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            np.save(out, features)
        os.replace(aside, file)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        raise


@functools.cache  # one warning, not one per image
def _warn_uncached(folder: Path, why: str) -> None:
    log.warning(
        "features can't be cached in %s: %s. This training continues without the cache, and the next one has to "
        "compute the features again. Make room, or name another folder with --cache-dir.",
        folder,
        why,
    )
