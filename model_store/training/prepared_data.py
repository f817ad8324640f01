"""Prepared data: a dataset's images decoded, checked and split, ready for training.

In: a dataset, the user's choices, and the backbone that will be used. Out: a PreparedData. Nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.bundle.policy import Mode
from model_store.datasets.audit import DatasetReport, audit_dataset
from model_store.datasets.dataset import Dataset, Sample, check_trainable
from model_store.datasets.dataset_files import DatasetFiles
from model_store.datasets.image_loading import DecodedSamples, DecodeSettings, decode_samples
from model_store.datasets.lazy_images import LazySubset
from model_store.datasets.splitting import Split, split
from model_store.evaluation.metrics import label_mask_of
from model_store.runtime.progress import ProgressSteps
from model_store.training.feature_extractor import frame_size_px
from model_store.training.fine_tuning import Frames
from model_store.training.head import targets_of
from shared.arrays import Bools, Indices
from shared.errors import BadDataset, BadImage, BadSetting
from shared.images import decode_cost
from shared.images.crop_regions import ANY_CAMERA, Fit, Region
from shared.images.formats import sniff
from shared.progress import ignore

# How many images' sizes are read to choose the size of the frames.
_SAMPLED_SIZES = 50


@dataclass(frozen=True)
class PreparedData:
    """The data to train on and to validate with. The `held_out` images are for the parity check only."""

    dataset: Dataset
    report: DatasetReport
    mode: Mode
    classes: tuple[str, ...]
    fit: Fit
    pictures: DecodedSamples
    split: Split
    held_out: DecodedSamples
    sample_bits: int  # the setting; 0: as each file says

    @classmethod
    def prepare(
        cls,
        dataset: Dataset,
        mode: Mode,
        *,
        backbone: Backbone,
        network: Network | None,
        regions: Mapping[str, Region],
        decode_settings: DecodeSettings,
        seed: int,
        cache: Path,
        steps: ProgressSteps,
        show: Callable[[DatasetReport], None] = ignore,
        report: DatasetReport | None = None,
    ) -> PreparedData:
        """Decode all images, check them, and split them.

        `show` is called with the report before the dataset is refused: the report says why too few images are usable.
        `report`: that of an earlier check of the same dataset, so that it isn't checked again.

        Raises:
            BadDataset: the dataset can't be trained on; says why.
        """
        # A bottle that is turned upright has to keep its shape. An opaque module gets squashed images, as in tutorials.
        fit: Fit = "stretch" if network is None else "pad"
        pictures, held_out = _read(
            dataset,
            size_px=backbone.input_size_px if network is None else None,
            fit=fit,
            regions=regions,
            decode_settings=decode_settings,
            scratch=cache,
            steps=steps,
        )
        report = report or audit_dataset(dataset, pictures, held_out=held_out, mode=mode, steps=steps)
        show(report)
        excluded, samples = set(report.excluded), pictures.samples
        rows = np.array([index for index, sample in enumerate(samples) if sample.name not in excluded], np.intp)
        check_trainable(dataset, [samples[index] for index in rows], mode)
        parts = report.given_split(samples, rows) or _split(dataset, report, samples, rows, seed=seed)
        return cls(
            dataset=dataset,
            report=report,
            mode=mode,
            classes=dataset.classes_for(mode),
            fit=fit,
            pictures=pictures,
            split=parts,
            held_out=held_out,
            sample_bits=decode_settings.sample_bits,
        )

    @property
    def rows(self) -> Indices:
        """The rows of `pictures` that are trained on or validated with, ascending."""
        return np.sort(np.concatenate(self.split))

    def samples(self, rows: Indices) -> list[Sample]:
        """The samples of these rows of `pictures`."""
        return [self.pictures.samples[index] for index in rows]

    def labels(self, rows: Indices) -> list[tuple[str, ...]]:
        """The stated labels of these rows of `pictures`."""
        return [sample.labels for sample in self.samples(rows)]

    def label_mask(self, samples: Sequence[Sample]) -> Bools | None:
        """Which labels of these samples the dataset states, bool [N, C]; None if it states all."""
        return label_mask_of(self.dataset, samples, classes=self.classes, mode=self.mode)

    def frames(self, rows: Indices) -> Frames:
        """These rows of `pictures` with their targets."""
        samples = self.samples(rows)
        targets = targets_of(self.labels(rows), self.classes, self.mode, label_mask=self.label_mask(samples))
        return Frames(LazySubset(self.pictures.images, rows), targets, self.report.groups_of(samples))

    def split_rows(self, rows: Indices, *, seed: int) -> Split:
        """Split these rows of `pictures` by the same rules as `split`, with another seed.

        Raises:
            BadDataset: there are too few.
        """
        return _split(self.dataset, self.report, self.pictures.samples, rows, seed=seed)


def _read(
    dataset: Dataset,
    *,
    size_px: int | None,
    fit: Fit,
    regions: Mapping[str, Region],
    decode_settings: DecodeSettings,
    scratch: Path,
    steps: ProgressSteps,
) -> tuple[DecodedSamples, DecodedSamples]:
    """Decode the images to train and validate with, and the held-out ones. Without `size_px` the former choose it."""
    usable = [sample for sample in dataset.samples if not sample.held_out]
    held_out = [sample for sample in dataset.samples if sample.held_out]
    with steps.step("Reading the images", total=len(dataset.samples)) as on_progress:
        decode = partial(
            decode_samples,
            dataset.files,
            size_px=size_px or frame_size_px(frame_sizes(dataset.files, usable, decode_settings)),
            decode_settings=decode_settings,
            fit=fit,
            regions=regions,
            scratch=scratch,
            on_progress=on_progress,
        )
        return decode(usable), decode(held_out)


def _split(dataset: Dataset, report: DatasetReport, samples: Sequence[Sample], rows: Indices, *, seed: int) -> Split:
    parts = split(
        [sample.labels for sample in samples],
        seed=seed,
        groups=report.groups_of(samples),
        leave_out=set(range(len(samples))).difference(rows.tolist()),
        absent=[dataset.absent_labels(sample) for sample in samples] if report.mode == "multi" else None,
    )
    if not len(parts.validation):
        raise BadDataset(
            f"{dataset.files.path} has {len(rows)} usable images: too few to keep a fifth for validation. Add images."
        )
    return parts


def check_regions(regions: Mapping[str, Region], dataset: Dataset) -> None:
    """Reject a region for a camera with no training images: serving would crop what training did not.

    Raises:
        BadSetting: names that camera, and the cameras of the training images.
    """
    cameras = {sample.camera for sample in dataset.samples if not sample.held_out and sample.camera is not None}
    unknown = sorted(regions.keys() - cameras - {ANY_CAMERA})
    if not unknown:
        return
    there = (
        f"their cameras are {', '.join(sorted(cameras))}" if cameras else "they name no camera (labels.csv can name it)"
    )
    raise BadSetting(
        f"--region {unknown[0]}={regions[unknown[0]]}: no training image is of camera {unknown[0]!r}; {there}. "
        "Workers would crop images in a way that training never saw. Name another camera, or give the region without a "
        "camera to apply it to all."
    )


def frame_sizes(
    files: DatasetFiles, samples: Sequence[Sample], decode_settings: DecodeSettings
) -> list[tuple[int, int]]:
    """Width and height of some of the images with a readable header; one common size if there are none.

    The files are anybody's. Only their headers are counted, by our own reader, and only up to the limits of images.
    """
    sizes = []
    for index in np.linspace(0, len(samples) - 1, min(len(samples), _SAMPLED_SIZES)).astype(int):
        try:
            data = files.read(samples[index].name, max_bytes=decode_settings.max_bytes)
            cost = decode_cost.estimate(data, sniff(data))
        except BadImage:  # reported when it is decoded
            continue
        if 0 < cost.width_px * cost.height_px <= decode_settings.max_px:  # 0: the header can't be read
            sizes.append((cost.width_px, cost.height_px))
    return sizes or [(224, 224)]
