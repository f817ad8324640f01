"""An engine that answers at once, so that a benchmark measures the queue alone. For benchmarks only."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from model_store.bundle.manifest import BackboneInfo, DatasetInfo, Manifest, TrainingInfo
from model_store.bundle.policy import Policy
from model_store.engines.protocol import EngineName
from shared.images.arrays import Images, Pixels
from shared.images.decode_cost import is_costly
from shared.settings import Settings
from worker.models.loading import LoadedModel

CLASSES = ("good", "no cap")
_PIXELS = np.zeros((1, 1, 3), np.uint8)


class NullEngine:
    """Answers `good` for every image."""

    name: EngineName = "litert"
    input_size_px = 1
    classes_count = len(CLASSES)
    max_concurrency = 1

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Does nothing."""

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """float32 [N, 2]."""
        return np.tile(np.array([[1.0, 0.0]], np.float32), (len(batch), 1))


class NoDecoder:
    """Decodes nothing: gives one black pixel for each image."""

    def __call__(self, data: bytes, camera: str) -> Pixels:
        """uint8 [1, 1, 3]."""
        return _PIXELS

    def decode_into(self, data: bytes, camera: str, out: Pixels) -> None:
        """Leaves `out` as it is."""

    def is_costly(self, data: bytes, camera: str) -> bool:
        """The same as for any other decoder: this check is part of the worker's work for each image."""
        return is_costly(data)


def null_model(settings: Settings) -> LoadedModel:
    """A model that takes no time, in place of the one that the settings name."""
    manifest = Manifest(
        name="null",
        version=1,
        created_at=time.time(),
        mode="multi",
        classes=CLASSES,
        input_size_px=1,
        policy=Policy.default(CLASSES, "multi"),
        backbone=BackboneInfo(handle="none", sha256="0" * 64, feature_width=1),
        training=TrainingInfo(seed=0, epochs=0, batch_size=1, fine_tune="none"),
        dataset=DatasetInfo(fingerprint="0" * 64, images=0, train=0, validation=0, per_label={}),
        files={},
    )
    return LoadedModel(manifest, NullEngine(), NoDecoder())
