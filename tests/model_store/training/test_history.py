"""What a training tells people about its epochs."""

from __future__ import annotations

import pytest

from model_store.bundle.policy import Mode
from model_store.training.history import Epoch, Phase


@pytest.mark.parametrize("mode", ["single", "multi"])
def test_the_line_of_an_epoch_fits_a_terminal(mode: Mode) -> None:
    values = {"loss": 12.34567, "acc": 0.98765, "val_loss": 23.45678, "val_acc": 0.87654}
    line = str(Epoch("fine-tuning", 99, 120, mode, values))
    name = "label accuracy" if mode == "multi" else "accuracy"
    assert line == f"epoch 100/120 - loss: 12.3457 (val 23.4568) - {name}: 0.988 (val 0.877)"
    assert len(line) <= 80


@pytest.mark.parametrize(
    ("best_epoch", "told"),
    [
        (1, "head: kept epoch 2: lowest loss on the validation images, 0.2500"),
        (
            -1,
            "head: no epoch lowered the loss on the validation images, which was 0.2000 before: "
            "the layers stay as they were",
        ),
        (
            2,
            "head: kept the last epoch, 3: it is about as accurate on the validation images as epoch 2, "
            "whose loss was the lowest, 0.2500",
        ),
        (None, "head: kept the last epoch"),
    ],
)
def test_people_count_epochs_from_1(best_epoch: int | None, told: str) -> None:
    assert Phase("head", {"val_loss": [0.5, 0.25, 0.75]}, best_epoch, loss_before=0.2).describe_kept() == told
