"""The transfer plan: which crop of the frames is used, and which layers of the backbone are trained. Trains nothing.

The layers are chosen by the textbooks' rule for transfer learning (are there few or many images, and are they similar
to ImageNet's?), with a number for each of these words. Similarity is measured as the mean average precision of a ridge
regression on frozen features, on images that it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from model_store.training.feature_extractor import Crop
from model_store.training.fine_tuning import FineTuneMethod
from model_store.training.head import Scaler
from shared.arrays import Floats

CropChoice = Literal["auto", "detected", "full"]
FineTuneChoice = Literal["auto", "none", "top", "all", "scratch"]

# With fewer training images, fine-tuned layers memorize the images.
_FEW_IMAGES = 60
# With at least this many images all layers can be trained, if the frozen features are of little use; with
# _VERY_MANY_IMAGES, even from random weights.
_MANY_IMAGES = 2_000
_VERY_MANY_IMAGES = 50_000
# Bounds of the separability of frozen features. From the first on, fine-tuning has nothing left to gain; below the
# second, the images are unlike ImageNet's; below the third, very unlike.
_SEPARABLE = 0.99
_UNLIKE = 0.70
_VERY_UNLIKE = 0.40
# Full frames are chosen only if their separability is higher by more than this, because fine-tuning gains more on
# cropped bottles (where both were about equal, the macro F1 of `multi` became 0.89 on full frames and 0.96 on crops).
_FULL_FRAME_LEAD = 0.05
_FOLDS = 5
_RIDGE = 0.1


@dataclass(frozen=True)
class TransferOptions:
    """What the user chose."""

    fine_tune: FineTuneChoice = "auto"
    crop: CropChoice = "auto"
    epochs: int = 25
    seed: int = 123
    learning_rate: float | None = None  # of the fine-tuned layers, else of the head; None: the default of the method
    batch_size: int | None = None  # images per step; None: the default of the method


@dataclass(frozen=True)
class TransferPlan:
    """How to train, and the reasons, as sentences for people. `separability` is that of each crop, 0 to 1."""

    fine_tune: FineTuneMethod
    crop: Crop
    separability: dict[Crop, float]
    reasons: tuple[str, ...]


def feature_separability(features: Floats, targets: Floats, *, groups: Sequence[int] | None = None) -> float:
    """How well features [N, width] separate the outputs of `targets` [N, outputs]: 0 to 1.

    It is the mean average precision of ridge regressions on images that they were not fitted to. All images of one of
    the `groups` (see `Frames`) are in the same fold. Outputs without a known positive image are left out.
    """
    from model_store.evaluation.metrics import average_precision

    scores = np.zeros(targets.shape)
    fold = np.arange(len(targets)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    fold = fold % _FOLDS
    for number in range(_FOLDS):
        fitted, scored = fold != number, fold == number
        scaler = Scaler.of(features[fitted])
        x, y = scaler.apply(features[fitted]), np.nan_to_num(targets[fitted], nan=0.5) * 2 - 1
        normal = x.T @ x / len(x) + _RIDGE * np.eye(x.shape[1])
        kernel = np.linalg.solve(normal, x.T @ (y - y.mean(axis=0)) / len(x))
        scores[scored] = scaler.apply(features[scored]) @ kernel + y.mean(axis=0)
    precisions = []
    for column in range(targets.shape[1]):
        known = ~np.isnan(targets[:, column])
        value = average_precision(scores[known, column], targets[known, column] > 0.5)
        if value is not None:
            precisions.append(value)
    return float(np.mean(precisions)) if precisions else 0.0


def is_frozen(options: TransferOptions, *, images: int) -> bool:
    """Whether it is known before any measurement that no layers will be fine-tuned."""
    return options.fine_tune == "none" or (options.fine_tune == "auto" and images < _FEW_IMAGES)


def make_plan(
    separability: Mapping[Crop, float],
    *,
    options: TransferOptions,
    images: int,
    is_network: bool,
    is_trainable: bool = True,
) -> TransferPlan:
    """The plan for `images` training images, from the separability of the frozen features of each crop.

    `is_network`: the layers of the backbone are known. `is_trainable`: an opaque module has trainable weights.
    """
    scores = dict(separability)
    crop = max(scores, key=lambda name: scores[name] + (_FULL_FRAME_LEAD if name == "detected" else 0.0))
    reasons = [_crop_reason(scores, crop, options=options, is_network=is_network)]
    if options.fine_tune != "auto":
        return TransferPlan(options.fine_tune, crop, scores, (*reasons, f"--fine-tune {options.fine_tune}, as asked."))
    method, reason = _choose_method(scores[crop], images=images, is_network=is_network, is_trainable=is_trainable)
    return TransferPlan(method, crop, scores, (*reasons, reason))


def _choose_method(score: float, *, images: int, is_network: bool, is_trainable: bool) -> tuple[FineTuneMethod, str]:
    measured = f"frozen features reach a mean average precision of {score:.2f} out of fold"
    if images < _FEW_IMAGES:
        return (
            "none",
            f"--fine-tune none: {images} training images (below {_FEW_IMAGES}) are too few to train layers on.",
        )
    if score >= _SEPARABLE:
        return "none", f"--fine-tune none: {measured}; there is nothing to gain."
    if not is_network:
        if not is_trainable:
            return "none", f"--fine-tune none: {measured}; this backbone was saved without trainable weights."
        if images < _MANY_IMAGES:
            return "none", (
                f"--fine-tune none: {measured}; the layers of this backbone are unknown and can only be trained all at "
                f"once (an opaque module), and {images:,} images (below {_MANY_IMAGES:,}) are too few for that."
            )
        return "all", f"--fine-tune all: {measured}, with {images:,} training images."
    if images >= _VERY_MANY_IMAGES and score < _VERY_UNLIKE:
        return (
            "scratch",
            f"--fine-tune scratch: {measured}, and {images:,} images are enough to train from random weights.",
        )
    if images >= _MANY_IMAGES and score < _UNLIKE:
        return (
            "all",
            f"--fine-tune all: {measured}, so these images are unlike ImageNet's; "
            f"{images:,} images are enough to train all layers.",
        )
    return "top", f"--fine-tune top: {measured}, and {images:,} training images are enough to adapt the top layers."


def _crop_reason(scores: Mapping[Crop, float], crop: Crop, *, options: TransferOptions, is_network: bool) -> str:
    listed = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
    action = {"detected": "the bottle is detected, cropped and turned upright", "full": "the full frame is used"}[crop]
    lead = ""
    if options.crop != "auto":
        action += ", as asked"
    elif len(scores) == 1 and is_network:
        action += ", because this network gains nothing by a crop, and a localizer could miss the bottle on other belts"
    if len(scores) > 1:
        lead = f"; full has to be {_FULL_FRAME_LEAD} ahead, because fine-tuning gains more on cropped bottles"
    return f"--crop {crop}: {action} (mean average precision of frozen features, out of fold: {listed}{lead})."
