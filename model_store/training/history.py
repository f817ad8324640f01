"""Training curves: what a training records per epoch, for the manifest and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# `loss`, `acc`, `val_loss`, `val_acc`, and `learning_rate` at the start of the epoch: one value per epoch.
History = dict[str, list[float]]


@dataclass(frozen=True)
class Phase:
    """One stage of the training, e.g. the head alone, then fine-tuning.

    `history` holds one value per epoch, as in `History`; `learning_rate` only where it is known.
    `best_epoch` is the epoch, from 0, whose weights were kept. None: the last one; -1: the weights from before the
    phase.
    """

    name: str
    history: Mapping[str, Sequence[float]]
    best_epoch: int | None = None
