"""A backbone's features of images, each computed once: the cache is what makes training take seconds.

In: uint8 images. Out: float32 features, from disk where they are there. The key is the digest of the pixels
themselves, so a changed file, size or decoder is another key.

    <cache>/features/<backbone's digest>/<aa>/<digest of the pixels>.npy
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.backbones import Backbone
from model_store.native import quiet_native
from model_store.progress import Advance
from model_store.tf import import_hub, import_tensorflow

# As many as the tutorial's; larger ones are no faster on CPUs.
BATCH_SIZE = 32


class FeatureExtractor:
    """One backbone, frozen, through `hub.KerasLayer`, with a cache on disk."""

    def __init__(self, backbone: Backbone, *, cache: Path) -> None:
        """`cache` is the settings' `cache_path`. TensorFlow is imported when a feature is not there yet."""
        self.backbone = backbone
        self._folder = cache / "features" / backbone.sha256

    @cached_property
    def layer(self) -> Any:
        """The backbone as a frozen Keras layer: float32 [N, S, S, 3] from 0 to 1 to float32 [N, width]."""
        hub = import_hub()
        with quiet_native():
            return hub.KerasLayer(str(self.backbone.path), trainable=False)

    def features(self, images: NDArray[np.uint8], *, advance: Advance) -> NDArray[np.float32]:
        """Features of uint8 images [N, S, S, 3], float32 [N, width]; `advance` hears how many are done."""
        found = np.empty((len(images), self.backbone.feature_width), np.float32)
        files = [self._file(image) for image in images]
        missing = []
        for index, file in enumerate(files):
            cached = _read(file, width=self.backbone.feature_width)
            if cached is None:
                missing.append(index)
            else:
                found[index] = cached
        advance(len(images) - len(missing))
        for start in range(0, len(missing), BATCH_SIZE):
            batch = missing[start : start + BATCH_SIZE]
            found[batch] = self._compute(images[batch])
            for index in batch:
                _write(files[index], found[index])
            advance(len(batch))
        return found

    def _compute(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(self._run(images).numpy(), np.float32)

    @cached_property
    def _run(self) -> Any:
        tf, layer = import_tensorflow(), self.layer
        size_px = self.backbone.input_size_px
        signature = [tf.TensorSpec([None, size_px, size_px, 3], tf.uint8)]
        return tf.function(lambda images: layer(scaled(images)), input_signature=signature)

    def _file(self, image: NDArray[np.uint8]) -> Path:
        digest = hashlib.sha256(f"{image.shape} ".encode() + image.tobytes()).hexdigest()
        return self._folder / digest[:2] / f"{digest}.npy"


def scaled(images: Any) -> Any:
    """A uint8 tensor as backbones take it: float32 from 0 to 1."""
    return import_tensorflow().cast(images, "float32") / 255.0


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
