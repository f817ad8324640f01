"""The data of a report: the curves of one training, and the validation images with their predictions.

Training fills it. The values that a manifest holds (metrics, parity, settings) come from the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from model_store.bundle.manifest import Manifest
from model_store.datasets.lazy_images import ImageStack
from model_store.evaluation.metrics import ScoredPredictions
from model_store.training.history import Phase
from shared.arrays import Floats
from shared.images.arrays import Pixels

# Side of the thumbnails in a report: large enough to see a cap, and 43 KB uncompressed.
THUMBNAIL_PX = 120


@dataclass(frozen=True)
class ValidationPredictions:
    """N images that the model was not trained on, and its predictions for them.

    Attributes:
        names: names of the files.
        labels: true labels of each image.
        thumbnails: uint8 [N, s, s, 3]; see `thumbnails`.
        scored: the predictions and whether they are right, decided out of fold
            (`decision_tuning.DecisionTuning.score_out_of_fold`). The manifest's metrics are of the same predictions.
        uncalibrated: float32 [N, C], the probabilities before calibration; None: there was none.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    thumbnails: Pixels
    scored: ScoredPredictions
    uncalibrated: Floats | None = None

    def __post_init__(self) -> None:
        counts = {name: len(getattr(self, name)) for name in ("names", "labels", "thumbnails")}
        counts["scored"] = len(self.scored.probabilities)
        if self.uncalibrated is not None:
            counts["uncalibrated"] = len(self.uncalibrated)
        if len(set(counts.values())) > 1:
            raise ValueError(f"each should have one entry per image, but their lengths differ: {counts}")


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows. An imported model has no `phases`; without labeled images `validation` is None.

    `weights` are the head's weights by name, e.g. `head/kernel`: one array per epoch, or only the final one.
    """

    manifest: Manifest
    phases: tuple[Phase, ...] = ()
    validation: ValidationPredictions | None = None
    weights: Mapping[str, Sequence[Floats]] = field(default_factory=dict)


def thumbnails(images: ImageStack, *, size_px: int = THUMBNAIL_PX) -> Pixels:
    """Images uint8 [N, S, S, 3], reduced to [N, size_px, size_px, 3]; small enough images stay as they are."""
    from PIL import Image

    if images.shape[1] <= size_px:
        return images[:]
    small = np.empty((len(images), size_px, size_px, 3), np.uint8)
    for row, image in zip(small, images, strict=True):
        row[:] = np.asarray(Image.fromarray(image).resize((size_px, size_px), Image.Resampling.BILINEAR))
    return small
