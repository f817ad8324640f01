"""The pictures and logs of one training: curves and confusion as PNG, and TensorBoard's event files.

In: the history and the figures of `evaluate`. Out: files in `report/` of a bundle. matplotlib, without a display.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model_store.native import quiet_native
from model_store.tf import import_tensorflow
from model_store.training import History

_LOGS_DIR = "logs"
_DPI = 80


def write_report(folder: Path, *, history: History, metrics: dict[str, Any]) -> None:
    """Write `curves.png`, `confusion.png` and `logs/{train,validation}/` into `folder`, which is made."""
    folder.mkdir(parents=True)
    _curves(folder / "curves.png", history)
    _confusion(folder / "confusion.png", metrics["confusion"])
    _events(folder / _LOGS_DIR / "train", {"epoch_loss": history["loss"], "epoch_acc": history["acc"]})
    _events(folder / _LOGS_DIR / "validation", {"epoch_loss": history["val_loss"], "epoch_acc": history["val_acc"]})


def _curves(path: Path, history: History) -> None:
    figure = _figure(9, 3.5)
    for place, (name, title) in enumerate((("acc", "accuracy"), ("loss", "loss")), start=1):
        axes = figure.add_subplot(1, 2, place)
        epochs = range(1, len(history[name]) + 1)
        axes.plot(epochs, history[name], label="training")
        axes.plot(epochs, history[f"val_{name}"], label="validation")
        axes.set(title=title, xlabel="epoch")
        axes.legend()
    figure.savefig(path, dpi=_DPI)


def _confusion(path: Path, confusion: dict[str, Any]) -> None:
    classes, matrix = confusion["classes"], confusion["matrix"]
    side_in = 2.5 + 0.7 * len(classes)
    figure = _figure(side_in, side_in)
    axes = figure.add_subplot()
    axes.imshow(matrix, cmap="Blues")
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="most probable class", ylabel="true label")
    half = max(max(row) for row in matrix) / 2
    for y, row in enumerate(matrix):
        for x, count in enumerate(row):
            axes.text(x, y, str(count), ha="center", va="center", color="white" if count > half else "black")
    figure.savefig(path, dpi=_DPI)


def _figure(width_in: float, height_in: float) -> Any:
    """A figure that belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def _events(folder: Path, scalars: dict[str, list[float]]) -> None:
    """Scalars by epoch. `tf.summary.scalar` would need the package tensorboard, which only the viewer needs."""
    tf = import_tensorflow()
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
    )
    with quiet_native():
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default():
            for name, values in scalars.items():
                for epoch, value in enumerate(values):
                    tf.summary.write(name, tf.constant(value, tf.float32), step=epoch, metadata=metadata)
        writer.close()
