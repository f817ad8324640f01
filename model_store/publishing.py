"""Training from a dataset to a published version, step by step.

In: a dataset's path and TrainOptions. Out: the published bundle's folder and what there is to tell.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_store import parity as exported_parity
from model_store.backbones import DEFAULT_HANDLE, Backbone, resolve_backbone
from model_store.bundle import file_digests, write_golden
from model_store.datasets import Dataset, check_trainable, count_labels, load_dataset
from model_store.evaluation import evaluate
from model_store.export import export, serving_module
from model_store.features import FeatureExtractor
from model_store.manifest import (
    MANIFEST_FILE,
    REPORT_DIR,
    BackboneInfo,
    DatasetInfo,
    Manifest,
    TrainingInfo,
)
from model_store.pixels import Pictures, Unreadable, decode_samples
from model_store.policy import GOOD, Mode, Policy
from model_store.progress import Advance, Steps
from model_store.quantize import CALIBRATION_IMAGES
from model_store.report import write_report
from model_store.split import Split, split
from model_store.store import ModelStore
from model_store.training import Examples, Head, HeadSettings, History, probabilities, targets_of, train_head
from shared.errors import BadDataset, BadSetting

_PACKAGES = ("tensorflow", "tf-keras", "tensorflow-hub", "ai-edge-litert", "numpy", "pillow")


@dataclass(frozen=True)
class TrainOptions:
    """What the user chose. `mode` None: `multi` when any image has several labels."""

    name: str = "bottles"
    mode: Mode | None = None
    backbone: str = DEFAULT_HANDLE
    epochs: int = 25
    fine_tune: Literal["none", "top", "all"] = "none"
    seed: int = 123


@dataclass(frozen=True)
class Trained:
    """A published version and what there is to tell of it."""

    path: Path
    manifest: Manifest
    unreadable: tuple[Unreadable, ...]
    unlabelled: tuple[str, ...]
    held_out: int  # images that held_out.txt kept away from training and validation
    seconds: dict[str, float]  # by step


@dataclass(frozen=True)
class _Material:
    """Everything that training needs, in memory. `held_out` are images for parity only."""

    dataset: Dataset
    mode: Mode
    classes: tuple[str, ...]
    pictures: Pictures
    split: Split
    held_out: Pictures


def train_and_publish(
    path: Path, options: TrainOptions, *, store: ModelStore, cache: Path, steps: Steps | None = None
) -> Trained:
    """Train on the dataset at `path`, check the exports, and publish them as the model's next version.

    Raises:
        BadSetting: an option that can't be used.
        BadDataset: the dataset can't be trained on; says why.
        NotFound, BadBackbone: the backbone can't be had, or was changed.
        BadBundle: an export does not answer as the trained model; nothing is published.
    """
    steps = steps or Steps()
    _check(options)
    store.versions(options.name)  # a name that can't be one is refused before the work, not after
    dataset = load_dataset(path)
    mode = _mode(dataset, options.mode)
    backbone = resolve_backbone(options.backbone, cache=cache, steps=steps)
    material = _gather(dataset, mode, backbone=backbone, seed=options.seed, steps=steps)
    settings = HeadSettings(epochs=options.epochs)
    extractor = FeatureExtractor(backbone, cache=cache)
    head, history, metrics = _train(material, settings, extractor=extractor, seed=options.seed, steps=steps)
    with tempfile.TemporaryDirectory(prefix="sortline-export-") as scratch:
        parity = _export(Path(scratch), material, head, layer=extractor.layer, steps=steps)
        with steps.step("Drawing the report"):
            write_report(Path(scratch) / REPORT_DIR, history=history, metrics=metrics)
        manifest = _manifest(options, settings, backbone, material, metrics=metrics, parity=parity)
        with steps.step("Publishing"):
            published = store.publish(
                options.name, lambda folder, number: _build(folder, number, Path(scratch), manifest)
            )
    return Trained(
        path=published,
        manifest=manifest.model_copy(update={"version": int(published.name), "files": file_digests(published)}),
        unreadable=(*material.pictures.unreadable, *material.held_out.unreadable),
        unlabelled=dataset.unlabelled,
        held_out=len(material.held_out.samples),
        seconds=steps.seconds,
    )


def _check(options: TrainOptions) -> None:
    if options.fine_tune != "none":
        raise BadSetting(
            f"--fine-tune {options.fine_tune} is not available in this release: only the head is trained. Use none."
        )
    if options.epochs < 1:
        raise BadSetting(f"--epochs {options.epochs} should be at least 1.")
    if not 0 <= options.seed < 2**32:
        raise BadSetting(f"--seed {options.seed} should be from 0 to {2**32 - 1}.")


def _mode(dataset: Dataset, chosen: Mode | None) -> Mode:
    if chosen == "single" and dataset.has_several_labels:
        sample = next(sample for sample in dataset.samples if len(sample.labels) > 1)
        raise BadDataset(
            f"{dataset.files.path}: {sample.name} has the labels {list(sample.labels)}, but --mode single allows one "
            "an image. Use --mode multi."
        )
    return chosen or ("multi" if dataset.has_several_labels else "single")


def _gather(dataset: Dataset, mode: Mode, *, backbone: Backbone, seed: int, steps: Steps) -> _Material:
    """Decode everything and split it."""
    path, size_px = dataset.files.path, backbone.input_size_px
    classes = tuple(sorted({*dataset.classes, GOOD})) if mode == "multi" else dataset.classes
    with steps.step("Reading the images", total=len(dataset.samples)) as advance:
        usable = [sample for sample in dataset.samples if not sample.held_out]
        held_out = [sample for sample in dataset.samples if sample.held_out]
        pictures = decode_samples(dataset.files, usable, size_px=size_px, advance=advance)
        kept_away = decode_samples(dataset.files, held_out, size_px=size_px, advance=advance)
    check_trainable(pictures.samples, dataset.classes, path)
    chosen = split([sample.labels for sample in pictures.samples], seed=seed)
    if not len(chosen.validation):
        raise BadDataset(f"{path} has {len(pictures.samples)} usable images: too few to keep a fifth for validation.")
    return _Material(dataset, mode, classes, pictures, chosen, kept_away)


def _train(
    material: _Material, settings: HeadSettings, *, extractor: FeatureExtractor, seed: int, steps: Steps
) -> tuple[Head, History, dict[str, Any]]:
    labels = [sample.labels for sample in material.pictures.samples]
    views = len(labels) + (len(material.split.train) if settings.mirrored else 0)
    with steps.step("Computing features", total=views) as advance:
        train, validation = examples(
            material.pictures.images,
            targets_of(labels, material.classes, material.mode),
            material.split,
            settings=settings,
            extractor=extractor,
            advance=advance,
        )
    with steps.step("Training the head", total=settings.epochs) as advance:
        head, history = train_head(
            train,
            validation,
            classes=material.classes,
            mode=material.mode,
            settings=settings,
            seed=seed,
            advance=advance,
        )
    metrics = evaluate(
        probabilities(head, validation.features),
        [labels[index] for index in material.split.validation],
        classes=material.classes,
        mode=material.mode,
        policy=Policy.default(material.classes, material.mode),
    )
    return head, history, metrics


def examples(
    images: NDArray[np.uint8],
    targets: NDArray[np.float32],
    chosen: Split,
    *,
    settings: HeadSettings,
    extractor: FeatureExtractor,
    advance: Advance,
) -> tuple[Examples, Examples]:
    """Features and targets to train on, with mirrored views where the settings ask for them, and to validate on."""
    features = extractor.features(images, advance=advance)
    train = Examples(features[chosen.train], targets[chosen.train])
    if settings.mirrored:
        # A bottle seen in a mirror is a bottle with the same properties.
        mirrored = extractor.features(images[chosen.train, :, ::-1], advance=advance)
        train = Examples(np.concatenate([train.features, mirrored]), np.concatenate([train.targets, train.targets]))
    return train, Examples(features[chosen.validation], targets[chosen.validation])


def _export(folder: Path, material: _Material, head: Head, *, layer: Any, steps: Steps) -> dict[str, float]:
    """Write the models and golden.npz into `folder`; the figures of parity on all images not trained on."""
    images = material.pictures.images
    module = serving_module(layer, head, size_px=images.shape[1])
    export(module, folder, calibration=images[material.split.train][:CALIBRATION_IMAGES], steps=steps)
    unseen = np.concatenate([images[material.split.validation], material.held_out.images])
    policy = Policy.default(material.classes, material.mode)
    with steps.step("Comparing the exports with the trained model"):
        answers = exported_parity.answer_all(module, folder, unseen, classes_count=len(material.classes))
        kind: dict[str, Any] = {"classes": material.classes, "mode": material.mode, "policy": policy}
        figures = exported_parity.measure(answers, **kind)
        write_golden(folder, exported_parity.choose_golden(unseen, answers, **kind))
    return figures


def _manifest(
    options: TrainOptions,
    settings: HeadSettings,
    backbone: Backbone,
    material: _Material,
    *,
    metrics: dict[str, Any],
    parity: dict[str, float],
) -> Manifest:
    """The manifest, but for its version and files, which the store settles."""
    return Manifest(
        name=options.name,
        version=1,
        created_at=time.time(),
        mode=material.mode,
        classes=material.classes,
        input_size_px=backbone.input_size_px,
        policy=Policy.default(material.classes, material.mode),
        cpu_engine=exported_parity.cpu_engine(parity),
        backbone=BackboneInfo(handle=backbone.handle, sha256=backbone.sha256, feature_width=backbone.feature_width),
        training=TrainingInfo(
            seed=options.seed,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            fine_tune=options.fine_tune,
            settings=settings.as_dict(),
            packages={name: package_version(name) for name in _PACKAGES},
        ),
        dataset=DatasetInfo(
            fingerprint=material.pictures.fingerprint,
            images=len(material.pictures.samples),
            train=len(material.split.train),
            validation=len(material.split.validation),
            per_label=count_labels(material.pictures.samples, material.classes),
        ),
        metrics=metrics,
        parity=parity,
        files={},
    )


def _build(folder: Path, number: int, exported: Path, manifest: Manifest) -> None:
    shutil.copytree(exported, folder, dirs_exist_ok=True)
    folder.chmod(0o755)  # copytree took over the scratch folder's 0700, which would shut out other users' workers
    complete = manifest.model_copy(update={"version": number, "files": file_digests(folder)})
    (folder / MANIFEST_FILE).write_text(complete.model_dump_json(indent=2))
