"""The data of a report: the curves of one training, and the validation images with their predictions.

Training fills it. The values that a manifest holds (metrics, parity, settings) come from the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from model_store.bundle.manifest import Manifest
from model_store.datasets.lazy_images import ImageStack
from model_store.evaluation.metrics import ScoredPredictions, score
from model_store.training.history import Phase
from shared.arrays import Bools, Floats
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
        probabilities: float32 [N, C], calibrated out of fold (`decision_tuning.DecisionTuning.after`), because on
            these images the published calibration would look better than it is.
        label_mask: bool [N, C], False where it is unknown whether the label applies; None: all are known.
        uncalibrated: float32 [N, C], before calibration; None: there was none.
    """

    names: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    thumbnails: Pixels
    probabilities: Floats
    label_mask: Bools | None = None
    uncalibrated: Floats | None = None

    def __post_init__(self) -> None:
        counts = {
            name: len(value)
            for name in ("names", "labels", "thumbnails", "probabilities", "label_mask", "uncalibrated")
            if (value := getattr(self, name)) is not None
        }
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

    @cached_property
    def scored(self) -> ScoredPredictions | None:
        """The validation predictions scored by the manifest's policy; None without images."""
        if self.validation is None or not self.validation.names:
            return None
        manifest, validation = self.manifest, self.validation
        return score(
            validation.probabilities,
            validation.labels,
            classes=manifest.classes,
            mode=manifest.mode,
            policy=manifest.policy,
            label_mask=validation.label_mask,
        )


def thumbnails(images: ImageStack, *, size_px: int = THUMBNAIL_PX) -> Pixels:
    """Images uint8 [N, S, S, 3], reduced to [N, size_px, size_px, 3]; small enough images stay as they are."""
    from PIL import Image

    if images.shape[1] <= size_px:
        return images[:]
    small = np.empty((len(images), size_px, size_px, 3), np.uint8)
    for row, image in zip(small, images, strict=True):
        row[:] = np.asarray(Image.fromarray(image).resize((size_px, size_px), Image.Resampling.BILINEAR))
    return small
