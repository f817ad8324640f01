"""Train and publish: from a dataset to a published version, step by step.

In: a dataset's path and TrainOptions. Out: the published bundle's folder, and a report for the user.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path

import numpy as np

from model_store.backbones.keras_graphs import Network, open_network
from model_store.backbones.resolve import DEFAULT_HANDLE, Backbone, resolve_backbone
from model_store.bundle.files import file_digests, read_manifest
from model_store.bundle.golden import write_golden
from model_store.bundle.int8_gate import default_cpu_engine, int8_refusal_reason
from model_store.bundle.manifest import (
    MANIFEST_FILE,
    REPORT_DIR,
    BackboneInfo,
    CalibrationInfo,
    DatasetInfo,
    Manifest,
    TrainingInfo,
)
from model_store.bundle.policy import Mode
from model_store.bundle.training_digests import write_training_digests
from model_store.datasets.audit import DatasetReport
from model_store.datasets.dataset import count_labels, load_dataset, training_mode
from model_store.datasets.image_loading import Limits, Unreadable
from model_store.datasets.lazy_images import LazySubset
from model_store.evaluation.metrics import compute_metrics, reliability
from model_store.export.exporter import export, serving_module
from model_store.export.parity import choose_golden, measure_parity, predict_all
from model_store.export.quantization import CALIBRATION_IMAGES
from model_store.registry.store import ModelStore, copy_file
from model_store.reports.data import ReportData, ValidationPredictions, thumbnails
from model_store.reports.write import write_report
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import scratch_folder
from model_store.training.decision_tuning import DecisionTuning, tune_decisions
from model_store.training.feature_cache import extract_features
from model_store.training.feature_extractor import Crop
from model_store.training.head import HeadSettings, logits_of
from model_store.training.plan import CropChoice, FineTuneChoice, TransferOptions
from model_store.training.prepared_data import PreparedData, check_regions
from model_store.training.thresholds import Objective, parse_objective
from model_store.training.transfer import TrainedModel, train_model
from shared.arrays import Bools, Indices
from shared.errors import BadSetting
from shared.images.crop_regions import Region

_PACKAGES = ("sortline", "tensorflow", "tf-keras", "tensorflow-hub", "ai-edge-litert", "numpy", "pillow", "simplejpeg")
# The names of the crops in a manifest. They are part of the bundle format, which older readers know.
_MANIFEST_CROPS: dict[Crop, str] = {"detected": "found", "full": "whole"}


@dataclass(frozen=True)
class TrainOptions:
    """What the user chose. `mode` None: `multi` if any image has several labels."""

    name: str = "bottles"
    mode: Mode | None = None
    backbone: str = DEFAULT_HANDLE
    epochs: int = 25
    fine_tune: FineTuneChoice = "auto"
    crop: CropChoice = "auto"
    objective: str = "f1"
    regions: Mapping[str, Region] = field(default_factory=dict)  # by camera, `*` for all others
    seed: int = 123
    promote: bool = True


@dataclass(frozen=True)
class PublishedVersion:
    """A published version, and what to tell the user about its training."""

    path: Path
    manifest: Manifest
    unreadable: tuple[Unreadable, ...]
    unlabelled: tuple[str, ...]
    held_out: int  # images that held_out.txt kept out of training and validation
    excluded: tuple[str, ...]  # images left out: contradictory, or copies of held-out ones
    notes: tuple[str, ...]  # the reasons for what the training chose, and remarks on the thresholds
    seconds: dict[str, float]  # by step


@dataclass(frozen=True)
class _Training:
    """One training: the user's options, the data, and the results."""

    options: TrainOptions
    backbone: Backbone
    data: PreparedData
    model: TrainedModel
    decisions: DecisionTuning

    @property
    def validation_label_mask(self) -> Bools | None:
        """Which labels of the validation images are known, bool [N, C]; None if all are."""
        return self.data.label_mask(self.data.samples(self.data.split.validation))


def train_and_publish(
    path: Path,
    options: TrainOptions,
    *,
    store: ModelStore,
    cache: Path,
    limits: Limits,
    steps: ProgressSteps | None = None,
    show: Callable[[DatasetReport], None] | None = None,
) -> PublishedVersion:
    """Train on the dataset at `path`, check the exports, and publish them as the model's next version.

    Images beyond `limits` count as unreadable. `show` is called with the report on the dataset, before the training.

    Raises:
        BadSetting: an unusable option, e.g. a region for a camera with no training images; or an unusable cache or
            scratch folder.
        BadDataset: the dataset can't be trained on; says why.
        NotFound, BadBackbone: the backbone is not available, or its files were changed.
        BadBundle: an export differs from the trained model; nothing is published.
    """
    steps = steps or ProgressSteps()
    objective = _check_options(options)
    store.versions(options.name)  # refuses an impossible name before the work, not after it
    dataset = load_dataset(path)
    check_regions(options.regions, dataset)
    mode = training_mode(dataset, options.mode)
    objective.check(mode)
    backbone = resolve_backbone(options.backbone, cache=cache, steps=steps)
    with steps.step("Opening the backbone"):
        network = open_network(backbone)
    data = PreparedData.prepare(
        dataset,
        mode,
        backbone=backbone,
        network=network,
        regions=options.regions,
        limits=limits,
        seed=options.seed,
        cache=cache,
        steps=steps,
    )
    if show is not None:
        show(data.report)
    training = _train(data, options, objective, backbone=backbone, network=network, cache=cache, steps=steps)
    return _publish(training, store=store, steps=steps)


def _train(
    data: PreparedData,
    options: TrainOptions,
    objective: Objective,
    *,
    backbone: Backbone,
    network: Network | None,
    cache: Path,
    steps: ProgressSteps,
) -> _Training:
    """Train the head, and layers where that helps; then calibrate and set thresholds on the validation frames."""
    train, validation = (data.frames(rows) for rows in data.split)
    model = train_model(
        backbone,
        network,
        train=train,
        validation=validation,
        classes=data.classes,
        mode=data.mode,
        options=TransferOptions(options.fine_tune, options.crop, options.epochs, options.seed),
        cache=cache,
        steps=steps,
    )
    logits = logits_of(model.head, extract_features(model.extractor, validation.images))
    decisions = tune_decisions(logits, validation.targets, classes=data.classes, mode=data.mode, objective=objective)
    return _Training(options, backbone, data, model, decisions)


def _publish(training: _Training, *, store: ModelStore, steps: ProgressSteps) -> PublishedVersion:
    """Export, compare, report and publish."""
    data, decisions = training.data, training.decisions
    with scratch_folder("sortline-export-") as folder:
        parity = _export(folder, training, steps=steps)
        manifest = _manifest(training, parity=parity)
        digests = np.array(data.pictures.digests)
        train, validation = (digests[rows] for rows in data.split)
        write_training_digests(folder, train=train, validation=validation)
        with steps.step("Drawing the report"):
            write_report(folder / REPORT_DIR, _report(manifest, training))
        with steps.step("Publishing"):
            published = store.publish(
                training.options.name,
                lambda target, number: build_bundle(target, number, exported=folder, manifest=manifest),
                promote=training.options.promote,
            )
    refusal = int8_refusal_reason(parity)
    return PublishedVersion(
        path=published,
        manifest=read_manifest(published),
        unreadable=(*data.pictures.unreadable, *data.held_out.unreadable),
        unlabelled=data.dataset.unlabelled,
        held_out=len(data.held_out.samples),
        excluded=data.report.excluded,
        notes=(*training.model.plan.reasons, *decisions.notes, *([refusal] if refusal else [])),
        seconds=steps.seconds,
    )


def _check_options(options: TrainOptions) -> Objective:
    if options.epochs < 1:
        raise BadSetting(f"--epochs {options.epochs} should be at least 1.")
    if not 0 <= options.seed < 2**32:
        raise BadSetting(f"--seed {options.seed} should be from 0 to {2**32 - 1}.")
    return parse_objective(options.objective)


def _export(folder: Path, training: _Training, *, steps: ProgressSteps) -> dict[str, float]:
    """Write the models and golden.npz into `folder`. Returns the parity on all images that were not trained on."""
    data, images = training.data, training.data.pictures.images
    decisions, classes = training.decisions, data.classes
    module = serving_module(
        training.model.extractor, training.model.head, decisions.calibration, size_px=images.shape[1]
    )
    export(module, folder, calibration=images[spread_over(data.split.train, CALIBRATION_IMAGES)], steps=steps)
    rows = data.split.validation
    unseen = np.concatenate([images[rows], data.held_out.images])
    samples = [*data.samples(rows), *data.held_out.samples]
    with steps.step("Comparing the exports with the trained model"):
        predictions = predict_all(module, folder, unseen, classes_count=len(classes))
        measured = measure_parity(
            predictions,
            classes=classes,
            mode=data.mode,
            policy=decisions.policy,
            labels=[sample.labels for sample in samples],
            label_mask=data.label_mask(samples),
        )
        golden = choose_golden(unseen, predictions, classes=classes, mode=data.mode, policy=decisions.policy)
        write_golden(folder, golden)
    return measured


def spread_over(rows: Indices, count: int) -> Indices:
    """At most `count` of the rows, evenly spread over all: a dataset's first images are often of one class."""
    return rows.take(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))


def _calibration_info(training: _Training) -> CalibrationInfo:
    data, decisions = training.data, training.decisions
    labels = data.labels(data.split.validation)
    truth = np.array([[name in names for name in data.classes] for names in labels], bool)
    mask = training.validation_label_mask
    known = np.ones_like(truth) if mask is None else mask
    before, after = (
        reliability(probabilities, truth, known, mode=data.mode).error
        for probabilities in (decisions.before, decisions.after)
    )
    return CalibrationInfo(
        scale=decisions.calibration.scale,
        shift=decisions.calibration.shift,
        images=len(labels),
        ece_before=round(before, 6),
        ece_after=round(after, 6),
    )


def _report(manifest: Manifest, training: _Training) -> ReportData:
    data, rows = training.data, training.data.split.validation
    validation = ValidationPredictions(
        names=tuple(sample.name for sample in data.samples(rows)),
        labels=tuple(data.labels(rows)),
        thumbnails=thumbnails(LazySubset(data.pictures.images, rows)),
        probabilities=training.decisions.after,
        label_mask=training.validation_label_mask,
        uncalibrated=training.decisions.before,
    )
    head = training.model.head
    weights = {"head/kernel": [head.kernel], "head/bias": [head.bias]}
    return ReportData(manifest, phases=training.model.phases, validation=validation, weights=weights)


def _manifest(training: _Training, *, parity: dict[str, float]) -> Manifest:
    """The manifest; the store fills in the version, the parent and the files."""
    options, backbone, data = training.options, training.backbone, training.data
    labels = data.labels(data.split.validation)
    return Manifest(
        name=options.name,
        version=1,
        created_at=time.time(),
        mode=data.mode,
        classes=data.classes,
        input_size_px=int(data.pictures.images.shape[1]),
        fit=data.fit,
        regions=dict(options.regions),
        policy=training.decisions.policy,
        cpu_engine=default_cpu_engine(parity),
        backbone=BackboneInfo(
            handle=backbone.handle, sha256=backbone.sha256, feature_width=training.model.extractor.feature_width
        ),
        training=_training_info(training),
        dataset=_dataset_info(data),
        metrics=compute_metrics(
            training.decisions.score_out_of_fold(labels, label_mask=training.validation_label_mask)
        ),
        calibration=_calibration_info(training),
        parity=parity,
        files={},
    )


def _training_info(training: _Training) -> TrainingInfo:
    """`batch_size`, `epochs` and the first settings are the head's; `tuning` is there if layers were trained.

    The keys and values of `settings` are part of the bundle format.
    """
    options, model = training.options, training.model
    plan, head, fine_tuning = model.plan, HeadSettings(epochs=options.epochs), model.fine_tune_settings
    choices = {
        "look": _MANIFEST_CROPS[plan.crop],
        "canvas": str(model.extractor.crop_size),
        "separation": {_MANIFEST_CROPS[crop]: round(score, 4) for crop, score in plan.separability.items()},
        "reasons": list(plan.reasons),
        "objective": options.objective.replace("confidence", "sure"),
        "best_epochs": {phase.name: phase.best_epoch for phase in model.phases},
    }
    return TrainingInfo(
        seed=options.seed,
        epochs=options.epochs,
        batch_size=head.batch_size,
        fine_tune=plan.fine_tune,
        settings=head.as_dict() | ({"tuning": fine_tuning.as_dict()} if fine_tuning else {}) | choices,
        packages=package_versions(),
    )


def _dataset_info(data: PreparedData) -> DatasetInfo:
    used = data.samples(np.concatenate(data.split))
    return DatasetInfo(
        fingerprint=data.pictures.fingerprint,
        images=len(used),
        train=len(data.split.train),
        validation=len(data.split.validation),
        per_label=count_labels(used, data.classes),
    )


def package_versions() -> dict[str, str]:
    """The versions of Python and of the packages that can change a model's outputs, for its manifest."""
    return {"python": platform.python_version()} | {name: package_version(name) for name in _PACKAGES}


def build_bundle(folder: Path, number: int, *, exported: Path, manifest: Manifest) -> None:
    """Fill a version's folder, for `ModelStore.publish`: the files in `exported`, and the completed manifest."""
    digests = file_digests(exported)
    for file in digests:
        copy_file(exported / file, folder / file)
    complete = manifest.model_copy(update={"version": number, "files": digests})
    (folder / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2))
