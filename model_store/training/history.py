"""Training curves: the values that a training records for each epoch, for the manifest and the report.

A training also passes each epoch to an OnEpoch while it runs, and lines for people to a PrintLine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from model_store.bundle.policy import Mode

# `loss`, `acc`, `val_loss`, `val_acc`, and `learning_rate` at the start of the epoch: one value per epoch.
History = dict[str, list[float]]

# The names of the phases, also in manifests.
HEAD_PHASE, FINE_TUNING_PHASE = "head", "fine-tuning"


@dataclass(frozen=True)
class Phase:
    """One stage of the training, e.g. the head alone, then fine-tuning.

    `history` holds the lists that `History` describes; `learning_rate` may be absent.
    `best_epoch` is the epoch, counted from 0, whose weights were kept. None means the last epoch; -1 means that the
    weights from before the phase were kept. `loss_before` is what `val_loss` was before the phase, if it was measured.
    """

    name: str
    history: Mapping[str, Sequence[float]]
    best_epoch: int | None = None
    loss_before: float | None = None

    def describe_kept(self) -> str:
        """Which epoch's weights were kept, as a line for people, who count epochs from 1."""
        if self.best_epoch is None:
            return f"{self.name}: kept the last epoch"
        if self.best_epoch < 0:
            before = "" if self.loss_before is None else f", which was {self.loss_before:.4f} before"
            return (
                f"{self.name}: no epoch lowered the loss on the validation images{before}: the layers stay as they were"
            )
        losses = self.history["val_loss"]
        lowest = min(losses)
        if losses[self.best_epoch] > lowest:
            return (
                f"{self.name}: kept the last epoch, {self.best_epoch + 1}: it is about as accurate on the validation "
                f"images as epoch {losses.index(lowest) + 1}, whose loss was the lowest, {lowest:.4f}"
            )
        return f"{self.name}: kept epoch {self.best_epoch + 1}: lowest loss on the validation images, {lowest:.4f}"


@dataclass(frozen=True)
class Epoch:
    """An epoch that has just ended.

    Attributes:
        phase: HEAD_PHASE or FINE_TUNING_PHASE.
        number: from 0.
        epochs: how many the phase has at most.
        mode: the head's.
        values: by name, the names being those of `History`.
    """

    phase: str
    number: int
    epochs: int
    mode: Mode
    values: Mapping[str, float]

    def __str__(self) -> str:
        """One line of at most 80 characters, much as Keras prints it. It doesn't name the phase."""
        values = self.values
        return (
            f"epoch {self.number + 1}/{self.epochs} - loss: {values['loss']:.4f} (val {values['val_loss']:.4f}) - "
            f"{accuracy_title(self.mode)}: {values['acc']:.3f} (val {values['val_acc']:.3f})"
        )


def accuracy_title(mode: Mode) -> str:
    """What `acc` in a History is: in `multi` each label of an image is decided separately, and counts separately."""
    return "label accuracy" if mode == "multi" else "accuracy"


OnEpoch = Callable[[Epoch], None]
# Called with a line for people.
PrintLine = Callable[[str], None]
