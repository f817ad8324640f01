"""Training from a dataset to a published version, step by step.

In: a dataset's path and TrainOptions. Out: the published bundle's folder and what there is to tell.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store import parity as exported_parity
from model_store.backbones import DEFAULT_HANDLE, Backbone, resolve_backbone
from model_store.bundle import file_digests, read_manifest, write_golden
from model_store.dataset_files import DatasetFiles
from model_store.dataset_report import DatasetReport, examine
from model_store.datasets import Dataset, Sample, check_trainable, count_labels, load_dataset, training_mode
from model_store.evaluation import Bools, figures, known_truth, reliability
from model_store.export import export, serving_module
from model_store.fine_tuning import Frames
from model_store.manifest import (
    MANIFEST_FILE,
    REPORT_DIR,
    BackboneInfo,
    CalibrationInfo,
    DatasetInfo,
    Manifest,
    TrainingInfo,
)
from model_store.networks import Network, open_network
from model_store.pixels import Pictures, Unreadable, decode_samples
from model_store.policy import GOOD, Mode
from model_store.progress import Steps
from model_store.quantize import CALIBRATION_IMAGES
from model_store.report import write_report
from model_store.report_data import HeldOut, ReportData, thumbnails
from model_store.sight import Sight, frame_size_px
from model_store.split import Split, split
from model_store.store import ModelStore
from model_store.thresholds import Objective, parse_objective
from model_store.trained_on import write_trained_on
from model_store.training import HeadSettings, logits_of, targets_of
from model_store.transfer import Learnt, Looks, Transfer, Wish, learn
from model_store.tuning import Tuning, tune
from shared.errors import BadDataset, BadSetting
from shared.regions import Fit, Region

_PACKAGES = ("tensorflow", "tf-keras", "tensorflow-hub", "ai-edge-litert", "numpy", "pillow")
# Images whose size is looked up to choose the frames' size.
_SIZES_LOOKED_UP = 50
_BATCH_SIZE = 32


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
class _Material:
    """Everything that training needs, in memory. `held_out` are images for parity only."""

    dataset: Dataset
    report: DatasetReport
    mode: Mode
    classes: tuple[str, ...]
    fit: Fit
    pictures: Pictures
    split: Split
    held_out: Pictures

    def labels(self, chosen: NDArray[np.intp]) -> list[tuple[str, ...]]:
        """The stated labels of these pictures."""
        return [self.pictures.samples[index].labels for index in chosen]

    def known(self, samples: list[Sample]) -> Bools | None:
        """Which truth the dataset states of these samples, bool [N, C]; None: all."""
        return known_truth(self.dataset, samples, classes=self.classes, mode=self.mode)

    def frames(self, chosen: NDArray[np.intp]) -> Frames:
        """These pictures and their targets."""
        known = self.known([self.pictures.samples[index] for index in chosen])
        targets = targets_of(self.labels(chosen), self.classes, self.mode, known=known)
        return Frames(self.pictures.images[chosen], targets)


def train_and_publish(
    path: Path,
    options: TrainOptions,
    *,
    store: ModelStore,
    cache: Path,
    steps: Steps | None = None,
    show: Callable[[DatasetReport], None] | None = None,
) -> Trained:
    """Train on the dataset at `path`, check the exports, and publish them as the model's next version.

    `show` hears what is noteworthy in the dataset before the training begins.

    Raises:
        BadSetting: an option that can't be used.
        BadDataset: the dataset can't be trained on; says why.
        NotFound, BadBackbone: the backbone can't be had, or was changed.
        BadBundle: an export does not answer as the trained model; nothing is published.
    """
    steps = steps or Steps()
    objective = _checked(options)
    store.versions(options.name)  # a name that can't be one is refused before the work, not after
    dataset = load_dataset(path)
    mode = training_mode(dataset, options.mode)
    objective.check(mode)
    backbone = resolve_backbone(options.backbone, cache=cache, steps=steps)
    with steps.step("Opening the backbone"):
        network = open_network(backbone)
    material = _gather(dataset, mode, options, backbone=backbone, network=network, cache=cache, steps=steps)
    if show is not None:
        show(material.report)
    learnt = learn(
        backbone,
        network,
        material.frames(material.split.train),
        material.frames(material.split.validation),
        classes=material.classes,
        mode=mode,
        wish=Wish(options.fine_tune, options.looks, options.epochs, options.seed),
        cache=cache,
        steps=steps,
    )
    return _publish(options, objective, backbone, material, learnt, store=store, steps=steps)


def _publish(
    options: TrainOptions,
    objective: Objective,
    backbone: Backbone,
    material: _Material,
    learnt: Learnt,
    *,
    store: ModelStore,
    steps: Steps,
) -> Trained:
    """Calibrate, export, compare, report and publish."""
    chosen = material.split.validation
    validation = material.frames(chosen)
    known = material.known([material.pictures.samples[index] for index in chosen])
    logits = logits_of(learnt.head, features_of(learnt.sight, validation.images))
    tuning = tune(logits, validation.targets, classes=material.classes, mode=material.mode, objective=objective)
    with tempfile.TemporaryDirectory(prefix="sortline-export-") as scratch:
        folder = Path(scratch)
        parity = _export(folder, material, learnt, tuning, steps=steps)
        metrics = figures(tuning.judged(material.labels(chosen), known=known))
        calibration = _calibration(material, tuning, known=known)
        manifest = _manifest(
            options, backbone, material, learnt, tuning, metrics=metrics, parity=parity, calibration=calibration
        )
        digests = np.array(material.pictures.digests)
        write_trained_on(folder, train=digests[material.split.train], validation=digests[chosen])
        with steps.step("Drawing the report"):
            write_report(folder / REPORT_DIR, _report(manifest, material, learnt, tuning, known=known))
        with steps.step("Publishing"):
            published = store.publish(
                options.name,
                lambda target, number: build_bundle(target, number, folder, manifest),
                promote=options.promote,
            )
    gate = exported_parity.gate_reason(parity)
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


def _gather(
    dataset: Dataset,
    mode: Mode,
    options: TrainOptions,
    *,
    backbone: Backbone,
    network: Network | None,
    cache: Path,
    steps: Steps,
) -> _Material:
    """Decode everything, look it over, and split it."""
    path = dataset.files.path
    usable = [sample for sample in dataset.samples if not sample.held_out]
    held_out = [sample for sample in dataset.samples if sample.held_out]
    # A bottle that is turned upright has to keep its shape; a closed box gets its pictures as it always did.
    fit: Fit = "stretch" if network is None else "pad"
    size_px = backbone.input_size_px if network is None else frame_size_px(frame_sizes(dataset.files, usable))
    classes = tuple(sorted({*dataset.classes, GOOD})) if mode == "multi" else dataset.classes
    kind: dict[str, Any] = {"size_px": size_px, "fit": fit, "regions": options.regions, "scratch": cache}
    with steps.step("Reading the images", total=len(dataset.samples)) as advance:
        pictures = decode_samples(dataset.files, usable, advance=advance, **kind)
        kept_away = decode_samples(dataset.files, held_out, advance=advance, **kind)
    report = examine(dataset, pictures, held_out=kept_away, mode=mode, steps=steps)
    excluded = set(report.excluded)
    left_out = {index for index, sample in enumerate(pictures.samples) if sample.name in excluded}
    check_trainable([one for one in pictures.samples if one.name not in excluded], dataset.classes, path)
    labels = [sample.labels for sample in pictures.samples]
    groups = report.groups_of(pictures.samples)
    chosen = split(labels, seed=options.seed, groups=groups, leave_out=left_out)
    if not len(chosen.validation):
        raise BadDataset(f"{path} has {len(pictures.samples)} usable images: too few to keep a fifth for validation.")
    return _Material(dataset, report, mode, classes, fit, pictures, chosen, kept_away)


def frame_sizes(files: DatasetFiles, samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Width and height of some of the images that have a readable header; a common size where none has."""
    sizes = []
    for index in np.linspace(0, len(samples) - 1, min(len(samples), _SIZES_LOOKED_UP)).astype(int):
        try:
            with Image.open(io.BytesIO(files.read(samples[index].name))) as picture:
                sizes.append(picture.size)
        except Exception:  # noqa: S112 - unreadable files are reported when they are decoded
            continue
    return sizes or [(224, 224)]


def features_of(sight: Sight, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What a sight sees in frames uint8 [N, S, S, 3], float32 [N, width], computed as the exported model does."""
    from model_store.tf import import_tensorflow

    tf = import_tensorflow()
    see = tf.function(sight.features, reduce_retracing=True)
    starts = range(0, len(frames), _BATCH_SIZE)
    return np.concatenate([np.asarray(see(tf.constant(frames[at : at + _BATCH_SIZE]))) for at in starts])


def _export(folder: Path, material: _Material, learnt: Learnt, tuning: Tuning, *, steps: Steps) -> dict[str, float]:
    """Write the models and golden.npz into `folder`; the figures of parity on all images not trained on."""
    images = material.pictures.images
    module = serving_module(learnt.sight, learnt.head, tuning.calibration, size_px=images.shape[1])
    train = material.split.train  # in the order of the folders: its first images are of one class
    spread = train[np.linspace(0, len(train) - 1, min(CALIBRATION_IMAGES, len(train))).astype(int)]
    export(module, folder, calibration=images[spread], steps=steps)
    chosen = material.split.validation
    unseen = np.concatenate([images[chosen], material.held_out.images])
    samples = [*(material.pictures.samples[index] for index in chosen), *material.held_out.samples]
    with steps.step("Comparing the exports with the trained model"):
        answers = exported_parity.answer_all(module, folder, unseen, classes_count=len(material.classes))
        kind: dict[str, Any] = {"classes": material.classes, "mode": material.mode, "policy": tuning.policy}
        labels = [sample.labels for sample in samples]
        measured = exported_parity.measure(answers, labels=labels, known=material.known(samples), **kind)
        write_golden(folder, exported_parity.choose_golden(unseen, answers, **kind))
    return measured


def _calibration(material: _Material, tuning: Tuning, *, known: Bools | None) -> CalibrationInfo:
    labels = material.labels(material.split.validation)
    truth = np.array([[name in names for name in material.classes] for names in labels], bool)
    everything = np.ones_like(truth) if known is None else known
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


def _report(
    manifest: Manifest, material: _Material, learnt: Learnt, tuning: Tuning, *, known: Bools | None
) -> ReportData:
    chosen = material.split.validation
    held_out = HeldOut(
        names=tuple(material.pictures.samples[index].name for index in chosen),
        labels=tuple(material.labels(chosen)),
        thumbnails=thumbnails(material.pictures.images[chosen]),
        probabilities=tuning.after,
        known=known,
        uncalibrated=tuning.before,
    )
    weights = {"head/kernel": [learnt.head.kernel], "head/bias": [learnt.head.bias]}
    return ReportData(manifest, phases=learnt.phases, held_out=held_out, weights=weights)


def _manifest(
    options: TrainOptions,
    backbone: Backbone,
    material: _Material,
    learnt: Learnt,
    tuning: Tuning,
    *,
    metrics: dict[str, Any],
    parity: dict[str, float],
    calibration: CalibrationInfo,
) -> Manifest:
    """The manifest, but for its version, parent and files, which the store settles."""
    settings, plan = HeadSettings(epochs=options.epochs), learnt.plan
    used = [material.pictures.samples[index] for index in np.concatenate(material.split)]
    return Manifest(
        name=options.name,
        version=1,
        created_at=time.time(),
        mode=material.mode,
        classes=material.classes,
        input_size_px=int(material.pictures.images.shape[1]),
        fit=material.fit,
        regions=dict(options.regions),
        policy=tuning.policy,
        cpu_engine=exported_parity.cpu_engine(parity),
        backbone=BackboneInfo(handle=backbone.handle, sha256=backbone.sha256, feature_width=learnt.sight.feature_width),
        training=TrainingInfo(
            seed=options.seed,
            epochs=options.epochs,
            batch_size=settings.batch_size,
            fine_tune=plan.fine_tune,
            settings=settings.as_dict()
            | {
                "look": plan.looks,
                "canvas": str(learnt.sight.canvas),
                "separation": {name: round(score, 4) for name, score in plan.separation.items()},
                "reasons": list(plan.reasons),
                "objective": options.objective,
                "best_epochs": {phase.name: phase.best_epoch for phase in learnt.phases},
            },
            packages=package_versions(),
        ),
        dataset=DatasetInfo(
            fingerprint=material.pictures.fingerprint,
            images=len(used),
            train=len(material.split.train),
            validation=len(material.split.validation),
            per_label=count_labels(used, material.classes),
        ),
        metrics=metrics,
        calibration=calibration,
        parity=parity,
        files={},
    )


def package_versions() -> dict[str, str]:
    """The packages that can change what a model answers, for its manifest."""
    return {name: package_version(name) for name in _PACKAGES}


def build_bundle(folder: Path, number: int, exported: Path, manifest: Manifest) -> None:
    """For `ModelStore.publish`: the files in `exported` and the manifest, complete with number and digests."""
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    folder.chmod(0o755)  # copytree took over the scratch folder's 0700, which would shut out other users' workers
    complete = manifest.model_copy(update={"version": number, "files": file_digests(folder)})
    (folder / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2))
