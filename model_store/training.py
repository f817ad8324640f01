"""The head: a dense layer trained on a frozen backbone's features.

In: features and labels. Out: a Head of plain arrays, and the history of its training. Touches no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_store.policy import GOOD, Mode
from model_store.progress import Advance
from model_store.tf import import_keras

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class HeadSettings:
    """How a head is trained.

    The defaults are the tutorial's (Adam, batches of 32, 25 epochs) with changes measured on the bottle
    frames (`comparison`, 5 to 8 splits): mirrored views, and a rate that starts five times higher and falls
    to nothing along a cosine, raise macro F1 by some 0.03; a start from zeros raises the accuracy of
    `single` by 0.03. Targets drawn in from 0 and 1 and a little weight decay are within the noise; they
    keep the weights small, which is what lets the fp32 export agree with the trained model to 1e-5.
    """

    epochs: int = 25
    batch_size: int = 32
    learning_rate: float = 5e-3
    decays: bool = True
    label_smoothing: float = 0.05
    mirrored: bool = True
    weight_decay: float = 0.3  # share of the weights taken away a step, times the rate; not of the bias
    kernel_initializer: Literal["zeros", "glorot_uniform"] = "zeros"

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


# The tutorial's cell: `Adam()`, 25 epochs, nothing else.
TUTORIAL = HeadSettings(
    learning_rate=1e-3,
    decays=False,
    label_smoothing=0.0,
    mirrored=False,
    weight_decay=0.0,
    kernel_initializer="glorot_uniform",
)


@dataclass(frozen=True)
class Head:
    """A trained dense layer. `kernel` is float32 [width, outputs], `bias` [outputs].

    `single` has an output per class (softmax); `multi` one per class but `good` (sigmoid).
    """

    mode: Mode
    classes: tuple[str, ...]
    kernel: Floats
    bias: Floats


class Examples(NamedTuple):
    """Features, float32 [N, width], and targets, float32 [N, outputs]."""

    features: Floats
    targets: Floats


History = dict[str, list[float]]  # loss, accuracy, val_loss, val_accuracy: one value an epoch


def outputs_of(classes: Sequence[str], mode: Mode) -> tuple[str, ...]:
    """The classes that have an output of their own: in `multi`, `good` is derived from the defects."""
    return tuple(name for name in classes if mode == "single" or name != GOOD)


def targets_of(labels: Sequence[tuple[str, ...]], classes: Sequence[str], mode: Mode) -> Floats:
    """1 where a label applies, float32 [N, outputs]."""
    outputs = outputs_of(classes, mode)
    rows = [[float(name in names) for name in outputs] for names in labels]
    return np.array(rows, np.float32).reshape(len(labels), len(outputs))


def train_head(
    train: Examples,
    validation: Examples,
    *,
    classes: tuple[str, ...],
    mode: Mode,
    settings: HeadSettings,
    seed: int,
    advance: Advance,
) -> tuple[Head, History]:
    """Train a head; the same arguments give the same head on the same machine.

    `train` already holds the mirrored views, if there are any. `validation` is only watched: nothing is
    chosen by it. `advance` hears of each epoch.
    """
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    single = mode == "single"
    layer = keras.layers.Dense(
        train.targets.shape[1],
        activation="softmax" if single else "sigmoid",
        kernel_initializer=settings.kernel_initializer,
    )
    model = keras.Sequential([keras.Input((train.features.shape[1],)), layer])
    loss = keras.losses.CategoricalCrossentropy if single else keras.losses.BinaryCrossentropy
    # AdamW without decay is Adam.
    optimizer = keras.optimizers.AdamW(
        _rate(keras, settings, examples=len(train.features)), weight_decay=settings.weight_decay
    )
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(
        optimizer=optimizer,
        loss=loss(label_smoothing=settings.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy("acc") if single else keras.metrics.BinaryAccuracy("acc")],
    )
    fitted = model.fit(
        *train,
        validation_data=tuple(validation),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: advance(1))],
    )
    kernel, bias = (np.asarray(array, np.float32) for array in layer.get_weights())
    history = {name: [float(value) for value in values] for name, values in fitted.history.items()}
    return Head(mode, classes, kernel, bias), history


def _rate(keras: Any, settings: HeadSettings, *, examples: int) -> Any:
    if not settings.decays:
        return settings.learning_rate
    steps = settings.epochs * -(-examples // settings.batch_size)
    return keras.optimizers.schedules.CosineDecay(settings.learning_rate, steps)


def probabilities(head: Head, features: Floats) -> Floats:
    """The head's answers, float32 [N, C], one column per class, computed without TensorFlow."""
    logits = features @ head.kernel + head.bias
    if head.mode == "single":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    # exp of a large number overflows to infinity, which gives the right answer, 0.
    with np.errstate(over="ignore"):
        defects = 1.0 / (1.0 + np.exp(-logits))
    columns = dict(zip(outputs_of(head.classes, "multi"), defects.T, strict=True))
    columns[GOOD] = np.prod(1.0 - defects, axis=1)
    return np.stack([columns[name] for name in head.classes], axis=1).astype(np.float32)
