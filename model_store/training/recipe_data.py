"""The images that recipes are compared on: those to learn from, and those to judge by.

In: datasets. Out: PreparedData for a backbone, and the judged images in the same geometry. Nothing is trained here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.bundle.policy import Mode
from model_store.datasets.audit import DatasetReport, audit_dataset
from model_store.datasets.dataset import Dataset, Sample
from model_store.datasets.image_loading import DecodedSamples, DecodeSettings, decode_samples
from model_store.datasets.lazy_images import ImageStack
from model_store.evaluation.metrics import check_labels_known, label_mask_of
from model_store.runtime.progress import ProgressSteps
from model_store.training.prepared_data import PreparedData
from shared.arrays import Bools, Indices
from shared.errors import BadDataset, BadImage
from shared.images.crop_regions import Fit
from shared.printable import printable

# The side at which the images are audited, whatever size the recipes need, so that all recipes get the same splits.
_AUDIT_PX = 224


@dataclass(frozen=True)
class Resources:
    """What all steps of a comparison need."""

    cache: Path
    decode_settings: DecodeSettings
    steps: ProgressSteps

    def decode(
        self, dataset: Dataset, samples: Sequence[Sample], *, title: str, size_px: int, fit: Fit
    ) -> DecodedSamples:
        """Decode some samples of a dataset, as a step with this title."""
        with self.steps.step(title, total=len(samples)) as on_progress:
            return decode_samples(
                dataset.files,
                samples,
                size_px=size_px,
                fit=fit,
                decode_settings=self.decode_settings,
                on_progress=on_progress,
                scratch=self.cache,
            )

    def prepare(
        self, dataset: Dataset, mode: Mode, *, backbone: Backbone, network: Network | None, report: DatasetReport
    ) -> PreparedData:
        """Decode the images as training does. `report` excludes the same images for all recipes.

        Raises:
            BadDataset: the dataset can't be trained on.
        """
        return PreparedData.prepare(
            dataset,
            mode,
            backbone=backbone,
            network=network,
            regions={},
            decode_settings=self.decode_settings,
            seed=0,  # each training splits the images by its own seed
            cache=self.cache,
            steps=self.steps,
            report=report,
        )


def mode_subset(dataset: Dataset, mode: Mode) -> Dataset:
    """The part of a dataset that is for a mode: `multi` takes all images, `single` those with exactly one label."""
    return one_label(dataset) if mode == "single" else dataset


def one_label(dataset: Dataset) -> Dataset:
    """The images with exactly one label, without the classes that only occur together with others."""
    alone = [sample for sample in dataset.samples if len(sample.labels) == 1]
    lost = {*_labels(dataset.samples)} - {*_labels(alone)}
    return replace(dataset.with_samples(alone), classes=tuple(name for name in dataset.classes if name not in lost))


def _labels(samples: Iterable[Sample]) -> Iterator[str]:
    return (name for sample in samples for name in sample.labels)


def without_splits(dataset: Dataset) -> Dataset:
    """The same dataset, with the images of held_out.txt, test/ and valid/ like all others."""
    return dataset.with_samples(replace(sample, held_out=False, validation=False) for sample in dataset.samples)


def dataset_fingerprint(dataset: Dataset, *, decode_settings: DecodeSettings) -> str:
    """SHA-256 over the files, labels, cameras and given splits of all images. It decodes nothing."""
    return hashlib.sha256("".join(sorted(_fingerprint_lines(dataset, decode_settings))).encode()).hexdigest()


def _fingerprint_lines(dataset: Dataset, decode_settings: DecodeSettings) -> Iterator[str]:
    for sample in dataset.samples:
        try:
            digest = hashlib.sha256(dataset.files.read(sample.name, max_bytes=decode_settings.max_bytes)).hexdigest()
        except BadImage as error:  # it is reported when it is decoded
            digest = error.reason
        validation = " validation" if sample.validation else ""
        yield f"{digest} {'|'.join(sample.labels)} {sample.camera} {sample.held_out}{validation}\n"


@dataclass(frozen=True)
class Judged:
    """The images that recipes are judged by, their labels, and which labels are known (None: all)."""

    images: ImageStack
    labels: list[tuple[str, ...]]
    label_mask: Bools | None
    decoded: DecodedSamples | None = None  # of another dataset than the one to learn from


def split_off_fifth(data: PreparedData, seed: int) -> tuple[Indices, Judged]:
    """The rows to learn from, and a stratified fifth of the images to judge by.

    Raises:
        BadDataset: there are too few.
    """
    learned, judged = data.split_rows(data.rows, seed=seed)
    labels, mask = data.labels(judged), data.label_mask(data.samples(judged))
    return learned, Judged(data.frames(judged).images, labels, mask)


def judged_dataset(data: PreparedData, dataset: Dataset, resources: Resources) -> Judged:
    """All usable images of another dataset, decoded in the size and the shape that training gets.

    Raises:
        BadDataset: it has no usable image, a label that is not learned, or an image that is learned from.
    """
    path = dataset.files.path
    check_labels_known((sample.labels for sample in dataset.samples), data.classes)
    title, size_px = f"Reading the images to judge by ({data.mode})", data.pictures.images.shape[1]
    decoded = resources.decode(dataset, dataset.samples, title=title, size_px=size_px, fit=data.fit)
    if not decoded.samples:
        which = " with exactly one label" if data.mode == "single" else ""
        raise BadDataset(f"{path} has no usable image{which} to judge by.")
    learned = set(data.pictures.digests)
    if seen := [each.name for each, digest in zip(decoded.samples, decoded.digests, strict=True) if digest in learned]:
        noun = "image" if len(seen) == 1 else "images"
        raise BadDataset(
            f"{path} has {len(seen):,} {noun} in common with {data.dataset.files.path}, e.g. {printable(seen[0])}. "
            "A model has to be judged by images that it did not learn from: remove them from one of the two."
        )
    mask = label_mask_of(dataset, decoded.samples, classes=data.classes, mode=data.mode)
    return Judged(decoded.images, [sample.labels for sample in decoded.samples], mask, decoded)


def audit_for_comparison(dataset: Dataset, mode: Mode, resources: Resources) -> DatasetReport:
    """The report by which all recipes split the images of a mode."""
    usable = [sample for sample in dataset.samples if not sample.held_out]
    decoded = resources.decode(dataset, usable, title=f"Checking the images ({mode})", size_px=_AUDIT_PX, fit="stretch")
    held_out = None
    if kept := [sample for sample in dataset.samples if sample.held_out]:
        title = f"Checking the held-out images ({mode})"
        held_out = resources.decode(dataset, kept, title=title, size_px=_AUDIT_PX, fit="stretch")
    return audit_dataset(dataset, decoded, held_out=held_out, mode=mode, steps=resources.steps)


def excluded_reasons(report: DatasetReport) -> dict[str, str]:
    """Why each file of `report.excluded` is neither learned from nor judged by, by its `printable` name."""
    return {printable(name): printable(_excluded_reason(report, name)) for name in report.excluded}


def _excluded_reason(report: DatasetReport, name: str) -> str:
    if original := report.held_out_copies.get(name):
        return f"the same photograph is held out: {original}"
    if original := report.validation_copies.get(name):
        return f"the validation split has the same photograph: {original}"
    return "a copy of it has labels that contradict its own"
