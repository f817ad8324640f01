"""A complete bundle of a few kilobytes: a real model of three layers, not trained.

Everything in it is real (SavedModel, both LiteRT files, golden answers, digests), but its answers mean nothing. Its
weights are seeded, so that it gives the same answers every time. It is checked in, in the folder `tiny_models`, so that
tests need no TensorFlow. `python -m tests.model_store.tiny_bundle` makes it again, and test_tiny_bundle.py compares.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.golden import Golden, write_golden
from model_store.bundle.manifest import (
    FP32_FILE,
    INT8_FILE,
    MANIFEST_FILE,
    SAVED_MODEL_DIR,
    BackboneInfo,
    DatasetInfo,
    Manifest,
    TrainingInfo,
)
from model_store.bundle.policy import DEFAULT_THRESHOLD, Mode, Policy
from model_store.engines.golden_check import INT8_TOLERANCE
from model_store.engines.litert import LiteRTEngine
from model_store.engines.protocol import Engine
from model_store.registry.store import ModelStore, file_digests

TINY_MODELS = Path(__file__).parent / "tiny_models"
MODES: dict[str, Mode] = {"tiny": "multi", "tiny-single": "single"}
CLASSES = ("good", "no cap", "disfigured")
SIZE_PX = 32
_SEED = 7
_GOLDEN_IMAGES = 6


def publish_tiny_bundles(store: ModelStore) -> None:
    """Publish `tiny` (multi) and `tiny-single`; classes `good`, `no cap`, `disfigured`. Imports TensorFlow."""
    for name, mode in MODES.items():

        def build(folder: Path, version: int, *, name: str = name, mode: Mode = mode) -> None:
            _export(folder, mode=mode, size_px=SIZE_PX)
            _add_golden(folder, mode=mode, size_px=SIZE_PX)
            manifest = tiny_manifest(folder, name=name, version=version, mode=mode, size_px=SIZE_PX)
            (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")

        store.publish(name, build)


def copy_build(bundle: Path, *, name: str = "tiny") -> Callable[[Path, int], None]:
    """A `build` for `ModelStore.publish` that copies an existing bundle, to make versions without TensorFlow."""

    def build(folder: Path, version: int) -> None:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)
        manifest = Manifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
        changed = manifest.model_copy(update={"name": name, "version": version})
        (folder / MANIFEST_FILE).write_text(changed.model_dump_json(indent=2))

    return build


def tiny_manifest(folder: Path, *, name: str, version: int, mode: Mode, size_px: int) -> Manifest:
    """A manifest of the files that are in `folder` now."""
    return Manifest(
        name=name,
        version=version,
        created_at=time.time(),
        mode=mode,
        classes=CLASSES,
        input_size_px=size_px,
        policy=Policy.default(CLASSES, mode),
        backbone=BackboneInfo(handle="none", sha256="0" * 64, feature_width=8),
        training=TrainingInfo(seed=_SEED, epochs=0, batch_size=1, fine_tune="none"),
        dataset=DatasetInfo(fingerprint="0" * 64, images=0, train=0, validation=0, per_label={}),
        files=file_digests(folder),
    )


def random_images(count: int, *, size_px: int = 32, seed: int = _SEED) -> NDArray[np.uint8]:
    """Images that differ in color and brightness, so that the model's answers differ too."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 256, (count, 1, 1, 3))
    noise = rng.integers(-40, 40, (count, size_px, size_px, 3))
    return np.clip(low + noise, 0, 255).astype(np.uint8)


def _export(folder: Path, *, mode: Mode, size_px: int) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    module = tiny_module(tf, mode=mode, size_px=size_px)
    tf.saved_model.save(module, str(folder / SAVED_MODEL_DIR), signatures={"serving_default": module.serve})
    (folder / FP32_FILE).write_bytes(lite_converter(tf, module).convert())
    calibration = random_images(32, size_px=size_px, seed=1)
    (folder / INT8_FILE).write_bytes(lite_converter(tf, module, int8_from=calibration).convert())


def lite_converter(tf: Any, module: Any, *, int8_from: NDArray[np.uint8] | None = None) -> Any:
    """A converter to LiteRT: fp32, or int8 calibrated on the images `int8_from`."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    if int8_from is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in int8_from)
    return converter


def tiny_module(tf: Any, *, mode: Mode, size_px: int) -> Any:
    """A tf.Module with `serve`: uint8 [N, S, S, 3] in, probabilities [N, 3] out."""
    rng = np.random.default_rng(_SEED)
    outputs = len(CLASSES) if mode == "single" else len(CLASSES) - 1

    class Tiny(tf.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(rng.normal(0, 0.4, (3, 3, 3, 8)).astype(np.float32))
            self.head = tf.Variable(rng.normal(0, 2.0, (8, outputs)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, size_px, size_px, 3], tf.uint8, name="images")])
        def serve(self, images: Any) -> Any:
            scaled = tf.cast(images, tf.float32) / 127.5 - 1.0
            features = tf.nn.relu(tf.nn.conv2d(scaled, self.kernel, strides=2, padding="SAME"))
            logits = tf.matmul(tf.reduce_mean(features, axis=[1, 2]), self.head)
            if mode == "single":
                return {"probabilities": tf.nn.softmax(logits)}
            defects = tf.sigmoid(logits)
            good = tf.reduce_prod(1.0 - defects, axis=1, keepdims=True)
            return {"probabilities": tf.concat([good, defects], axis=1)}

    return Tiny()


def _add_golden(folder: Path, *, mode: Mode, size_px: int) -> None:
    engines: list[Engine] = [
        LiteRTEngine(
            (folder / file).read_bytes(),
            name=name,
            input_size_px=size_px,
            classes_count=len(CLASSES),
            threads=1,
            location=folder / file,
        )
        for file, name in ((FP32_FILE, "litert-fp32"), (INT8_FILE, "litert"))
    ]
    images = random_images(64, size_px=size_px)
    float32, int8 = (engine.predict(images) for engine in engines)
    clear = np.flatnonzero(_clearness(int8, mode=mode) > 2 * INT8_TOLERANCE)[:_GOLDEN_IMAGES]
    write_golden(folder, Golden(images=images[clear], float32=float32[clear], int8=int8[clear]))


def _clearness(probabilities: NDArray[np.float32], *, mode: Mode) -> NDArray[np.float32]:
    """How far the probabilities of each image are from giving other labels, [N]."""
    if mode == "single":
        first, second = np.sort(probabilities, axis=1)[:, :-3:-1].T
        return np.asarray(first - second)
    return np.asarray(np.abs(probabilities[:, 1:] - DEFAULT_THRESHOLD).min(axis=1))


if __name__ == "__main__":
    shutil.rmtree(TINY_MODELS, ignore_errors=True)
    publish_tiny_bundles(ModelStore(TINY_MODELS))
