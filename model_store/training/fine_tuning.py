"""Fine-tuning: trains the backbone's top layers, all layers, or all layers from scratch, together with a head.

In: an extractor, frames with targets, and a head to start from. Out: the extractor with other weights, and its head.

Batch normalization: pretrained layers keep their statistics and run as in serving. Within a few steps, batches of 16
bottles from one plant would destroy statistics that were gathered from a million images. Scale and offset are trained
like any other weight. When training from scratch there are no statistics to keep, so the layers run as in training and
gather their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from model_store.bundle.policy import Mode
from model_store.datasets.lazy_images import ImageStack, in_batches
from model_store.runtime.progress import OnProgress
from model_store.runtime.tensorflow_imports import import_keras, import_tensorflow
from model_store.training import losses
from model_store.training.augmentation import augment_pixels, augment_transforms, random_generator
from model_store.training.crop_geometry import crop_frames
from model_store.training.feature_extractor import FeatureExtractor
from model_store.training.head import Head, Scaler, TrainResult
from model_store.training.history import FINE_TUNING_PHASE, Epoch, History, OnEpoch
from shared.arrays import Floats, Indices
from shared.errors import BadSetting
from shared.progress import ignore

FineTuneMethod = Literal["none", "top", "all", "scratch"]

_EVALUATION_BATCH_SIZE = 32


@dataclass(frozen=True)
class FineTuneSettings:
    """How layers are trained. Chosen on the bottle frames; `plan` says what they gain.

    The names of the fields are keys of the manifest's `training.settings.tuning`.
    """

    learning_rate: float
    epochs: int = 15
    batch_size: int = 16
    head_learning_rate: float = 3e-3
    label_smoothing: float = 0.02
    dropout: float = 0.3  # of the features
    weight_decay: float = 0.02
    largest_gradient: float = 2.0  # norm over all layers
    own_statistics: bool = False  # batch normalization gathers its own statistics; only from scratch

    def as_dict(self) -> dict[str, Any]:
        """The settings as the manifest stores them."""
        return asdict(self)


# The learning rates are low, so that pretrained weights are adapted, not lost, and lower still if early layers change.
# There is no early stopping: the first steps disturb the head, and often only the last epochs, at low rates, are better
# than the start (with a stop after eight epochs without gain, `single` on the bottle frames fell from 0.90 to 0.83).
SETTINGS: dict[FineTuneMethod, FineTuneSettings] = {
    "top": FineTuneSettings(learning_rate=3e-4),
    "all": FineTuneSettings(learning_rate=1e-4),
    "scratch": FineTuneSettings(learning_rate=1e-3, own_statistics=True),
}


@dataclass(frozen=True)
class Frames:
    """Frames uint8 [N, S, S, 3] with their targets, float32 [N, outputs], NaN where unknown.

    `groups` has one number per frame, equal for copies of one photograph; None means that there are no copies.
    """

    images: ImageStack
    targets: Floats
    groups: Sequence[int] | None = None


def fine_tune(
    extractor: FeatureExtractor,
    head: Head,
    *,
    variables: Sequence[Any],
    train: Frames,
    validation: Frames,
    settings: FineTuneSettings,
    scaler: Scaler,
    seed: int,
    on_progress: OnProgress,
    on_epoch: OnEpoch = ignore,
) -> TrainResult:
    """Train `variables` of the extractor, in place, and the head.

    The last epoch is kept, unless it is less accurate on the validation images than the epoch with the lowest loss:
    then that one is. If no epoch lowers the loss of the pretrained layers with the given head, layers and head stay as
    they were.

    Args:
        variables: those of the extractor's variables that are trained, in the extractor's order.
        scaler: standardizes the head's features while it learns.
        on_progress: called with the number of images of each step.
        on_epoch: called after each epoch.

    Raises:
        BadSetting: training from scratch, and no epoch had a finite validation loss.
    """
    run = _Run(
        extractor,
        head,
        variables=variables,
        settings=settings,
        scaler=scaler,
        class_weights=losses.class_weights(train.targets, head.mode),
        seed=seed,
    )
    rng = np.random.default_rng(seed)
    learning_rates = run.make_optimizers(steps_per_epoch=-(-len(train.images) // settings.batch_size))
    history: History = {"loss": [], "acc": [], "val_loss": [], "val_acc": []}
    pixels = run.crop(validation.images)
    loss_before = run.evaluate(pixels, validation.targets)[0]
    best_epoch, kept = -1, run.weights()
    best_loss = math.inf if settings.own_statistics else loss_before  # random weights are not worth keeping
    for epoch in range(settings.epochs):
        trained = run.train_epoch(train, rng.permutation(len(train.images)), on_progress=on_progress)
        loss, accuracy = run.evaluate(pixels, validation.targets)
        for name, value in zip(history, (*trained, loss, accuracy), strict=True):
            history[name].append(float(value))
        values = {name: numbers[-1] for name, numbers in history.items()} | {"learning_rate": learning_rates[epoch]}
        on_epoch(Epoch(FINE_TUNING_PHASE, epoch, settings.epochs, head.mode, values))
        if loss < best_loss:
            best_loss, best_epoch, kept = loss, epoch, run.weights()
    answers = _known_answers(validation.targets, mode=head.mode)
    if best_epoch >= 0 and _is_about_as_accurate(accuracy, history["val_acc"][best_epoch], answers=answers):
        best_epoch, kept = settings.epochs - 1, run.weights()
    if settings.own_statistics and best_epoch < 0:
        raise BadSetting(
            f"--fine-tune scratch: no epoch of {settings.epochs} had a finite validation loss, so nothing was "
            "learned. Use another --seed, or --fine-tune top."
        )
    run.restore(kept)
    return TrainResult(run.head(), history | {"learning_rate": learning_rates}, best_epoch, loss_before)


def _known_answers(targets: Floats, *, mode: Mode) -> int:
    """How many answers can be right or wrong: one for each image, or in `multi` one for each known defect."""
    known = ~np.isnan(targets)
    return int(np.count_nonzero(known.all(axis=1) if mode == "single" else known))


def _is_about_as_accurate(accuracy: float, other: float, *, answers: int) -> bool:
    """Whether an accuracy of so many answers is lower than another by at most two standard errors, or two answers.

    The last epoch's weights come from the smallest steps. The loss of a few dozen images jumps from epoch to epoch, as
    few answers that are wrong and sure decide it: on frames from other belts, the last epoch was better than the one
    with the lowest loss in most trainings (`docs/decisions/default-model.md`).
    """
    answers = max(1, answers)
    return accuracy >= other - 2 * math.sqrt((other * (1 - other) + 1 / answers) / answers)


class _Run:
    """One fine-tuning: weights, optimizers, and the traced steps."""

    def __init__(
        self,
        extractor: FeatureExtractor,
        head: Head,
        *,
        variables: Sequence[Any],
        settings: FineTuneSettings,
        scaler: Scaler,
        class_weights: Floats,
        seed: int,
    ) -> None:
        tf = import_tensorflow()
        import_keras().utils.set_random_seed(seed)
        self._extractor, self._start, self._settings, self._scaler = extractor, head, settings, scaler
        self._mode: Mode = head.mode
        self._random = random_generator(seed)
        self._class_weights = class_weights
        self._variables = list(variables)
        # The head, converted to standardized features.
        self._kernel = tf.Variable(head.kernel * scaler.scale[:, None])
        self._bias = tf.Variable(head.bias + scaler.mean @ head.kernel)
        self.step = tf.function(self._step, reduce_retracing=True)
        self._logits = tf.function(
            lambda pixels: self._apply_head(extractor.feature_fn(pixels, training=False)), reduce_retracing=True
        )

    def make_optimizers(self, *, steps_per_epoch: int) -> list[float]:
        """Make optimizers whose learning rates fall along a cosine.

        Returns:
            The learning rate of the backbone's layers at the start of each epoch.
        """
        keras, settings = import_keras(), self._settings
        schedules = keras.optimizers.schedules
        rate, head_rate = (
            schedules.CosineDecay(start, settings.epochs * steps_per_epoch)
            for start in (settings.learning_rate, settings.head_learning_rate)
        )
        self._layers_optimizer = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
        self._head_optimizer = keras.optimizers.AdamW(head_rate, weight_decay=0.0)
        # Their variables are created here, because a traced function may not create any.
        self._layers_optimizer.build(self._variables)
        self._head_optimizer.build([self._kernel, self._bias])
        return [float(rate(epoch * steps_per_epoch)) for epoch in range(settings.epochs)]

    def crop(self, images: ImageStack) -> Floats:
        """The crops' pixels. They do not change during the training, because the localizer has its own weights."""
        tf = import_tensorflow()
        crop = tf.function(self._extractor.pixels, reduce_retracing=True)
        return in_batches(lambda batch: crop(tf.constant(batch)), images, size=_EVALUATION_BATCH_SIZE)

    def train_epoch(self, train: Frames, order: Indices, *, on_progress: OnProgress) -> tuple[float, float]:
        """Train on all frames once, in this order. Returns the mean loss and accuracy of the steps."""
        step_metrics = []
        for start in range(0, len(order), self._settings.batch_size):
            rows = order[start : start + self._settings.batch_size]
            step_metrics.append([float(value) for value in self.step(train.images[rows], train.targets[rows])])
            on_progress(len(rows))
        loss, accuracy = np.mean(step_metrics, axis=0)
        return float(loss), float(accuracy)

    def evaluate(self, pixels: Floats, targets: Floats) -> tuple[float, float]:
        """Mean loss and accuracy of images that are not trained on."""
        constant = import_tensorflow().constant
        logits = in_batches(lambda batch: self._logits(constant(batch)), pixels, size=_EVALUATION_BATCH_SIZE)
        smoothing = self._settings.label_smoothing
        loss = losses.loss(targets, logits, mode=self._mode, smoothing=smoothing, weights=self._class_weights)
        return float(np.mean(loss)), float(np.mean(losses.accuracy(targets, logits, mode=self._mode)))

    def weights(self) -> list[Any]:
        """A copy of every variable that a training step changes."""
        return [variable.numpy() for variable in self._changing_variables()]

    def restore(self, weights: Sequence[Any]) -> None:
        """Restore a copy that `weights` returned."""
        for variable, value in zip(self._changing_variables(), weights, strict=True):
            variable.assign(value)

    def head(self) -> Head:
        """The head, converted to plain features."""
        kernel, bias = self._scaler.fold_into_dense(self._kernel.numpy(), self._bias.numpy())
        return Head(self._mode, self._start.classes, kernel, bias)

    def _changing_variables(self) -> list[Any]:
        network = self._extractor.network if self._settings.own_statistics else None
        statistics = [] if network is None else network.graph.non_trainable_variables
        return [*self._variables, *statistics, self._kernel, self._bias]

    def _apply_head(self, features: Any) -> Any:
        return ((features - self._scaler.mean) / self._scaler.scale) @ self._kernel + self._bias

    def _step(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """One training step on a batch, augmented. Returns its loss and accuracy."""
        tf, extractor, settings = import_tensorflow(), self._extractor, self._settings
        is_detected = extractor.crop == "detected"
        transforms = augment_transforms(extractor.crop_transforms(images), self._random, upright=is_detected)
        crops = crop_frames(images, transforms, extractor.crop_size)
        pixels = augment_pixels(crops, self._random, upright=is_detected)
        with tf.GradientTape() as tape:
            features = extractor.feature_fn(pixels, training=settings.own_statistics)
            kept = tf.cast(self._random.uniform(tf.shape(features)) >= settings.dropout, tf.float32)
            mean = self._scaler.mean
            # A dropped feature becomes its mean, which is zero for the head: it gets standardized features.
            logits = self._apply_head(mean + (features - mean) * kept / (1 - settings.dropout))
            image_losses = losses.loss(
                targets, logits, mode=self._mode, smoothing=settings.label_smoothing, weights=self._class_weights
            )
            loss = tf.reduce_mean(image_losses)
        gradients = tape.gradient(loss, [*self._variables, self._kernel, self._bias])
        gradients, _ = tf.clip_by_global_norm(gradients, settings.largest_gradient)
        self._layers_optimizer.apply_gradients(zip(gradients[:-2], self._variables, strict=True))
        self._head_optimizer.apply_gradients(zip(gradients[-2:], [self._kernel, self._bias], strict=True))
        return loss, tf.reduce_mean(losses.accuracy(targets, logits, mode=self._mode))
