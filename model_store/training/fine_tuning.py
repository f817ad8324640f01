"""Trains a backbone's own layers, a head with them: the top ones, all of them, or all from scratch.

In: a sight, frames and targets, and a head to start from. Out: the same sight with other weights, and its head.

Batch normalisation: layers that were trained elsewhere keep their statistics and run as they will when serving. A
batch of 16 bottles of one plant is no estimate of anything, and would undo in a few steps what the statistics of a
million images hold; scale and offset are learnt like any weight. From scratch there are no statistics to keep: there
the layers run as in training and gather their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.policy import Mode
from model_store.datasets.lazy_images import Images, in_batches
from model_store.runtime.progress import OnProgress
from model_store.runtime.tensorflow_imports import import_keras, import_tensorflow
from model_store.training import losses
from model_store.training.augmentation import generator, other_light, other_views
from model_store.training.cropping import cut
from model_store.training.feature_extractor import Sight
from model_store.training.head import Fitted, Head, Scaler
from model_store.training.history import History
from shared.errors import BadSetting

FineTune = Literal["none", "top", "all", "scratch"]

_EVALUATED_AT_ONCE = 32


@dataclass(frozen=True)
class TuneSettings:
    """How layers are trained. Chosen on the bottle frames; see `transfer` for what they gain."""

    learning_rate: float
    epochs: int = 15
    batch_size: int = 16
    head_learning_rate: float = 3e-3
    label_smoothing: float = 0.02
    dropout: float = 0.3  # of the features
    weight_decay: float = 0.02
    largest_gradient: float = 2.0  # norm over all layers
    own_statistics: bool = False  # batch normalisation gathers its own; only from scratch

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


# A low rate: what ImageNet taught is to be bent, not lost. Lower still where the early layers move too. Nothing
# stops early: the first steps disturb the head, and often only the last epochs, at low rates, are better than it was
# (stopped after eight epochs without gain, `single` on the bottle frames fell from 0.90 to 0.83).
SETTINGS: dict[FineTune, TuneSettings] = {
    "top": TuneSettings(learning_rate=3e-4),
    "all": TuneSettings(learning_rate=1e-4),
    "scratch": TuneSettings(learning_rate=1e-3, own_statistics=True),
}


@dataclass(frozen=True)
class Frames:
    """Frames uint8 [N, S, S, 3] with their targets, float32 [N, outputs], NaN where nobody knows.

    `groups` has a number for each, the same for those that show one photograph; None: no two do.
    """

    images: Images
    targets: NDArray[np.float32]
    groups: Sequence[int] | None = None


def fine_tune(
    sight: Sight,
    head: Head,
    *,
    variables: Sequence[Any],
    train: Frames,
    validation: Frames,
    settings: TuneSettings,
    scaler: Scaler,
    seed: int,
    on_progress: OnProgress,
) -> Fitted:
    """Train `variables` of the sight, in place, and the head; the epoch of the lowest validation loss is kept.

    Where layers were trained before, and no epoch makes more of them, they are left as they were.

    Args:
        variables: in the order of the sight's own.
        scaler: what the head's features are standardised by while it learns.
        on_progress: hears how many images were trained on.

    Raises:
        BadSetting: from scratch, and nothing was learnt.
    """
    run = _Run(sight, head, variables=variables, settings=settings, scaler=scaler, targets=train.targets, seed=seed)
    rng = np.random.default_rng(seed)
    rates = run.plan(epochs=settings.epochs, steps_per_epoch=-(-len(train.images) // settings.batch_size))
    history: History = {"loss": [], "acc": [], "val_loss": [], "val_acc": []}
    pixels = run.looked_at(validation.images)
    best_loss, best_epoch, kept = run.judged(pixels, validation.targets)[0], -1, run.weights()
    if settings.own_statistics:  # random weights are nothing to fall back on
        best_loss = float("inf")
    for epoch in range(settings.epochs):
        order = rng.permutation(len(train.images))
        told = []
        for start in range(0, len(order), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            told.append([float(value) for value in run.step(train.images[rows], train.targets[rows])])
            on_progress(len(rows))
        loss, accuracy = run.judged(pixels, validation.targets)
        for name, value in zip(history, (*np.mean(told, axis=0), loss, accuracy), strict=True):
            history[name].append(float(value))
        if loss < best_loss:
            best_loss, best_epoch, kept = loss, epoch, run.weights()
    if settings.own_statistics and best_epoch < 0:
        raise BadSetting(
            f"--fine-tune scratch: no epoch of {settings.epochs} had a validation loss that is a number: nothing was "
            "learnt. Use another --seed, or --fine-tune top."
        )
    run.restore(kept)
    return Fitted(run.head(), history | {"learning_rate": rates}, best_epoch)


class _Run:
    """One training: weights, optimisers, and the traced steps."""

    def __init__(
        self,
        sight: Sight,
        head: Head,
        *,
        variables: Sequence[Any],
        settings: TuneSettings,
        scaler: Scaler,
        targets: NDArray[np.float32],
        seed: int,
    ) -> None:
        tf = import_tensorflow()
        import_keras().utils.set_random_seed(seed)
        self._sight, self._start, self._settings, self._scaler = sight, head, settings, scaler
        self._mode: Mode = head.mode
        self._random = generator(seed)
        self._weights = losses.class_weights(targets, head.mode)
        self._variables = list(variables)
        # The head as it is on standardised features.
        self._kernel = tf.Variable(head.kernel * scaler.scale[:, None])
        self._bias = tf.Variable(head.bias + scaler.mean @ head.kernel)
        self.step = tf.function(self._step, reduce_retracing=True)
        self._logits = tf.function(
            lambda pixels: self._answer(sight.body(pixels, training=False)), reduce_retracing=True
        )

    def plan(self, *, epochs: int, steps_per_epoch: int) -> list[float]:
        """Make optimisers whose rates fall along a cosine; the layers' rate at the start of each epoch."""
        keras, settings = import_keras(), self._settings
        schedules = keras.optimizers.schedules
        rate, head_rate = (
            schedules.CosineDecay(start, epochs * steps_per_epoch)
            for start in (settings.learning_rate, settings.head_learning_rate)
        )
        self._body = keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay)
        self._top = keras.optimizers.AdamW(head_rate, weight_decay=0.0)
        # Made here: a traced function may not make variables.
        self._body.build(self._variables)
        self._top.build([self._kernel, self._bias])
        return [float(rate(epoch * steps_per_epoch)) for epoch in range(epochs)]

    def looked_at(self, images: Images) -> NDArray[np.float32]:
        """The pixels that the sight looks at: they don't change while the body learns."""
        tf = import_tensorflow()
        look = tf.function(self._sight.pixels, reduce_retracing=True)
        return in_batches(lambda batch: look(tf.constant(batch)), images, size=_EVALUATED_AT_ONCE)

    def judged(self, pixels: NDArray[np.float32], targets: NDArray[np.float32]) -> tuple[float, float]:
        """Mean loss and accuracy of images not trained on."""
        constant = import_tensorflow().constant
        logits = in_batches(lambda batch: self._logits(constant(batch)), pixels, size=_EVALUATED_AT_ONCE)
        smoothing = self._settings.label_smoothing
        loss = losses.loss(targets, logits, mode=self._mode, smoothing=smoothing, weights=self._weights)
        return float(np.mean(loss)), float(np.mean(losses.accuracy(targets, logits, mode=self._mode)))

    def weights(self) -> list[Any]:
        """A copy of everything that a step changes."""
        return [variable.numpy() for variable in self._changing()]

    def restore(self, weights: Sequence[Any]) -> None:
        """Put a copy back."""
        for variable, value in zip(self._changing(), weights, strict=True):
            variable.assign(value)

    def head(self) -> Head:
        """The head, on plain features."""
        kernel, bias = self._scaler.folded(self._kernel.numpy(), self._bias.numpy())
        return Head(self._mode, self._start.classes, kernel, bias)

    def _changing(self) -> list[Any]:
        network = self._sight.network if self._settings.own_statistics else None
        statistics = [] if network is None else network.graph.non_trainable_variables
        return [*self._variables, *statistics, self._kernel, self._bias]

    def _answer(self, features: Any) -> Any:
        return ((features - self._scaler.mean) / self._scaler.scale) @ self._kernel + self._bias

    def _step(self, images: Any, targets: Any) -> tuple[Any, Any]:
        """One step on a batch, as other cameras could have seen it: its loss and accuracy."""
        tf, sight, settings = import_tensorflow(), self._sight, self._settings
        views = other_views(sight.views(images), self._random, upside_down=sight.finder is not None)
        pixels = other_light(cut(images, views, sight.canvas), self._random, upright=sight.finder is not None)
        with tf.GradientTape() as tape:
            features = sight.body(pixels, training=settings.own_statistics)
            kept = tf.cast(self._random.uniform(tf.shape(features)) >= settings.dropout, tf.float32)
            mean = self._scaler.mean
            # Dropped features become average ones, not zeros: what the head sees is standardised.
            logits = self._answer(mean + (features - mean) * kept / (1 - settings.dropout))
            weighed = losses.loss(
                targets, logits, mode=self._mode, smoothing=settings.label_smoothing, weights=self._weights
            )
            loss = tf.reduce_mean(weighed)
        gradients = tape.gradient(loss, [*self._variables, self._kernel, self._bias])
        gradients, _ = tf.clip_by_global_norm(gradients, settings.largest_gradient)
        self._body.apply_gradients(zip(gradients[:-2], self._variables, strict=True))
        self._top.apply_gradients(zip(gradients[-2:], [self._kernel, self._bias], strict=True))
        return loss, tf.reduce_mean(losses.accuracy(targets, logits, mode=self._mode))
