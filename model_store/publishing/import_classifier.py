"""Imports a ready-made image classifier (e.g. a TF-Hub module with ImageNet's labels) as a published model.

In: a handle, the names of its outputs, and images. Out: a bundle like any other, for `classify`, `evaluate` and the
worker. Nothing is trained. The images calibrate the int8 model and measure the parity of the exports; their labels, if
any, are ignored. A classifier from the package index needs no names, as its classes are ImageNet's. Without images of
the user's own, the frames that ship with Sortline take their place.

Its classes are not those of a sorting line, so they have no lanes of their own: every bottle goes to `unsorted` unless
a lane is given for its class. If any lane is given, uncertain bottles go to `manual`, as with other models.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from model_store.backbones.resolve import Backbone, resolve_classifier
from model_store.bundle.files import read_manifest
from model_store.bundle.golden import write_golden
from model_store.bundle.int8_gate import default_cpu_engine
from model_store.bundle.manifest import BackboneInfo, DatasetInfo, Manifest, TrainingInfo
from model_store.bundle.policy import Policy
from model_store.datasets.dataset import Sample
from model_store.datasets.dataset_files import IMAGE_SUFFIXES, DatasetFiles, open_files
from model_store.datasets.image_loading import DecodedSamples, DecodeSettings, decode_samples
from model_store.export.exporter import export
from model_store.export.parity import check_parity, choose_golden, predict_all
from model_store.export.quantization import CALIBRATION_IMAGES, check_private_functions
from model_store.export.recheck_margin import MeasuredExports, measure_exports
from model_store.publishing.class_labels import IMAGENET, ClassLabels, labels_for, read_labels
from model_store.publishing.publish import package_versions, sample_bits_info, write_manifest
from model_store.publishing.train import check_writable
from model_store.registry.store import ModelStore, copy_bundle
from model_store.runtime.progress import ProgressSteps
from model_store.runtime.scratch import is_disk_error, scratch_folder
from model_store.runtime.tensorflow_imports import import_hub, import_tensorflow
from shared.errors import BadBackbone, BadDataset, BadSetting
from shared.images.arrays import Pixels
from shared.masking import masked

_MIN_IMAGES = 8
# Some 100 images suffice to measure an agreement of 99 %; more only take longer.
_PARITY_IMAGES = 128
_SEED = 123
# The bottle frames that ship with Sortline. Another package holds them, but only as files.
_SHIPPED_FRAMES = Path(__file__).parents[2] / "producer" / "bottles"
# The fingerprint of an empty dataset: the SHA-256 of nothing, because there are no (file digest, labels) pairs.
_NO_IMAGES = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class ImportOptions:
    """What the user chose.

    `labels` is a file or URL, or IMAGENET; None: those of the handle, if it has its own. `calibration` is a folder or
    zip of images; None: the frames that ship. `lanes` gives a lane to some of the classes.
    """

    handle: str
    labels: str | None = None
    calibration: Path | None = None
    name: str = "imagenet"
    lanes: Mapping[str, str] = field(default_factory=dict)
    promote: bool = True
    insecure_http: bool = False  # take the module and the labels from http:// URLs without a digest


@dataclass(frozen=True)
class ImportedClassifier:
    """A published classifier, and what to tell the user about its import."""

    path: Path
    manifest: Manifest
    scores: str  # the module's outputs: logits or probabilities
    notes: tuple[str, ...]  # what was changed in the labels, and remarks on the exports
    unreadable: int  # images that could not be read
    seconds: dict[str, float]  # by step


class _Images(NamedTuple):
    """Images for the int8 calibration and the parity check, uint8 [N, S, S, 3]; `pictures` holds all decoded ones."""

    calibration: Pixels
    parity: Pixels
    pictures: DecodedSamples
    sample_bits: int  # the setting; 0: as each file says


def import_classifier(
    options: ImportOptions,
    *,
    store: ModelStore,
    cache: Path,
    decode_settings: DecodeSettings,
    steps: ProgressSteps | None = None,
) -> ImportedClassifier:
    """Fetch the classifier, export it, check the exports against it, and publish it as a version.

    Raises:
        BadSetting: the handle, the labels, a lane, the cache or the scratch folder is missing or unusable.
        NotFound: the module or the labels can't be fetched, or this TensorFlow lacks a function that int8 needs.
        BadBackbone: the module is not an image classifier, or can't be converted to LiteRT.
        BadDataset: fewer than 8 usable images.
        BadBundle: an export differs from the module; nothing is published.
    """
    steps = steps or ProgressSteps()
    location = _labels_of(options)
    files = open_files(options.calibration or _SHIPPED_FRAMES)
    lines = read_labels(location, steps=steps, insecure_http=options.insecure_http)
    check_writable(store, options.name, cache=cache)
    module = resolve_classifier(options.handle, cache=cache, steps=steps, insecure_http=options.insecure_http)
    labels = labels_for(lines, outputs=module.feature_width, location=masked(location))
    policy = policy_of(labels.names, options.lanes)
    check_private_functions()
    images = _images(files, size_px=module.input_size_px, decode_settings=decode_settings, steps=steps)
    with scratch_folder("sortline-import-") as folder:
        measured, notes = _export(folder, module, labels, policy=policy, images=images, steps=steps)
        manifest = _manifest(
            options, module, labels, policy=policy, images=images, measured=measured, location=location
        )
        write_manifest(folder, manifest)
        with steps.step("Publishing"):
            path = store.publish(options.name, copy_bundle(folder, options.name), promote=options.promote)
    return ImportedClassifier(
        path,
        read_manifest(path),
        module.gives,
        (*labels.notes, *_calibration_notes(options, images), *notes),
        len(images.pictures.unreadable),
        steps.seconds,
    )


def policy_of(classes: tuple[str, ...], lanes: Mapping[str, str]) -> Policy:
    """A policy with the given lanes, and `unsorted` for all other classes; see the top of this file.

    Raises:
        BadSetting: a lane is given for an unknown class.
    """
    if unknown := sorted(lanes.keys() - set(classes)):
        raise BadSetting(f"--lane {unknown[0]}={lanes[unknown[0]]}: the classifier has no class {unknown[0]!r}.")
    usual = Policy.default(classes, "single")
    return Policy(
        thresholds=usual.thresholds,
        precedence=usual.precedence,
        lanes=dict.fromkeys(classes, usual.unsorted_lane) | dict(lanes),
        manual_lane=usual.manual_lane if lanes else usual.unsorted_lane,
    )


def serving_module(layer: Any, *, size_px: int, softmax: bool) -> Any:
    """The whole classifier as a tf.Module with one traced function, `serve`, like a trained model's."""
    tf = import_tensorflow()

    def serve(images: Any) -> dict[str, Any]:
        scores = layer(tf.cast(images, "float32") / 255.0)
        return {"probabilities": tf.nn.softmax(scores) if softmax else tf.identity(scores)}

    module = tf.Module()
    module.layer = layer
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, size_px, size_px, 3], tf.uint8, "images")])
    return module


def _labels_of(options: ImportOptions) -> str:
    """Where the names of the classifier's outputs are.

    Raises:
        BadSetting: the user has named none, and the handle doesn't have its own.
    """
    if options.labels is not None:
        return options.labels
    # Every classifier from the package index is one of ImageNet's. The others are none, as `resolve_classifier` says.
    if options.handle.partition(":")[0] in ("wheel", "keras", "tuned"):
        return IMAGENET
    raise BadSetting(
        f"{masked(options.handle)} doesn't say what its outputs are called. Give --labels FILE|URL, with one name per "
        f"line in the order of the outputs, or --labels {IMAGENET} if they are ImageNet's classes in the usual order."
    )


def _calibration_notes(options: ImportOptions, images: _Images) -> tuple[str, ...]:
    if options.calibration is not None:
        return ()
    return (
        f"int8 was calibrated on {len(images.calibration)} of the rendered bottle frames that ship with Sortline. If "
        "the model will see other images, give some of them with --calibration.",
    )


def _images(files: DatasetFiles, *, size_px: int, decode_settings: DecodeSettings, steps: ProgressSteps) -> _Images:
    """Some images for the calibration and others for the parity check, shuffled, always in the same order."""
    names = [name for name in files.names if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES]
    wanted = np.random.default_rng(_SEED).permutation(len(names))[: CALIBRATION_IMAGES + _PARITY_IMAGES]
    samples = [Sample(names[index], ()) for index in wanted]
    with steps.step("Decoding images", total=len(samples)) as on_progress:
        pictures = decode_samples(
            files, samples, size_px=size_px, decode_settings=decode_settings, on_progress=on_progress
        )
    usable = len(pictures.images)
    if usable < _MIN_IMAGES:
        raise BadDataset(
            f"--calibration {files.path} has {usable} usable images; at least {_MIN_IMAGES} are needed, and 200 are "
            "better. Give a folder or zip of images like those that the model will see. Their labels don't matter."
        )
    calibrating = min(CALIBRATION_IMAGES, usable // 2)
    return _Images(pictures.images[:calibrating], pictures.images[calibrating:], pictures, decode_settings.sample_bits)


def _export(
    folder: Path, module: Backbone, labels: ClassLabels, *, policy: Policy, images: _Images, steps: ProgressSteps
) -> tuple[MeasuredExports, tuple[str, ...]]:
    """Write the models and golden.npz into `folder`. Returns how far they agree, and notes for the user."""
    layer = import_hub().KerasLayer(str(module.path), trainable=False)
    served = serving_module(layer, size_px=module.input_size_px, softmax=module.gives == "logits")
    try:
        export(served, folder, calibration=images.calibration, steps=steps)
    except Exception as error:  # the converter raises many types, none of them ours
        if is_disk_error(error):
            raise
        first_line = (str(error).strip().splitlines() or [repr(error)])[0]
        raise BadBackbone(f"{module.handle} can't be converted to LiteRT: {first_line}") from error
    with steps.step("Comparing the exports with the classifier"):
        predictions = predict_all(served, folder, images.parity, classes_count=len(labels.names))
        measured = measure_exports(predictions, classes=labels.names, mode="single", policy=policy)
        notes = check_parity(predictions, classes=labels.names, mode="single", policy=policy)
        golden = choose_golden(
            images.parity,
            predictions,
            classes=labels.names,
            mode="single",
            policy=policy,
            recheck_margin=measured.recheck_margin,
        )
        write_golden(folder, golden)
    return measured, notes


def _manifest(
    options: ImportOptions,
    module: Backbone,
    labels: ClassLabels,
    *,
    policy: Policy,
    images: _Images,
    measured: MeasuredExports,
    location: str,
) -> Manifest:
    """The manifest; the store fills in version and files. Nothing was trained: 0 epochs, 0 images, no metrics."""
    return Manifest(
        name=options.name,
        version=1,
        created_at=time.time(),
        mode="single",
        classes=labels.names,
        input_size_px=module.input_size_px,
        policy=policy,
        cpu_engine=default_cpu_engine(measured.parity),
        int8_recheck_margin=measured.recheck_margin,
        backbone=BackboneInfo(handle=module.handle, sha256=module.sha256, feature_width=module.feature_width),
        training=TrainingInfo(
            seed=_SEED,
            epochs=0,
            batch_size=0,
            fine_tune="imported",
            settings={"scores": module.gives, "scaling": module.scaling, "labels": masked(location)}
            | _calibration_settings(options, images),
            packages=package_versions(),
        ),
        dataset=DatasetInfo(fingerprint=_NO_IMAGES, images=0, train=0, validation=0, per_label={}),
        parity=measured.parity,
        files={},
    )


def _calibration_settings(options: ImportOptions, images: _Images) -> dict[str, Any]:
    return {
        "calibration": "shipped frames" if options.calibration is None else "images of the user",
        "calibration_images": len(images.calibration),
        "calibration_fingerprint": images.pictures.fingerprint,
    } | sample_bits_info(images.pictures, setting=images.sample_bits)
