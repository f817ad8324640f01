"""TensorBoard's event files: curves, images and histograms of one training.

In: a ReportData and the folder with its images. Out: `logs/train` and `logs/validation`, the names of Keras's callback.
While a model trains, only the curves are written, epoch by epoch.
The summaries are written as protocol buffers: `tf.summary.scalar` and similar functions would need the package
tensorboard, which otherwise only the viewer needs.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_store.reports.data import ReportData
from model_store.runtime.native_output import quiet_native
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.history import Epoch, OnEpoch, Phase
from shared.arrays import Doubles, Floats

LOGS_DIR = "logs"
# By name in an epoch's values: the tag in the folder `logs/train`, and the tag in the folder `logs/validation`.
_TRAIN_TAGS = {"loss": "loss", "acc": "acc", "learning_rate": "learning_rate"}
_VALIDATION_TAGS = {"val_loss": "loss", "val_acc": "acc"}
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
        _write_scalars(tf, data.phases, _TRAIN_TAGS)
        for name, arrays in data.weights.items():
            for step, array in enumerate(arrays, start=last - len(arrays) + 1):
                tf.summary.write(name, histogram(array), step=max(0, step), metadata=metadata("histograms", "TENSOR"))
    with _writer(folder / LOGS_DIR / "validation") as (tf, metadata):
        _write_scalars(tf, data.phases, _VALIDATION_TAGS)
        for name in _IMAGES:
            if (path := folder / f"{name}.png").is_file():
                tf.summary.write(name, _encode_image(path), step=last, metadata=metadata("images", "BLOB_SEQUENCE"))


@contextlib.contextmanager
def live_events(folder: Path) -> Iterator[OnEpoch]:
    """Yield a function that writes an epoch below `folder`, with the tags of `write_events`.

    The folder is deleted when the block ends: by then the bundle's report will have the same curves.
    """
    tf = import_tensorflow()
    writers = [
        (tf.summary.create_file_writer(str(folder / name)), tags)
        for name, tags in (("train", _TRAIN_TAGS), ("validation", _VALIDATION_TAGS))
    ]
    step = itertools.count()

    def write(epoch: Epoch) -> None:
        number = next(step)
        for writer, tags in writers:
            with writer.as_default():
                _write_values(tf, epoch.values, tags, step=number)
            writer.flush()

    try:
        yield write
    finally:
        for writer, _ in writers:
            writer.close()
        shutil.rmtree(folder, ignore_errors=True)


def histogram(values: Floats) -> Doubles:
    """Rows of (left edge, right edge, count), [30, 3], as TensorBoard stores histograms; of finite values only."""
    counts, edges = np.histogram(values[np.isfinite(values)], bins=_BUCKETS)
    return np.column_stack([edges[:-1], edges[1:], counts]).astype(np.float64)


@contextlib.contextmanager
def _writer(folder: Path) -> Iterator[tuple[Any, Any]]:
    """TensorFlow, writing its summaries into `folder`, and a function that makes their metadata."""
    tf = import_tensorflow()

    def metadata(plugin: str, data_class: str) -> Any:
        return _metadata(tf, plugin, data_class)

    with quiet_native():
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default():
            yield tf, metadata
        writer.close()


def _metadata(tf: Any, plugin: str, data_class: str) -> Any:
    proto = tf.compat.v1.SummaryMetadata
    return proto(plugin_data=proto.PluginData(plugin_name=plugin), data_class=f"DATA_CLASS_{data_class}")


def _write_scalars(tf: Any, phases: Sequence[Phase], tags: Mapping[str, str]) -> None:
    """Write the scalars of all phases; the steps count on from one phase to the next."""
    step = 0
    for phase in phases:
        for epoch in range(len(phase.history["loss"])):
            _write_values(tf, {name: numbers[epoch] for name, numbers in phase.history.items()}, tags, step=step)
            step += 1


def _write_values(tf: Any, values: Mapping[str, float], tags: Mapping[str, str], *, step: int) -> None:
    """Write one epoch's scalars `epoch_<tag>`; a name without a value is left out."""
    for name, tag in tags.items():
        if name in values:
            value = tf.constant(values[name], tf.float32)
            tf.summary.write(f"epoch_{tag}", value, step=step, metadata=_metadata(tf, "scalars", "SCALAR"))


def _encode_image(path: Path) -> list[bytes]:
    """Width and height as text, then the PNG: the way TensorBoard stores images."""
    from PIL import Image

    with Image.open(path) as image:
        width_px, height_px = image.size
    return [str(width_px).encode(), str(height_px).encode(), path.read_bytes()]
