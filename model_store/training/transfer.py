"""Transfer learning: from frames to a trained model, by one of four methods.

    none     the backbone stays as it is; a head is trained on its features, cached, of several versions of each image
    top      first that head, then the top layers together with it, at a low learning rate
    all      first that head, then all layers together with it, at a lower learning rate
    scratch  all layers, from random weights
    auto     one of these, by the number of images and by how well the frozen features separate the classes

For `auto`, `model_store.training.plan` chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

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
from model_store.training.history import FINE_TUNING_PHASE, HEAD_PHASE, OnEpoch, Phase, PrintLine
from model_store.training.object_localizer import ObjectLocalizer
from model_store.training.plan import TransferOptions, TransferPlan, feature_separability, is_frozen, make_plan
from shared.arrays import Floats
from shared.errors import BadSetting
from shared.progress import ignore

# Epochs of fine-tuning, as a share of the head's: they cost a thousand times as much, and each sees newly augmented
# images.
_TUNE_EPOCHS_SHARE = 0.6
_SCRATCH_EPOCHS_FACTOR = 4

_Settings = TypeVar("_Settings", HeadSettings, FineTuneSettings)


@dataclass(frozen=True)
class TrainedModel:
    """A trained model in memory. `fine_tune_settings` is None if no layers of the backbone were trained."""

    extractor: FeatureExtractor
    head: Head
    phases: tuple[Phase, ...]
    plan: TransferPlan
    head_settings: HeadSettings
    fine_tune_settings: FineTuneSettings | None = None


@dataclass(frozen=True)
class _Inputs:
    """The arguments of `train_model`."""

    backbone: Backbone
    network: Network | None
    train: Frames
    validation: Frames
    classes: tuple[str, ...]
    mode: Mode
    options: TransferOptions
    cache: Path
    steps: ProgressSteps
    on_epoch: OnEpoch
    print_line: PrintLine


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
    on_epoch: OnEpoch = ignore,
    print_line: PrintLine = ignore,
) -> TrainedModel:
    """Train as the user's options say; whatever they leave open is chosen to suit the data.

    Args:
        network: `open_network(backbone)`; fine-tuning changes it. None for an opaque module, whose layers can only be
            fine-tuned all together or not at all.
        train: the training frames; their side is `frame_size_px` for a network, else the backbone's input size.
        validation: the frames whose loss decides which epoch's weights are kept.
        on_epoch: called after each epoch, of the head and of fine-tuning.
        print_line: called with lines for people: before the first epoch the reasons for the plan, and after each phase
            which epoch was kept.

    Raises:
        BadSetting: the backbone can't be trained that way; says which ways it can.
    """
    _check(backbone, network, options)
    inputs = _Inputs(
        backbone,
        network,
        train=train,
        validation=validation,
        classes=classes,
        mode=mode,
        options=options,
        cache=cache,
        steps=steps,
        on_epoch=on_epoch,
        print_line=print_line,
    )
    return _train(inputs)


def _train(inputs: _Inputs) -> TrainedModel:
    """Measure, plan, train the head, and fine-tune if that is the plan."""
    train = inputs.train
    extractors = _candidate_extractors(inputs)
    features = _features_by_crop(inputs, extractors)
    plan = make_plan(
        {crop: feature_separability(found, train.targets, groups=train.groups) for crop, found in features.items()},
        options=inputs.options,
        images=len(train.images),
        is_network=inputs.network is not None,
        is_trainable=inputs.backbone.trainable,
    )
    for reason in plan.reasons:
        inputs.print_line(reason)
    if plan.fine_tune == "none" and _tuning_reads_another_layer(inputs):
        return _frozen(inputs, plan)
    extractor = next(extractor for extractor in extractors if extractor.crop == plan.crop)
    model, scaler = _with_trained_head(inputs, extractor, plan=plan, plain=features[plan.crop])
    return model if plan.fine_tune == "none" else _fine_tuned(inputs, model, scaler=scaler)


def _tuning_reads_another_layer(inputs: _Inputs) -> bool:
    """Whether the features that were measured are not those of a network that stays as it is."""
    if inputs.network is None or is_frozen(inputs.options, images=len(inputs.train.images)):
        return False
    return inputs.network.architecture.feature_layer != inputs.network.architecture.output_layer


def _frozen(inputs: _Inputs, plan: TransferPlan) -> TrainedModel:
    """The model whose network stays as it is, after a `plan` that looked at the features that suit tuned layers."""
    options = replace(inputs.options, fine_tune="none")
    model = _train(replace(inputs, options=options, print_line=ignore))
    reason = f"the network stays as it is, so its last layer is used, and --crop {model.plan.crop}."
    inputs.print_line(reason)
    return replace(model, plan=replace(model.plan, separability=plan.separability, reasons=(*plan.reasons, reason)))


def _head_settings(options: TransferOptions, *, fine_tune: FineTuneMethod) -> HeadSettings:
    """Settings for training the head. The user's learning rate applies to the last phase: the head or `fine_tune`."""
    settings = HeadSettings(epochs=options.epochs)
    return _with_options(settings, options if fine_tune == "none" else replace(options, learning_rate=None))


def _with_options(settings: _Settings, options: TransferOptions) -> _Settings:
    rate = settings.learning_rate if options.learning_rate is None else options.learning_rate
    return replace(settings, learning_rate=rate, batch_size=options.batch_size or settings.batch_size)


def _check(backbone: Backbone, network: Network | None, options: TransferOptions) -> None:
    """Refuse options that need a known network where there is none."""
    if network is not None:
        return
    reason = f"the layers of {backbone.handle} are unknown (an opaque module)"
    if options.fine_tune in ("top", "scratch"):
        raise BadSetting(f"--fine-tune {options.fine_tune}: {reason}. Use none, all, or another --backbone.")
    if options.crop == "detected":
        raise BadSetting(
            f"--crop detected: {reason}, so nothing can detect the bottle. Use full, or another --backbone."
        )
    if options.fine_tune == "all" and not backbone.trainable:
        raise BadSetting(f"--fine-tune all: {backbone.handle} was saved without trainable weights. Use none.")


def _candidate_extractors(inputs: _Inputs) -> list[FeatureExtractor]:
    """One extractor for the crop that the user chose, or one for each crop that is to be compared."""
    backbone, network, frames, options = inputs.backbone, inputs.network, inputs.train.images, inputs.options
    if network is None:
        trainable = options.fine_tune in ("all", "auto") and backbone.trainable
        return [opaque_extractor(backbone, trainable=trainable)]
    extractors: list[FeatureExtractor] = []
    frozen = is_frozen(options, images=len(frames))
    crops_bottle = network.architecture.crops_bottle and not frozen
    if options.crop == "detected" or (options.crop == "auto" and crops_bottle):
        total = min(len(frames), object_localizer.MAX_FRAMES)
        with inputs.steps.step("Learning to find the bottle", total=total) as on_progress:
            localizer = ObjectLocalizer.fit(network, frames, on_progress=on_progress)
        extractors.append(graph_extractor(network, localizer=localizer, frozen=frozen))
    if options.crop != "detected":
        extractors.append(graph_extractor(network, localizer=None, frozen=frozen))
    return extractors


def _features_by_crop(inputs: _Inputs, extractors: Sequence[FeatureExtractor]) -> dict[Crop, Floats]:
    """Each extractor's features of the training images as they are."""
    images = inputs.train.images
    with inputs.steps.step("Computing features", total=len(extractors) * len(images)) as on_progress:
        return {
            extractor.crop: FeatureCache(extractor, cache=inputs.cache).features(images, on_progress=on_progress)
            for extractor in extractors
        }


def _with_trained_head(
    inputs: _Inputs, extractor: FeatureExtractor, *, plan: TransferPlan, plain: Floats
) -> tuple[TrainedModel, Scaler]:
    """The extractor with a trained head, and the scaler that standardized the head's features meanwhile.

    `plain` are the features of the training images as they are.
    """
    settings = _head_settings(inputs.options, fine_tune=plan.fine_tune)
    examples, validation = _head_examples(inputs, extractor, plain=plain, versions=settings.views)
    with inputs.steps.step("Training the head", total=settings.epochs) as on_progress:
        result = train_head(
            examples,
            validation,
            classes=inputs.classes,
            mode=inputs.mode,
            settings=settings,
            seed=inputs.options.seed,
            on_progress=on_progress,
            on_epoch=inputs.on_epoch,
        )
    phase = Phase(HEAD_PHASE, result.history, result.best_epoch)
    inputs.print_line(phase.describe_kept())
    model = TrainedModel(extractor, result.head, (phase,), plan, settings)
    return model, Scaler.of(examples.features)


def _head_examples(
    inputs: _Inputs, extractor: FeatureExtractor, *, plain: Floats, versions: int
) -> tuple[Examples, Examples]:
    """Training and validation examples for the head.

    Each training image occurs in them `versions` times: first with its `plain` features, then with those of augmented
    versions of it.
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
    """Train layers of the backbone of `model`, of which only the head has been trained.

    `scaler` standardizes the head's features.
    """
    method, epochs = model.plan.fine_tune, max(1, round(inputs.options.epochs * _TUNE_EPOCHS_SHARE))
    if method == "scratch":
        model, epochs = _untrained(inputs, model), epochs * _SCRATCH_EPOCHS_FACTOR
    extractor, settings = model.extractor, _with_options(replace(SETTINGS[method], epochs=epochs), inputs.options)
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
            on_epoch=inputs.on_epoch,
        )
    phase = Phase(FINE_TUNING_PHASE, result.history, result.best_epoch, result.loss_before)
    inputs.print_line(phase.describe_kept())
    phases = (*model.phases, phase)
    if result.best_epoch < 0:
        reason = (
            "fine-tuning was discarded: none of its epochs did better on the validation images than the head alone."
        )
        plan = replace(model.plan, fine_tune="none", reasons=(*model.plan.reasons, reason))
        if _tuning_reads_another_layer(inputs):
            frozen = _frozen(inputs, plan)
            return replace(frozen, phases=(*frozen.phases, phase))
        return replace(model, phases=phases, plan=plan)
    return replace(model, head=result.head, phases=phases, fine_tune_settings=settings)


def _untrained(inputs: _Inputs, model: TrainedModel) -> TrainedModel:
    """The same model with random weights and a zero head; the localizer keeps the weights that it was fitted on."""
    assert inputs.network is not None
    blank = inputs.network.clone(pretrained=False)
    extractor = graph_extractor(blank, localizer=model.extractor.localizer, localizer_network=inputs.network)
    head = replace(model.head, kernel=0 * model.head.kernel, bias=0 * model.head.bias)
    return replace(model, extractor=extractor, head=head, phases=())
