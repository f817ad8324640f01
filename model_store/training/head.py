"""The head: a dense layer trained on a frozen backbone's features.

In: features and targets. Out: a Head of plain arrays, and its training curves. Reads and writes no files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from model_store.bundle.policy import GOOD, Mode
from model_store.runtime.progress import OnProgress
from model_store.runtime.tensorflow_imports import import_keras
from model_store.training import losses
from model_store.training.history import HEAD_PHASE, Epoch, History, OnEpoch
from shared.arrays import Bools, Floats
from shared.progress import ignore


@dataclass(frozen=True)
class HeadSettings:
    """How a head is trained. The names of the fields are keys of the manifest's `training.settings`.

    The defaults are those of tutorials on transfer learning with TF-Hub (Adam, batches of 32, 25 epochs), with changes
    that were measured on the bottle frames: a learning rate that starts five times higher and falls to zero along a
    cosine; weights that start at zero; label smoothing and weight decay (small weights are also what makes the fp32
    export agree with the trained model to 1e-5); standardized features; a higher weight for rare classes; and the
    weights of the epoch with the lowest validation loss.
    """

    epochs: int = 25
    batch_size: int = 32
    learning_rate: float = 5e-3
    decays: bool = True
    label_smoothing: float = 0.05
    views: int = 4  # versions of every training image: itself, and augmented ones
    weight_decay: float = 0.3  # a step shrinks the kernel, not the bias, by this share times the learning rate
    kernel_initializer: Literal["zeros", "glorot_uniform"] = "zeros"
    standardised: bool = True
    class_weights: bool = True
    best_epoch: bool = True  # keep the weights of the epoch with the lowest validation loss
    patience: int | None = 10  # the training stops after this many epochs without a lower validation loss

    def as_dict(self) -> dict[str, Any]:
        """The settings as the manifest stores them."""
        return asdict(self)


# The plain recipe of tutorials on transfer learning with TF-Hub: `Adam()`, 25 epochs, nothing else.
TUTORIAL = HeadSettings(
    learning_rate=1e-3,
    decays=False,
    label_smoothing=0.0,
    views=1,
    weight_decay=0.0,
    kernel_initializer="glorot_uniform",
    standardised=False,
    class_weights=False,
    best_epoch=False,
    patience=None,
)


@dataclass(frozen=True)
class Head:
    """A trained dense layer. `kernel` is float32 [width, outputs], `bias` [outputs].

    `single` has one output per class (softmax); `multi` one per class except `good` (sigmoid).
    """

    mode: Mode
    classes: tuple[str, ...]
    kernel: Floats
    bias: Floats


class Examples(NamedTuple):
    """Features, float32 [N, width], and targets, float32 [N, outputs]."""

    features: Floats
    targets: Floats


class TrainResult(NamedTuple):
    """A trained head and its training curves.

    `best_epoch` is the epoch, counted from 0, whose weights the head has. -1 means the weights that the training
    started from. `loss_before` is their `val_loss`, if it was measured. Losses of the head and of fine-tuning can't be
    compared, because the labels are smoothed differently.
    """

    head: Head
    history: History
    best_epoch: int
    loss_before: float | None = None


def outputs_of(classes: Sequence[str], mode: Mode) -> tuple[str, ...]:
    """The classes that the head has outputs for. In `multi`, `good` has none: it is derived from the defects."""
    return tuple(name for name in classes if mode == "single" or name != GOOD)


def targets_of(
    labels: Sequence[tuple[str, ...]], classes: Sequence[str], mode: Mode, *, label_mask: Bools | None = None
) -> Floats:
    """Targets, float32 [N, outputs]: 1 where a label applies, 0 where it does not, NaN where that is unknown.

    `label_mask` is bool [N, C] in the order of `classes`, False where the label is unknown; None: all are known.
    """
    outputs = outputs_of(classes, mode)
    rows = [[float(name in names) for name in outputs] for names in labels]
    targets = np.array(rows, np.float32).reshape(len(labels), len(outputs))
    if label_mask is not None and mode == "multi":
        targets[~label_mask[:, [list(classes).index(name) for name in outputs]]] = np.nan
    return targets


def train_head(
    train: Examples,
    validation: Examples,
    *,
    classes: tuple[str, ...],
    mode: Mode,
    settings: HeadSettings,
    seed: int,
    on_progress: OnProgress,
    on_epoch: OnEpoch = ignore,
) -> TrainResult:
    """Train a head; the same arguments give the same head on the same machine.

    Args:
        train: includes the augmented versions, if any.
        validation: chooses the epoch to keep, if `settings.best_epoch` is set.
        on_progress: called after each epoch.
        on_epoch: called after each epoch, with its loss and accuracy.
    """
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    scaler = Scaler.of(train.features) if settings.standardised else Scaler.identity(train.features.shape[1])
    layer = keras.layers.Dense(train.targets.shape[1], kernel_initializer=settings.kernel_initializer)
    model = keras.Sequential([keras.Input((train.features.shape[1],)), layer])
    _compile(keras, model, train, mode=mode, settings=settings)
    rates = _rates(settings.epochs, images=len(train.features), settings=settings)

    def report(epoch: int, logs: dict[str, float]) -> None:
        on_progress(1)
        values = {name: float(value) for name, value in logs.items()} | {"learning_rate": rates[epoch]}
        on_epoch(Epoch(HEAD_PHASE, epoch, settings.epochs, mode, values))

    reporter = keras.callbacks.LambdaCallback(on_epoch_end=report)
    stopper = keras.callbacks.EarlyStopping(patience=settings.patience or settings.epochs, restore_best_weights=True)
    fitted = model.fit(
        scaler.apply(train.features),
        train.targets,
        validation_data=(scaler.apply(validation.features), validation.targets),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        verbose=0,
        callbacks=[reporter, stopper] if settings.best_epoch else [reporter],
    )
    history = {name: [float(value) for value in values] for name, values in fitted.history.items()}
    history["learning_rate"] = rates[: len(history["loss"])]
    best_epoch = int(stopper.best_epoch) if settings.best_epoch else len(history["loss"]) - 1
    # The callback itself restores weights only when it stops a run early.
    weights = stopper.best_weights if settings.best_epoch else layer.get_weights()
    return TrainResult(Head(mode, classes, *scaler.fold_into_dense(*weights)), history, best_epoch)


class Scaler(NamedTuple):
    """Brings each feature to mean 0 and deviation 1, so that one learning rate suits all.

    `mean` and `scale` are [width].
    """

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, features: Floats) -> Scaler:
        """The scaler for training features [N, width].

        A feature that hardly varies is not scaled up to the size of the others.
        """
        return cls(features.mean(axis=0), features.std(axis=0) + np.float32(0.05 * features.std() + 1e-6))

    @classmethod
    def identity(cls, width: int) -> Scaler:
        """A scaler that changes nothing."""
        return cls(np.zeros(width, np.float32), np.ones(width, np.float32))

    def apply(self, features: Floats) -> Floats:
        """Features [N, width], standardized."""
        return (features - self.mean) / self.scale

    def fold_into_dense(self, kernel: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Convert a layer ([width, K], [K]) on standardized features to the equivalent layer on plain features."""
        plain = kernel / self.scale[:, None]
        return plain.astype(np.float32), (bias - self.mean @ plain).astype(np.float32)


def _compile(keras: Any, model: Any, train: Examples, *, mode: Mode, settings: HeadSettings) -> None:
    weights = losses.class_weights(train.targets, mode) if settings.class_weights else None

    def loss(targets: Any, logits: Any) -> Any:
        return losses.loss(targets, logits, mode=mode, smoothing=settings.label_smoothing, weights=weights)

    def acc(targets: Any, logits: Any) -> Any:
        return losses.accuracy(targets, logits, mode=mode)

    # AdamW without weight decay is Adam.
    rate = _rate(len(train.features), settings)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.compile(optimizer=optimizer, loss=loss, metrics=[acc])


def _rate(images: int, settings: HeadSettings) -> Any:
    """The learning rate: a number, or a schedule by step."""
    if not settings.decays:
        return settings.learning_rate
    steps = settings.epochs * _steps_per_epoch(images, settings)
    return import_keras().optimizers.schedules.CosineDecay(settings.learning_rate, steps)


def _rates(epochs: int, *, images: int, settings: HeadSettings) -> list[float]:
    """The learning rate at the start of each epoch."""
    rate = _rate(images, settings)
    if not settings.decays:
        return [float(rate)] * epochs
    return [float(rate(epoch * _steps_per_epoch(images, settings))) for epoch in range(epochs)]


def _steps_per_epoch(images: int, settings: HeadSettings) -> int:
    return -(-images // settings.batch_size)


def logits_of(head: Head, features: Floats) -> Floats:
    """The head's logits, float32 [N, outputs], computed without TensorFlow."""
    return np.asarray(features @ head.kernel + head.bias, np.float32)


def probabilities_of(logits: Floats, *, classes: Sequence[str], mode: Mode) -> Floats:
    """Probabilities, float32 [N, C], one column per class, from a head's logits [N, outputs]."""
    if mode == "single":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    # exp of a large number overflows to infinity, which gives the right probability, 0.
    with np.errstate(over="ignore"):
        defects = 1.0 / (1.0 + np.exp(-logits))
    columns = dict(zip(outputs_of(classes, "multi"), defects.T, strict=True))
    columns[GOOD] = np.prod(1.0 - defects, axis=1)
    return np.stack([columns[name] for name in classes], axis=1).astype(np.float32)
