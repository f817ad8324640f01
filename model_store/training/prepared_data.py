"""Everything that training needs, in hand: images decoded, looked over, and split.

In: a dataset, what the user chose, and the backbone that is to look. Out: a Material. Nothing is trained here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.backbones.keras_graphs import Network
from model_store.backbones.resolve import Backbone
from model_store.bundle.policy import Mode
from model_store.datasets.audit import DatasetReport, examine
from model_store.datasets.dataset import Dataset, Sample, check_trainable
from model_store.datasets.image_loading import Limits, Pictures, decode_samples
from model_store.datasets.lazy_images import Chosen
from model_store.datasets.sources import DatasetFiles
from model_store.datasets.splitting import Split, split
from model_store.evaluation.metrics import Bools, known_truth
from model_store.runtime.progress import ProgressSteps
from model_store.training.feature_extractor import frame_size_px
from model_store.training.fine_tuning import Frames
from model_store.training.head import targets_of
from shared.errors import BadDataset, BadSetting
from shared.images.crop_regions import ANY_CAMERA, Fit, Region

# Images whose size is looked up to choose the frames' size.
_SIZES_LOOKED_UP = 50


@dataclass(frozen=True)
class Material:
    """What is trained on and checked with. `held_out` are images for parity only."""

    dataset: Dataset
    report: DatasetReport
    mode: Mode
    classes: tuple[str, ...]
    fit: Fit
    pictures: Pictures
    split: Split
    held_out: Pictures

    def samples(self, rows: NDArray[np.intp]) -> list[Sample]:
        """The samples of these pictures."""
        return [self.pictures.samples[index] for index in rows]

    def labels(self, rows: NDArray[np.intp]) -> list[tuple[str, ...]]:
        """Their stated labels."""
        return [sample.labels for sample in self.samples(rows)]

    def known(self, samples: Sequence[Sample]) -> Bools | None:
        """Which truth the dataset states of these samples, bool [N, C]; None: all."""
        return known_truth(self.dataset, samples, classes=self.classes, mode=self.mode)

    def frames(self, rows: NDArray[np.intp]) -> Frames:
        """These pictures and their targets."""
        samples = self.samples(rows)
        targets = targets_of(self.labels(rows), self.classes, self.mode, known=self.known(samples))
        return Frames(Chosen(self.pictures.images, rows), targets, self.report.groups_of(samples))

    def divided(self, rows: NDArray[np.intp], *, seed: int) -> Split:
        """These pictures split as all were, by another seed.

        Raises:
            BadDataset: there are too few.
        """
        return _divided(self.dataset, self.report, self.pictures.samples, rows, seed=seed)


def gather(
    dataset: Dataset,
    mode: Mode,
    *,
    backbone: Backbone,
    network: Network | None,
    regions: Mapping[str, Region],
    limits: Limits,
    seed: int,
    cache: Path,
    steps: ProgressSteps,
) -> Material:
    """Decode everything, look it over, and split it.

    Raises:
        BadDataset: it can't be trained on; says why.
    """
    usable = [sample for sample in dataset.samples if not sample.held_out]
    held_out = [sample for sample in dataset.samples if sample.held_out]
    # A bottle that is turned upright has to keep its shape; a closed box gets its pictures as it always did.
    fit: Fit = "stretch" if network is None else "pad"
    size_px = backbone.input_size_px if network is None else frame_size_px(frame_sizes(dataset.files, usable))
    kind: dict[str, Any] = {"size_px": size_px, "limits": limits, "fit": fit, "regions": regions, "scratch": cache}
    with steps.step("Reading the images", total=len(dataset.samples)) as on_progress:
        pictures = decode_samples(dataset.files, usable, on_progress=on_progress, **kind)
        kept_away = decode_samples(dataset.files, held_out, on_progress=on_progress, **kind)
    report = examine(dataset, pictures, held_out=kept_away, mode=mode, steps=steps)
    excluded, samples = set(report.excluded), pictures.samples
    rows = np.array([index for index, sample in enumerate(samples) if sample.name not in excluded], np.intp)
    check_trainable(dataset, [samples[index] for index in rows], mode)
    chosen = _divided(dataset, report, samples, rows, seed=seed)
    return Material(dataset, report, mode, dataset.classes_for(mode), fit, pictures, chosen, kept_away)


def _divided(
    dataset: Dataset, report: DatasetReport, samples: Sequence[Sample], rows: NDArray[np.intp], *, seed: int
) -> Split:
    chosen = split(
        [sample.labels for sample in samples],
        seed=seed,
        groups=report.groups_of(samples),
        leave_out=set(range(len(samples))).difference(rows.tolist()),
        absent=[dataset.absent(sample) for sample in samples] if report.mode == "multi" else None,
    )
    if not len(chosen.validation):
        raise BadDataset(
            f"{dataset.files.path} has {len(rows)} usable images: too few to keep a fifth for validation. Add images."
        )
    return chosen


def check_regions(regions: Mapping[str, Region], dataset: Dataset) -> None:
    """Raise where a region would only be looked at in serving: by a camera none of whose images is trained on.

    Raises:
        BadSetting: names that camera, and those that there are.
    """
    cameras = {sample.camera for sample in dataset.samples if not sample.held_out and sample.camera is not None}
    strange = sorted(regions.keys() - cameras - {ANY_CAMERA})
    if not strange:
        return
    there = f"they are of {', '.join(sorted(cameras))}" if cameras else "they name no camera (labels.csv can)"
    raise BadSetting(
        f"--region {strange[0]}={regions[strange[0]]}: no image to train on is of camera {strange[0]!r}, {there}. "
        "Workers would crop what training did not: name another, or none for every camera."
    )


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
