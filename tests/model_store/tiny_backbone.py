"""A small real TF-Hub SavedModel and datasets of colored squares: a whole training in seconds."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from model_store.runtime.tensorflow_imports import import_tensorflow, quiet_native

SIZE_PX = 32
COLORS = {"good": (40, 200, 40), "no cap": (220, 40, 40), "pigmented": (40, 40, 220)}


def save_tiny_backbone(folder: Path, *, width: int = 24, classifier: bool = False) -> Path:
    """Save eight seeded convolutions and a mean, as TF-Hub modules are saved: [0, 1] in, [N, width] out.

    With `classifier` the mean is left out, so that the answer is a map instead of a feature vector.
    """
    tf = import_tensorflow()
    rng = np.random.default_rng(5)
    widths = [3, *[12] * 7, width]
    kernels = [
        tf.Variable(rng.normal(0, (2 / (9 * before)) ** 0.5, (3, 3, before, after)).astype(np.float32))
        for before, after in itertools.pairwise(widths)
    ]

    @tf.function
    def call(images: object, training: bool = False) -> object:
        for number, kernel in enumerate(kernels):
            images = tf.nn.relu6(tf.nn.conv2d(images, kernel, strides=2 if number % 3 == 0 else 1, padding="SAME"))
        return images if classifier else tf.reduce_mean(images, axis=[1, 2])

    with quiet_native():
        spec = tf.TensorSpec([None, SIZE_PX, SIZE_PX, 3], tf.float32)
        for training in (False, True):
            call.get_concrete_function(spec, training=training)
        module = tf.train.Checkpoint()
        module.__call__ = call
        module.variables = module.trainable_variables = kernels
        module.regularization_losses = []
        tf.saved_model.save(module, str(folder))
    return folder


def picture(labels: str, seed: int) -> bytes:
    """A PNG whose left half has the color of the first label, and its right half that of the last."""
    rng = np.random.default_rng(seed)
    names = labels.split("|")
    pixels = np.empty((SIZE_PX, SIZE_PX, 3))
    pixels[:, : SIZE_PX // 2], pixels[:, SIZE_PX // 2 :] = COLORS[names[0]], COLORS[names[-1]]
    noisy = np.clip(pixels + rng.normal(0, 15, pixels.shape), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noisy).save(out, "PNG")
    return out.getvalue()


def write_class_folders(folder: Path, *, per_class: int = 20) -> Path:
    """Write one folder per color."""
    for number, name in enumerate(COLORS):
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            (folder / name / f"{index:03}.png").write_bytes(picture(name, 1000 * number + index))
    return folder


def write_labeled(folder: Path, rows: Mapping[str, str], *, first_seed: int = 0) -> Path:
    """Write one picture for each file name in `rows`, and labels.csv with their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, labels) in enumerate(rows.items(), start=first_seed):
        (folder / name).write_bytes(picture(labels, seed))
    lines = "".join(f"{name},{labels}\n" for name, labels in rows.items())
    (folder / "labels.csv").write_text("filename,labels\n" + lines)
    return folder
