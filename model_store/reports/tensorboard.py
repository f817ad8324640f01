"""TensorBoard's event files: curves, images and histograms of one training.

In: a ReportData and the folder with its images. Out: `logs/train` and `logs/validation`, the names of Keras's callback.
The summaries are written as protocol buffers: `tf.summary.scalar` and similar functions would need the package
tensorboard, which otherwise only the viewer needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_store.reports.data import ReportData
from model_store.runtime.native_output import quiet_native
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.history import Phase
from shared.arrays import Doubles, Floats

LOGS_DIR = "logs"
_BUCKETS = 30  # TensorBoard's own default
_IMAGES = ("samples", "mistakes", "confusion")


def write_events(folder: Path, data: ReportData) -> None:
    """Write `logs/train` and `logs/validation` into the report's `folder`, which already holds the images.

    Tags: `epoch_loss`, `epoch_acc` in both; `epoch_learning_rate` and the weights' histograms in `train`; the
    images in `validation`. Steps are epochs from 0, through all phases.
    """
    epochs = sum(len(phase.history["loss"]) for phase in data.phases)
    last = max(0, epochs - 1)
    with _writer(folder / LOGS_DIR / "train") as (tf, metadata):
        _write_scalars(tf, metadata, data.phases, {"loss": "loss", "acc": "acc", "learning_rate": "learning_rate"})
        for name, arrays in data.weights.items():
            for step, array in enumerate(arrays, start=last - len(arrays) + 1):
                tf.summary.write(name, histogram(array), step=max(0, step), metadata=metadata("histograms", "TENSOR"))
    with _writer(folder / LOGS_DIR / "validation") as (tf, metadata):
        _write_scalars(tf, metadata, data.phases, {"val_loss": "loss", "val_acc": "acc"})
        for name in _IMAGES:
            if (path := folder / f"{name}.png").is_file():
                tf.summary.write(name, _encode_image(path), step=last, metadata=metadata("images", "BLOB_SEQUENCE"))


def histogram(values: Floats) -> Doubles:
    """Rows of (left edge, right edge, count), [30, 3], as TensorBoard stores histograms; of finite values only."""
    counts, edges = np.histogram(values[np.isfinite(values)], bins=_BUCKETS)
    return np.column_stack([edges[:-1], edges[1:], counts]).astype(np.float64)


@contextlib.contextmanager
def _writer(folder: Path) -> Iterator[tuple[Any, Any]]:
    """TensorFlow, writing its summaries into `folder`, and a function that makes their metadata."""
    tf = import_tensorflow()
    proto = tf.compat.v1.SummaryMetadata

    def metadata(plugin: str, data_class: str) -> Any:
        return proto(plugin_data=proto.PluginData(plugin_name=plugin), data_class=f"DATA_CLASS_{data_class}")

    with quiet_native():
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default():
            yield tf, metadata
        writer.close()


def _write_scalars(tf: Any, metadata: Any, phases: Sequence[Phase], tags: Mapping[str, str]) -> None:
    """Write scalars `epoch_<tag>`; an epoch without a value gets none."""
    step = 0
    for phase in phases:
        for epoch in range(len(phase.history["loss"])):
            for name, tag in tags.items():
                if name in phase.history:
                    value = tf.constant(phase.history[name][epoch], tf.float32)
                    tf.summary.write(f"epoch_{tag}", value, step=step, metadata=metadata("scalars", "SCALAR"))
            step += 1


def _encode_image(path: Path) -> list[bytes]:
    """Width and height as text, then the PNG: the way TensorBoard stores images."""
    from PIL import Image

    with Image.open(path) as image:
        width_px, height_px = image.size
    return [str(width_px).encode(), str(height_px).encode(), path.read_bytes()]
