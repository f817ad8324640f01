"""Makes a bundle from a trained model and publishes it: exports and compares it, writes the manifest and the report.

In: a Training. Out: the published version. If anything fails once the model is saved, or the user interrupts
it, its folder is kept. Called by `train`; `import_classifier` uses parts of it.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from model_store.backbones.resolve import Backbone
from model_store.backbones.tuned_layers import TunedLayers
from model_store.bundle.files import file_digests, open_bundle, read_manifest
from model_store.bundle.golden import write_golden
from model_store.bundle.int8_gate import default_cpu_engine, int8_notes
from model_store.bundle.manifest import (
    IMAGES_BY_BITS_KEY,
    MANIFEST_CROPS,
    MANIFEST_FILE,
    REPORT_DIR,
    SAMPLE_BITS_KEY,
    SAVED_MODEL_DIR,
    BackboneInfo,
    CalibrationInfo,
    DatasetInfo,
    Manifest,
    TrainingInfo,
)
from model_store.bundle.training_digests import write_training_digests
from model_store.datasets.dataset import count_labels
from model_store.datasets.image_loading import DecodedSamples, Unreadable
from model_store.datasets.lazy_images import LazySubset
from model_store.evaluation.metrics import ScoredPredictions, compute_metrics
from model_store.export.exporter import export, serving_module
from model_store.export.image_views import filled_up, views_of
from model_store.export.parity import (
    COMPARED_IMAGES,
    ExportPredictions,
    check_parity,
    choose_golden,
    predict_all,
    predict_views,
)
from model_store.export.quantization import CALIBRATION_IMAGES
from model_store.export.recheck_margin import MeasuredExports, measure_exports
from model_store.publishing.train_options import TrainOptions
from model_store.registry.store import ModelStore, copy_bundle
from model_store.reports.data import ReportData, ValidationPredictions, thumbnails
from model_store.reports.write import write_report
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import is_disk_error, scratch_error, scratch_folder
from model_store.training.decision_tuning import DecisionTuning
from model_store.training.prepared_data import PreparedData
from model_store.training.transfer import TrainedModel
from shared.arrays import Bools, Indices
from shared.errors import BadBundle, SortlineError
from shared.printable import printable

_PACKAGES = ("sortline", "tensorflow", "tf-keras", "tensorflow-hub", "ai-edge-litert", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Training:
    """One training: the user's options, the data, and the results.

    `start` has the tuned layers that it started from, if it did, and `start_notes` what they mean for its metrics.
    """

    options: TrainOptions
    backbone: Backbone
    data: PreparedData
    model: TrainedModel
    decisions: DecisionTuning
    start: TunedLayers | None = None
    start_notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reasons for what the training chose, and what the user should know of its start."""
        return (*self.start_notes, *self.model.plan.reasons)

    @cached_property
    def scored(self) -> ScoredPredictions:
        """The validation images, decided out of fold. The manifest's metrics and the report are both of these."""
        labels = self.data.labels(self.data.split.validation)
        return self.decisions.score_out_of_fold(labels, label_mask=self.validation_label_mask)

    @property
    def validation_label_mask(self) -> Bools | None:
        """Which labels of the validation images are known, bool [N, C]; None if all are."""
        return self.data.label_mask(self.data.samples(self.data.split.validation))


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


def publish(training: Training, *, store: ModelStore, steps: ProgressSteps) -> PublishedVersion:
    """Export, compare, report and publish.

    Raises:
        BadBundle: an export failed, or differs from the trained model. The message says where the model is kept.
        StoreUnavailable: the store refused the version. The message says where the model is kept.
        BadSetting: the scratch folder is full. If the model was saved before, the message says where it is kept.
    """
    data, decisions, name = training.data, training.decisions, training.options.name
    with scratch_folder("sortline-export-") as folder, _kept_if_stopped(folder, steps=steps):
        exported = _export(folder, training, steps=steps)
        manifest = _manifest(training, measured=exported.measured)
        digests = np.array(data.pictures.digests)
        train, validation = (digests[rows] for rows in data.split)
        earlier = None if training.start is None else training.start.tuned_on
        write_training_digests(folder, train=train, validation=validation, earlier=earlier)
        with steps.step("Drawing the report"):
            write_report(folder / REPORT_DIR, report_data(manifest, training))
        write_manifest(folder, manifest)
        # This check comes last, so that a refused model is kept as a complete bundle.
        notes = check_parity(exported.predictions, classes=data.classes, mode=data.mode, policy=decisions.policy)
        with steps.step("Publishing"):
            # The comparison has just loaded the SavedModel and run it: another process would take ten seconds for that.
            build = copy_bundle(folder, name)
            published = store.publish(name, build, promote=training.options.promote, litert_only=True)
    return PublishedVersion(
        path=published,
        manifest=read_manifest(published),
        unreadable=(*data.pictures.unreadable, *data.held_out.unreadable),
        unlabelled=data.dataset.unlabelled,
        held_out=len(data.held_out.samples),
        excluded=tuple(map(printable, data.report.excluded)),
        notes=(*training.reasons, *decisions.notes, *notes, *int8_notes(exported.measured.parity)),
        seconds=steps.seconds,
    )


@contextlib.contextmanager
def _kept_if_stopped(folder: Path, *, steps: ProgressSteps) -> Iterator[None]:
    """If the block fails or is interrupted once `folder` holds the trained model, keep it, and tell the user where."""
    try:
        yield
    except BaseException as error:
        if not (folder / SAVED_MODEL_DIR / "saved_model.pb").is_file():  # TensorFlow writes it after the weights
            raise
        where = _keep_folder(folder)
        if not isinstance(error, Exception):  # Ctrl-C or SIGTERM
            steps.print_line(where)
            raise
        if is_disk_error(error):
            error = scratch_error(error, folder=folder.parent)  # the folder itself has another name now
        if isinstance(error, SortlineError):
            raise type(error)(f"{error} {where}") from error
        first_line = (str(error).strip().splitlines() or [repr(error)])[0]  # the converter raises many types
        raise BadBundle(f"the trained model can't be exported: {first_line}. {where}") from error


def _keep_folder(folder: Path) -> str:
    """Keep the folder under another name; returns a sentence that says what can be done with it."""
    kept = folder.rename(folder.with_name(folder.name.replace("export", "trained")))
    try:
        open_bundle(kept)
    except (BadBundle, OSError):  # not complete, or not readable
        return f"The trained model is kept as a SavedModel: {kept / SAVED_MODEL_DIR}"
    return f"The trained model is kept: `sortline models publish {kept} --no-promote` publishes it as it is."


class _Exported(NamedTuple):
    """The exports' answers for the images that were not trained on, and how far they agree."""

    predictions: ExportPredictions
    measured: MeasuredExports


def _export(folder: Path, training: Training, *, steps: ProgressSteps) -> _Exported:
    """Write the models and golden.npz into `folder`, and compare them on all images that were not trained on."""
    data, images = training.data, training.data.pictures.images
    decisions, classes = training.decisions, data.classes
    module = serving_module(
        training.model.extractor, training.model.head, decisions.calibration, size_px=images.shape[1]
    )
    seed, measured_on = training.options.seed, images[spread_over(data.split.train, CALIBRATION_IMAGES)]
    export(module, folder, calibration=filled_up(measured_on, CALIBRATION_IMAGES, seed=seed), steps=steps)
    rows = data.split.validation
    unseen = np.concatenate([images[rows], data.held_out.images])
    samples = [*data.samples(rows), *data.held_out.samples]
    with steps.step("Comparing the exports with the trained model"):
        predictions = predict_all(module, folder, unseen, classes_count=len(classes))
        views = views_of(unseen, max(0, COMPARED_IMAGES - len(unseen)), seed=seed)
        measured = measure_exports(
            predictions,
            classes=classes,
            mode=data.mode,
            policy=decisions.policy,
            views=predict_views(folder, views, classes_count=len(classes)),
            labels=[sample.labels for sample in samples],
            label_mask=data.label_mask(samples),
        )
        golden = choose_golden(
            unseen,
            predictions,
            classes=classes,
            mode=data.mode,
            policy=decisions.policy,
            recheck_margin=measured.recheck_margin,
        )
        write_golden(folder, golden)
    return _Exported(predictions, measured)


def spread_over(rows: Indices, count: int) -> Indices:
    """At most `count` of the rows, evenly spread over all: a dataset's first images are often of one class."""
    return rows.take(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))


def _calibration_info(decisions: DecisionTuning) -> CalibrationInfo:
    return CalibrationInfo(
        scale=decisions.calibration.scale,
        shift=decisions.calibration.shift,
        images=len(decisions.before),
        ece_before=round(decisions.calibration_errors[0], 6),
        ece_after=round(decisions.calibration_errors[1], 6),
    )


def report_data(manifest: Manifest, training: Training) -> ReportData:
    """The data of the report: its pictures show the same predictions as the manifest's metrics."""
    data, rows = training.data, training.data.split.validation
    validation = ValidationPredictions(
        names=tuple(printable(sample.name) for sample in data.samples(rows)),
        labels=tuple(data.labels(rows)),
        thumbnails=thumbnails(LazySubset(data.pictures.images, rows)),
        scored=training.scored,
        uncalibrated=training.decisions.before if manifest.calibration and manifest.calibration.is_applied else None,
    )
    head = training.model.head
    weights = {"head/kernel": [head.kernel], "head/bias": [head.bias]}
    return ReportData(manifest, phases=training.model.phases, validation=validation, weights=weights)


def _manifest(training: Training, *, measured: MeasuredExports) -> Manifest:
    """The manifest; the store fills in the version, the parent and the files."""
    options, backbone, data = training.options, training.backbone, training.data
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
        cpu_engine=default_cpu_engine(measured.parity),
        int8_recheck_margin=measured.recheck_margin,
        backbone=BackboneInfo(
            handle=backbone.handle, sha256=backbone.sha256, feature_width=training.model.extractor.feature_width
        ),
        training=training_info(training),
        dataset=_dataset_info(data),
        metrics=compute_metrics(training.scored),
        calibration=_calibration_info(training.decisions),
        parity=measured.parity,
        files={},
    )


def training_info(training: Training) -> TrainingInfo:
    """`batch_size`, `epochs` and the first settings are the head's; `tuning` is there if layers were trained.

    The keys and values of `settings` are part of the bundle format.
    """
    options, model = training.options, training.model
    plan, head, fine_tuning = model.plan, model.head_settings, model.fine_tune_settings
    choices = {
        "look": MANIFEST_CROPS[plan.crop],
        "canvas": str(model.extractor.crop_size),
        "separation": {MANIFEST_CROPS[crop]: round(score, 4) for crop, score in plan.separability.items()},
        "reasons": list(training.reasons),
        "objective": options.objective.replace("confidence", "sure"),
        "best_epochs": {phase.name: phase.best_epoch for phase in model.phases},
    } | sample_bits_info(training.data.pictures, setting=training.data.sample_bits)
    return TrainingInfo(
        seed=options.seed,
        epochs=options.epochs,
        batch_size=head.batch_size,
        fine_tune=plan.fine_tune,
        settings=head.as_dict() | ({"tuning": fine_tuning.as_dict()} if fine_tuning else {}) | choices,
        packages=package_versions(),
    )


def sample_bits_info(pictures: DecodedSamples, *, setting: int) -> dict[str, Any]:
    """The keys of `training.settings` about images of more than 8 bits per sample; empty if there were none.

    Without the setting, the model's images are read at the number of bits that most of the dataset's have. A stray one
    among images of 8 bits decides nothing.
    """
    counts = Counter(pictures.sample_bits)
    if not counts:
        return {}
    (common, images), *others = counts.most_common()
    bits = setting or (common if not others and 2 * images > len(pictures.samples) else 0)
    number = {SAMPLE_BITS_KEY: bits} if bits else {}
    return number | {IMAGES_BY_BITS_KEY: {str(bits): counts[bits] for bits in sorted(counts)}}


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


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Turn a folder into a bundle: write its manifest, with the digests of all other files."""
    complete = manifest.model_copy(update={"files": file_digests(folder)})
    (folder / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2), encoding="utf-8")
