"""Features of frozen layers, each computed once: the cache is what makes training a head take seconds.

In: frames. Out: float32 features, from disk where they are there. The key is the digest of the pixels that are looked
at, augmented ones too, so a changed file, size, view or decoder is another key. Frames and pixels are taken a batch at
a time, since all of them may not fit into memory.

    <cache>/features/<sight's digest>/<aa>/<digest of the pixels>.npy
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
from numpy.typing import NDArray

from model_store.datasets.lazy_images import Images, in_batches
from model_store.runtime.progress import OnProgress
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.augmentation import other_light, other_views
from model_store.training.cropping import cut
from model_store.training.feature_extractor import Sight

log = logging.getLogger("sortline.train")

# As many as the tutorial's; larger ones are no faster on CPUs.
BATCH_SIZE = 32


class FeatureExtractor:
    """A sight's features of frames, with a cache on disk."""

    def __init__(self, sight: Sight, *, cache: Path) -> None:
        """`cache` is the settings' `cache_path`."""
        self._sight = sight
        self._folder = cache / "features" / sight.digest

    def features(self, frames: Images, *, on_progress: OnProgress, random: Any = None) -> NDArray[np.float32]:
        """Features of frames uint8 [N, S, S, 3], float32 [N, width]; `on_progress` hears how many are done.

        With `random`, an `augmentation.generator`, of the frames as another camera could have seen them.
        """
        found = np.empty((len(frames), self._sight.feature_width), np.float32)
        done = 0
        for pixels in looked_at(self._sight, frames, random=random):
            found[done : done + len(pixels)] = self._features(pixels)
            done += len(pixels)
            on_progress(len(pixels))
        return found

    def _features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Of one batch: what is cached from there, the others computed together."""
        found = np.empty((len(pixels), self._sight.feature_width), np.float32)
        files = [self._file(image) for image in pixels]
        missing = []
        for index, file in enumerate(files):
            cached = _read(file, width=self._sight.feature_width)
            if cached is None:
                missing.append(index)
            else:
                found[index] = cached
        if missing:
            found[missing] = np.asarray(self._run(pixels[missing]), np.float32)
        for index in missing:
            try:
                _write(files[index], found[index])
            except OSError as error:  # a full disk must not cost the training
                # Without the file's name, which is another one each time.
                _warn_uncached(self._folder.parent, error.strerror or str(error))
        return found

    @functools.cached_property
    def _run(self) -> Any:
        tf = import_tensorflow()
        signature = [tf.TensorSpec([None, *self._sight.canvas, 3], tf.uint8)]
        return tf.function(
            lambda pixels: self._sight.body(tf.cast(pixels, tf.float32), training=False), input_signature=signature
        )

    def _file(self, pixels: NDArray[np.uint8]) -> Path:
        digest = hashlib.sha256(f"{pixels.shape} ".encode() + pixels.tobytes()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.npy"


def looked_at(sight: Sight, frames: Images, *, random: Any = None) -> Iterator[NDArray[np.uint8]]:
    """The pixels that a sight looks at in frames [N, S, S, 3], uint8 [n, height, width, 3], rounded, in batches.

    With `random`, an `augmentation.generator`, as another camera could have seen them.
    """
    tf = import_tensorflow()

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator] # TensorFlow has no types
    def look(batch: Any) -> Any:
        if random is None:
            return sight.pixels(batch)
        views = other_views(sight.views(batch), random, upside_down=sight.finder is not None)
        return other_light(cut(batch, views, sight.canvas), random, upright=sight.finder is not None)

    for start in range(0, len(frames), BATCH_SIZE):
        batch = tf.constant(frames[start : start + BATCH_SIZE])
        yield np.asarray(tf.cast(tf.round(look(batch)), tf.uint8))


def features_of(sight: Sight, frames: Images) -> NDArray[np.float32]:
    """What a sight sees in frames uint8 [N, S, S, 3], float32 [N, width], computed as the exported model does."""
    tf = import_tensorflow()
    see = tf.function(sight.features, reduce_retracing=True)
    return in_batches(lambda batch: see(tf.constant(batch)), frames, size=BATCH_SIZE)


def _read(file: Path, *, width: int) -> NDArray[np.float32] | None:
    try:
        features = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or cut off by a full disk: computed anew
        return None
    return features if features.shape == (width,) and features.dtype == np.float32 else None


def _write(file: Path, features: NDArray[np.float32]) -> None:
    """Complete or absent, whoever else writes the same file now."""
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


@functools.cache  # once, not for each image
def _warn_uncached(folder: Path, why: str) -> None:
    log.warning(
        "features can't be cached in %s: %s. Training goes on without, and the next one computes them anew: make room, "
        "or name another folder with --cache-dir.",
        folder,
        why,
    )


def scaled(images: Any) -> Any:
    """A uint8 tensor as TF-Hub's image modules take it: float32 from 0 to 1."""
    return import_tensorflow().cast(images, "float32") / 255.0
