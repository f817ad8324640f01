"""Train and publish: from a dataset to a published version, step by step.

In: a dataset's path and TrainOptions. Out: the published bundle's folder, and a report for the user.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from model_store.backbones.keras_graphs import Network, open_network
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.backbones.sources import layers_of
from model_store.bundle.policy import Mode
from model_store.datasets.audit import DatasetReport
from model_store.datasets.dataset import Dataset, load_dataset, training_mode
from model_store.datasets.image_loading import DecodeSettings
from model_store.export.quantization import check_private_functions
from model_store.publishing.layers_file import check_save_layers, overlap_notes, resolve_wheel, save_layers
from model_store.publishing.publish import PublishedVersion, Training, publish
from model_store.publishing.train_options import TrainOptions
from model_store.registry.store import ModelStore
from model_store.reports.tensorboard import live_events
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import cache_write_errors, scratch_folder
from model_store.training.decision_tuning import DecisionTuning, tune_decisions
from model_store.training.feature_cache import extract_features
from model_store.training.head import logits_of
from model_store.training.history import Epoch, OnEpoch
from model_store.training.plan import TransferOptions
from model_store.training.prepared_data import PreparedData, check_regions
from model_store.training.thresholds import Objective, parse_objective
from model_store.training.transfer import TrainedModel, train_model
from shared.errors import BadSetting, SortlineError
from shared.output_files import make_writable_folder
from shared.progress import ignore


def train_and_publish(
    path: Path,
    options: TrainOptions,
    *,
    store: ModelStore,
    cache: Path,
    decode_settings: DecodeSettings,
    steps: ProgressSteps | None = None,
    show: Callable[[DatasetReport], None] = ignore,
) -> PublishedVersion:
    """Train on the dataset at `path`, check the exports, and publish them as the model's next version.

    Images above the limits of `decode_settings` count as unreadable. `show` is called with the report on the dataset,
    before the training.

    Raises:
        BadSetting: an unusable option, e.g. a region for a camera with no training images; or an unusable cache or
            scratch folder.
        BadDataset: the dataset can't be trained on; says why.
        NotFound, BadBackbone: the backbone is not available, or its files were changed.
        BadSetting, BadBackbone: the version is published, but its layers can't be saved; the message says both.
        BadBundle: an export failed or differs from the trained model; nothing is published, but the model is kept.
    """
    steps = steps or ProgressSteps()
    dataset, mode, objective = _checked(path, options)
    check_writable(store, options.name, cache=cache)  # makes folders, so it comes after all that may be refused at once
    steps.print_line(dataset.describe())  # the backbone and the images take minutes
    backbone = resolve_backbone(options.backbone, cache=cache, steps=steps, insecure_http=options.insecure_http)
    start, wheel = layers_of(options.backbone), resolve_wheel(options, cache=cache, steps=steps)
    with steps.step("Opening the backbone"):
        check_private_functions()
        network = open_network(backbone)
    data = PreparedData.prepare(
        dataset,
        mode,
        backbone=backbone,
        network=network,
        regions=options.regions,
        decode_settings=decode_settings,
        seed=options.seed,
        cache=cache,
        steps=steps,
        show=show,
    )
    notes = overlap_notes(options.backbone, start, data)
    for note in notes:
        steps.print_line(note)
    with _epoch_reporting(options.name, cache=cache, steps=steps) as on_epoch:
        model = _train(options, backbone, network, data, cache=cache, steps=steps, on_epoch=on_epoch)
        with steps.step("Calibrating, choosing thresholds"):
            decisions = _decisions(model, data, objective)
        training = Training(options, backbone, data, model, decisions, start=start, start_notes=notes)
        published = publish(training, store=store, steps=steps)
    if wheel is not None:
        _save_layers(training, wheel, published, steps=steps)
    return published


def _save_layers(training: Training, wheel: Backbone, published: PublishedVersion, *, steps: ProgressSteps) -> None:
    """Save the layers. The version is safe by now, and an error says where it is."""
    path = training.options.save_layers
    assert path is not None
    try:
        save_layers(path, wheel, training.model, start=training.start, data=training.data, steps=steps)
    except SortlineError as error:
        raise type(error)(f"{error} The version is published all the same: {published.path}") from error


def _checked(path: Path, options: TrainOptions) -> tuple[Dataset, Mode, Objective]:
    """The dataset, the mode, and the goal of the thresholds, after all checks that need neither images nor network."""
    objective = _check_options(options)
    check_save_layers(options)
    dataset = load_dataset(path, good_class=options.good_class)
    check_regions(options.regions, dataset)
    mode = training_mode(dataset, options.mode)
    objective.check(mode)
    return dataset, mode, objective


def _decisions(model: TrainedModel, data: PreparedData, objective: Objective) -> DecisionTuning:
    validation = data.frames(data.split.validation)
    logits = logits_of(model.head, extract_features(model.extractor, validation.images))
    return tune_decisions(logits, validation.targets, classes=data.classes, mode=data.mode, objective=objective)


def _train(
    options: TrainOptions,
    backbone: Backbone,
    network: Network | None,
    data: PreparedData,
    *,
    cache: Path,
    steps: ProgressSteps,
    on_epoch: OnEpoch,
) -> TrainedModel:
    train, validation = (data.frames(rows) for rows in data.split)
    return train_model(
        backbone,
        network,
        train=train,
        validation=validation,
        classes=data.classes,
        mode=data.mode,
        options=TransferOptions(
            options.fine_tune,
            options.crop,
            options.epochs,
            options.seed,
            learning_rate=options.learning_rate,
            batch_size=options.batch_size,
        ),
        cache=cache,
        steps=steps,
        on_epoch=on_epoch,
        print_line=steps.print_line,
    )


@contextlib.contextmanager
def _epoch_reporting(name: str, *, cache: Path, steps: ProgressSteps) -> Iterator[OnEpoch]:
    """Yield a function that shows each epoch to the user, as a line, and writes it for TensorBoard."""
    with live_events(cache, name, print_line=steps.print_line) as write:

        def on_epoch(epoch: Epoch) -> None:
            if epoch.number == 0:
                steps.print_line(f"{epoch.phase}:")
            steps.print_line(str(epoch))
            write(epoch)
            _check_loss(epoch)

        yield on_epoch


def _check_loss(epoch: Epoch) -> None:
    """Raise if the training has diverged: no later epoch recovers from that."""
    loss = epoch.values["loss"]
    if not math.isfinite(loss):
        raise BadSetting(
            f"the loss became {loss} in {epoch.phase} epoch {epoch.number + 1}: the training has diverged, and nothing "
            "is published. Set a lower --learning-rate."
        )


def check_writable(store: ModelStore, name: str, *, cache: Path) -> None:
    """Raise if the store, the cache or the scratch folder can't be written to. Called before the long work."""
    store.check_writable(name)
    with cache_write_errors(cache):
        make_writable_folder(cache)
    with scratch_folder("sortline-check-"):
        pass


def _check_options(options: TrainOptions) -> Objective:
    if options.learning_rate is not None and not 0 < options.learning_rate <= 1:
        raise BadSetting(f"--learning-rate {options.learning_rate:g} should be above 0 and at most 1.")
    if options.batch_size is not None and options.batch_size < 1:
        raise BadSetting(f"--batch-size {options.batch_size} should be at least 1.")
    if options.epochs < 1:
        raise BadSetting(f"--epochs {options.epochs} should be at least 1.")
    if not 0 <= options.seed < 2**32:
        raise BadSetting(f"--seed {options.seed} should be from 0 to {2**32 - 1}.")
    return parse_objective(options.objective)
