"""Training from a dataset to a published version, step by step.

In: a dataset's path and TrainOptions. Out: the published bundle's folder and what there is to tell.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_store.backbones.keras_graphs import open_network
from model_store.backbones.resolve import DEFAULT_HANDLE, Backbone, resolve_backbone
from model_store.bundle.files import file_digests, read_manifest, write_golden
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
from model_store.bundle.training_digests import write_trained_on
from model_store.datasets.audit import DatasetReport
from model_store.datasets.dataset import count_labels, load_dataset, training_mode
from model_store.datasets.image_loading import Limits, Unreadable
from model_store.datasets.lazy_images import Chosen
from model_store.evaluation.metrics import Bools, figures, reliability
from model_store.export import parity as exported_parity
from model_store.export.exporter import export, serving_module
from model_store.export.quantization import CALIBRATION_IMAGES
from model_store.registry.registry import ModelStore, copy_file
from model_store.reports.data import HeldOut, ReportData, thumbnails
from model_store.reports.write import write_report
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import scratch_folder
from model_store.training.decision_tuning import Tuning, tune
from model_store.training.feature_cache import features_of
from model_store.training.head import HeadSettings, logits_of
from model_store.training.prepared_data import Material, check_regions, gather
from model_store.training.thresholds import Objective, parse_objective
from model_store.training.transfer import Learnt, Looks, Transfer, Wish, learn
from shared.errors import BadSetting
from shared.images.crop_regions import Region

_PACKAGES = ("sortline", "tensorflow", "tf-keras", "tensorflow-hub", "ai-edge-litert", "numpy", "pillow", "simplejpeg")


@dataclass(frozen=True)
class TrainOptions:
    """What the user chose. `mode` None: `multi` when any image has several labels."""

    name: str = "bottles"
    mode: Mode | None = None
    backbone: str = DEFAULT_HANDLE
    epochs: int = 25
    fine_tune: Transfer = "auto"
    looks: Looks = "auto"
    objective: str = "f1"
    regions: Mapping[str, Region] = field(default_factory=dict)  # by camera, `*` for all others
    seed: int = 123
    promote: bool = True


@dataclass(frozen=True)
class Trained:
    """A published version and what there is to tell of it."""

    path: Path
    manifest: Manifest
    unreadable: tuple[Unreadable, ...]
    unlabelled: tuple[str, ...]
    held_out: int  # images that held_out.txt kept away from training and validation
    excluded: tuple[str, ...]  # images left out: contradictory, or copies of held-out ones
    notes: tuple[str, ...]  # why the training was as it was, and what to know of the thresholds
    seconds: dict[str, float]  # by step


@dataclass(frozen=True)
class _Work:
    """What was asked for, what there was to learn from, and what came of it."""

    options: TrainOptions
    backbone: Backbone
    material: Material
    learnt: Learnt
    tuning: Tuning

    @property
    def known(self) -> Bools | None:
        """Which truth of the validation images is known, bool [N, C]; None: all."""
        return self.material.known(self.material.samples(self.material.split.validation))


def train_and_publish(
    path: Path,
    options: TrainOptions,
    *,
    store: ModelStore,
    cache: Path,
    limits: Limits,
    steps: ProgressSteps | None = None,
    show: Callable[[DatasetReport], None] | None = None,
) -> Trained:
    """Train on the dataset at `path`, check the exports, and publish them as the model's next version.

    What is larger than `limits` counts as unreadable. `show` hears what is noteworthy in the dataset before the
    training begins.

    Raises:
        BadSetting: an option that can't be used, also a region of a camera that took none of the images; or a cache or
            scratch folder that can't.
        BadDataset: the dataset can't be trained on; says why.
        NotFound, BadBackbone: the backbone can't be had, or was changed.
        BadBundle: an export does not answer as the trained model; nothing is published.
    """
    steps = steps or ProgressSteps()
    objective = _checked(options)
    store.versions(options.name)  # a name that can't be one is refused before the work, not after
    dataset = load_dataset(path)
    check_regions(options.regions, dataset)
    mode = training_mode(dataset, options.mode)
    objective.check(mode)
    backbone = resolve_backbone(options.backbone, cache=cache, steps=steps)
    with steps.step("Opening the backbone"):
        network = open_network(backbone)
    material = gather(
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
        show(material.report)
    train, validation = (material.frames(rows) for rows in material.split)
    kind: dict[str, Any] = {"classes": material.classes, "mode": mode}
    wish = Wish(options.fine_tune, options.looks, options.epochs, options.seed)
    learnt = learn(backbone, network, train=train, validation=validation, wish=wish, cache=cache, steps=steps, **kind)
    logits = logits_of(learnt.head, features_of(learnt.sight, validation.images))
    tuning = tune(logits, validation.targets, objective=objective, **kind)
    return _publish(_Work(options, backbone, material, learnt, tuning), store=store, steps=steps)


def _publish(work: _Work, *, store: ModelStore, steps: ProgressSteps) -> Trained:
    """Export, compare, report and publish."""
    material, learnt, tuning = work.material, work.learnt, work.tuning
    with scratch_folder("sortline-export-") as folder:
        parity = _export(folder, work, steps=steps)
        manifest = _manifest(work, parity=parity)
        digests = np.array(material.pictures.digests)
        train, validation = (digests[rows] for rows in material.split)
        write_trained_on(folder, train=train, validation=validation)
        with steps.step("Drawing the report"):
            write_report(folder / REPORT_DIR, _report(manifest, work))
        with steps.step("Publishing"):
            published = store.publish(
                work.options.name,
                lambda target, number: build_bundle(target, number, exported=folder, manifest=manifest),
                promote=work.options.promote,
            )
    gate = int8_refusal_reason(parity)
    return Trained(
        path=published,
        manifest=read_manifest(published),
        unreadable=(*material.pictures.unreadable, *material.held_out.unreadable),
        unlabelled=material.dataset.unlabelled,
        held_out=len(material.held_out.samples),
        excluded=material.report.excluded,
        notes=(*learnt.plan.reasons, *tuning.notes, *([gate] if gate else [])),
        seconds=steps.seconds,
    )


def _checked(options: TrainOptions) -> Objective:
    if options.epochs < 1:
        raise BadSetting(f"--epochs {options.epochs} should be at least 1.")
    if not 0 <= options.seed < 2**32:
        raise BadSetting(f"--seed {options.seed} should be from 0 to {2**32 - 1}.")
    return parse_objective(options.objective)


def _export(folder: Path, work: _Work, *, steps: ProgressSteps) -> dict[str, float]:
    """Write the models and golden.npz into `folder`; the figures of parity on all images not trained on."""
    material, images = work.material, work.material.pictures.images
    module = serving_module(work.learnt.sight, work.learnt.head, work.tuning.calibration, size_px=images.shape[1])
    export(module, folder, calibration=images[spread_over(material.split.train, CALIBRATION_IMAGES)], steps=steps)
    chosen = material.split.validation
    unseen = np.concatenate([images[chosen], material.held_out.images])
    samples = [*material.samples(chosen), *material.held_out.samples]
    with steps.step("Comparing the exports with the trained model"):
        answers = exported_parity.answer_all(module, folder, unseen, classes_count=len(material.classes))
        kind: dict[str, Any] = {"classes": material.classes, "mode": material.mode, "policy": work.tuning.policy}
        labels = [sample.labels for sample in samples]
        measured = exported_parity.measure(answers, labels=labels, known=material.known(samples), **kind)
        write_golden(folder, exported_parity.choose_golden(unseen, answers, **kind))
    return measured


def spread_over(rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """At most `count` of the rows, evenly over all of them: a dataset's first images are often of one class."""
    return rows.take(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))


def _calibration(work: _Work) -> CalibrationInfo:
    material, tuning = work.material, work.tuning
    labels = material.labels(material.split.validation)
    truth = np.array([[name in names for name in material.classes] for names in labels], bool)
    everything = np.ones_like(truth) if work.known is None else work.known
    before, after = (
        reliability(answers, truth, everything, mode=material.mode).error for answers in (tuning.before, tuning.after)
    )
    return CalibrationInfo(
        scale=tuning.calibration.scale,
        shift=tuning.calibration.shift,
        images=len(labels),
        ece_before=round(before, 6),
        ece_after=round(after, 6),
    )


def _report(manifest: Manifest, work: _Work) -> ReportData:
    material, chosen = work.material, work.material.split.validation
    held_out = HeldOut(
        names=tuple(sample.name for sample in material.samples(chosen)),
        labels=tuple(material.labels(chosen)),
        thumbnails=thumbnails(Chosen(material.pictures.images, chosen)),
        probabilities=work.tuning.after,
        known=work.known,
        uncalibrated=work.tuning.before,
    )
    head = work.learnt.head
    weights = {"head/kernel": [head.kernel], "head/bias": [head.bias]}
    return ReportData(manifest, phases=work.learnt.phases, held_out=held_out, weights=weights)


def _manifest(work: _Work, *, parity: dict[str, float]) -> Manifest:
    """The manifest, but for its version, parent and files, which the store settles."""
    options, backbone, material = work.options, work.backbone, work.material
    labels = material.labels(material.split.validation)
    return Manifest(
        name=options.name,
        version=1,
        created_at=time.time(),
        mode=material.mode,
        classes=material.classes,
        input_size_px=int(material.pictures.images.shape[1]),
        fit=material.fit,
        regions=dict(options.regions),
        policy=work.tuning.policy,
        cpu_engine=default_cpu_engine(parity),
        backbone=BackboneInfo(
            handle=backbone.handle, sha256=backbone.sha256, feature_width=work.learnt.sight.feature_width
        ),
        training=_training(work),
        dataset=_dataset(material),
        metrics=figures(work.tuning.judged(labels, known=work.known)),
        calibration=_calibration(work),
        parity=parity,
        files={},
    )


def _training(work: _Work) -> TrainingInfo:
    """`batch_size`, `epochs` and the first settings are the head's; `tuning` is there where layers were trained."""
    options, learnt = work.options, work.learnt
    plan, head = learnt.plan, HeadSettings(epochs=options.epochs)
    how = {
        "look": plan.looks,
        "canvas": str(learnt.sight.canvas),
        "separation": {name: round(score, 4) for name, score in plan.separation.items()},
        "reasons": list(plan.reasons),
        "objective": options.objective,
        "best_epochs": {phase.name: phase.best_epoch for phase in learnt.phases},
    }
    return TrainingInfo(
        seed=options.seed,
        epochs=options.epochs,
        batch_size=head.batch_size,
        fine_tune=plan.fine_tune,
        settings=head.as_dict() | ({"tuning": learnt.tuning.as_dict()} if learnt.tuning else {}) | how,
        packages=package_versions(),
    )


def _dataset(material: Material) -> DatasetInfo:
    used = material.samples(np.concatenate(material.split))
    return DatasetInfo(
        fingerprint=material.pictures.fingerprint,
        images=len(used),
        train=len(material.split.train),
        validation=len(material.split.validation),
        per_label=count_labels(used, material.classes),
    )


def package_versions() -> dict[str, str]:
    """Python and the packages that can change what a model answers, this one too, for its manifest."""
    return {"python": platform.python_version()} | {name: package_version(name) for name in _PACKAGES}


def build_bundle(folder: Path, number: int, *, exported: Path, manifest: Manifest) -> None:
    """For `ModelStore.publish`: the files in `exported` and the manifest, complete with number and digests."""
    digests = file_digests(exported)
    for file in digests:
        copy_file(exported / file, folder / file)
    complete = manifest.model_copy(update={"version": number, "files": digests})
    (folder / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2))
