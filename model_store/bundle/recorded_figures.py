"""Checks the figures that a manifest records beside the model: they decide nothing, but commands format them.

In: tables of a manifest, which somebody else may have written. Out: the same, or ValueError. Without this, one version
with a text in the place of a score would end every command that lists or shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Keys of `metrics` whose values are numbers, or null where there was nothing to measure.
SCORES = frozenset(
    {
        "images",
        "accuracy",
        "macro_f1",
        "map",
        "exact_match",
        "ece",
        "uncertain",
        "sure_accuracy",
        "sure_exact_match",
        "known_share",
    }
)
# Far above every figure that is measured. JSON can hold numbers that no float can.
_LARGEST = 1e15
# By a key of `parity`, the one that is always written with it.
_WRITTEN_WITH = {
    "int8_labels_agreement": "images",
    "int8_macro_f1": "fp32_macro_f1",
    "int8_rechecked": "int8_alone_labels_agreement",
    "int8_alone_labels_agreement": "int8_rechecked",
}


def check_metrics(metrics: Mapping[str, Any]) -> None:
    """Check what `evaluate` measured. Keys that this release doesn't know may hold anything.

    Raises:
        ValueError: a score is no number.
    """
    for name in SCORES & metrics.keys():
        _check_number(metrics[name], name)
    per_class = metrics.get("per_class", {})
    if not isinstance(per_class, dict) or not all(isinstance(scores, dict) for scores in per_class.values()):
        raise ValueError("per_class should be a table from classes to tables of scores")
    for label, scores in per_class.items():
        for name, value in scores.items():
            _check_number(value, f"{name} of class {label[:80]!r}")


def check_training_settings(settings: Mapping[str, Any]) -> None:
    """Check the tables among the settings of a training.

    Raises:
        ValueError: one is no table, or has something else than numbers of epochs.
    """
    if not isinstance(settings.get("tuning") or {}, dict):
        raise ValueError("tuning should be a table")
    if isinstance(epochs := settings.get("best_epochs"), dict):
        for phase, number in epochs.items():
            _check_number(number, f"best epoch of {phase[:80]!r}")


def check_parity(parity: Mapping[str, float]) -> None:
    """Check that what was compared is there with the results of the comparison.

    Raises:
        ValueError: something is missing.
    """
    for name, other in _WRITTEN_WITH.items():
        if name in parity and other not in parity:
            raise ValueError(f"{name} is there without {other}")


def _check_number(value: object, name: str) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:  # NaN is not within them either
        raise ValueError(f"{name} {str(value)[:80]!r} should be a number, or null")
