"""TensorBoard's event files: curves, images and histograms of one training.

In: a ReportData and the folder with its images. Out: `logs/train` and `logs/validation`, the names of Keras's callback.
While a model trains, only the curves are written, epoch by epoch.
The summaries are written as protocol buffers: `tf.summary.scalar` and similar functions would need the package
tensorboard, which otherwise only the viewer needs.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model_store.bundle.policy import Mode
from model_store.reports.data import ReportData
from model_store.runtime.native_output import quiet_native
from model_store.runtime.scratch import describe_disk_error
from model_store.runtime.tensorflow_imports import import_tensorflow
from model_store.training.history import Epoch, OnEpoch, accuracy_title
from shared.arrays import Doubles, Floats

LOGS_DIR = "logs"
# By name in an epoch's values: the tag in the folder `logs/train`, and the tag in the folder `logs/validation`.
_TRAIN_TAGS = {"loss": "loss", "acc": "acc", "learning_rate": "learning_rate"}
_VALIDATION_TAGS = {"val_loss": "loss", "val_acc": "acc"}
# Logs of trainings that failed, or that were killed, are kept this long.
_KEPT_S = 7 * 86400
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
        _write_scalars(tf, data, _TRAIN_TAGS)
        for name, arrays in data.weights.items():
            for step, array in enumerate(arrays, start=last - len(arrays) + 1):
                tf.summary.write(name, histogram(array), step=max(0, step), metadata=metadata("histograms", "TENSOR"))
    with _writer(folder / LOGS_DIR / "validation") as (tf, metadata):
        _write_scalars(tf, data, _VALIDATION_TAGS)
        for name in _IMAGES:
            if (path := folder / f"{name}.png").is_file():
                tf.summary.write(name, _encode_image(path), step=last, metadata=metadata("images", "BLOB_SEQUENCE"))


@contextlib.contextmanager
def live_events(cache: Path, name: str, *, print_line: Callable[[str], None]) -> Iterator[OnEpoch]:
    """Yield a function that writes an epoch into a new folder below `cache`, with the tags of `write_events`.

    If the block succeeds, the folder is deleted, because the bundle's report has the same curves. Otherwise it is kept,
    and a later training deletes it after a week.

    Logs never stop a training: at the first write that fails, e.g. because the disk is full, `print_line` shows a
    warning, and nothing more is written.
    """
    logs = _LiveLogs(print_line)
    logs.attempt(lambda: logs.open(cache / LOGS_DIR, prefix=f"{name}-"))
    try:
        yield logs.write
    finally:
        logs.close()
    logs.delete()


class _LiveLogs:
    """The logs of a training that is running."""

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self._tf = import_tensorflow()
        self._print_line = print_line
        self._failed = False
        self._folder: Path | None = None
        self._writers: list[tuple[Any, Mapping[str, str]]] = []
        self._step = 0

    def open(self, parent: Path, *, prefix: str) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _delete_old_logs(parent)
        folder = self._folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        for name, tags in (("train", _TRAIN_TAGS), ("validation", _VALIDATION_TAGS)):
            self._writers.append((self._tf.summary.create_file_writer(str(folder / name)), tags))
        self._print_line(f"to watch the training: tensorboard --logdir {folder}")

    def write(self, epoch: Epoch) -> None:
        self.attempt(lambda: self._write(epoch))
        self._step += 1

    def attempt(self, write: Callable[[], None]) -> None:
        """Call the function, unless one has failed before."""
        if self._failed:
            return
        try:
            write()
        except (OSError, self._tf.errors.OpError) as error:
            self._failed = True
            self._print_line(
                f"warning: no more logs for TensorBoard: {describe_disk_error(error)}. The training goes on without."
            )

    def close(self) -> None:
        for writer, _ in self._writers:
            with contextlib.suppress(self._tf.errors.OpError):  # it writes what is still buffered
                writer.close()

    def delete(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, epoch: Epoch) -> None:
        for writer, tags in self._writers:
            with writer.as_default():
                _write_values(self._tf, epoch.values, tags, step=self._step, mode=epoch.mode)
            writer.flush()


def _delete_old_logs(parent: Path) -> None:
    """Delete the logs that no training has written to for a week."""
    oldest_at = time.time() - _KEPT_S
    for folder in parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another training has just deleted it
            if max(path.stat().st_mtime for path in (folder, *folder.rglob("*"))) < oldest_at:
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


def _metadata(tf: Any, plugin: str, data_class: str, *, title: str = "") -> Any:
    proto = tf.compat.v1.SummaryMetadata
    data_class = f"DATA_CLASS_{data_class}"
    return proto(plugin_data=proto.PluginData(plugin_name=plugin), data_class=data_class, display_name=title)


def _write_scalars(tf: Any, data: ReportData, tags: Mapping[str, str]) -> None:
    """Write the scalars of all phases; the steps count on from one phase to the next."""
    step = 0
    for phase in data.phases:
        for epoch in range(len(phase.history["loss"])):
            values = {name: numbers[epoch] for name, numbers in phase.history.items()}
            _write_values(tf, values, tags, step=step, mode=data.manifest.mode)
            step += 1


def _write_values(tf: Any, values: Mapping[str, float], tags: Mapping[str, str], *, step: int, mode: Mode) -> None:
    """Write one epoch's scalars `epoch_<tag>`; a name without a value is left out."""
    for name, tag in tags.items():
        if name in values:
            metadata = _metadata(tf, "scalars", "SCALAR", title=accuracy_title(mode) if tag == "acc" else "")
            tf.summary.write(f"epoch_{tag}", tf.constant(values[name], tf.float32), step=step, metadata=metadata)


def _encode_image(path: Path) -> list[bytes]:
    """Width and height as text, then the PNG: the way TensorBoard stores images."""
    from PIL import Image

    with Image.open(path) as image:
        width_px, height_px = image.size
    return [str(width_px).encode(), str(height_px).encode(), path.read_bytes()]
