"""Training curves: the values that a training records for each epoch, for the manifest and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# `loss`, `acc`, `val_loss`, `val_acc`, and `learning_rate` at the start of the epoch: one value per epoch.
History = dict[str, list[float]]


@dataclass(frozen=True)
class Phase:
    """One stage of the training, e.g. the head alone, then fine-tuning.

    `history` holds the lists that `History` describes; `learning_rate` may be absent.
    `best_epoch` is the epoch, counted from 0, whose weights were kept. None means the last epoch; -1 means that the
    weights from before the phase were kept.
    """

    name: str
    history: Mapping[str, Sequence[float]]
    best_epoch: int | None = None
