"""Engines that take time without using the processor, as if a device did the work. For benchmarks only.

They show the rate that everything else can sustain when the model isn't the limit: claiming, bookkeeping and results
are real. Decoding and the copy to the device are left out. There are two:

- **GPU-like**: a batch costs a lot and an image little, so large batches pay. It is faster than one worker's own work.
- **fixed rate**: each image takes the same time in any batch, so that the engine does 200 images/s whatever the worker
  does. Each image that is not in time is then lost by the worker's choice of images, and not for lack of processor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.engines.null import NullEngine, null_model
from shared.images.arrays import Images
from shared.settings import Settings
from worker.models.loading import LoadedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchTime:
    """How long a simulated engine takes: `batch_ms` for each batch, and `image_ms` for each image in it."""

    batch_ms: float
    image_ms: float

    def seconds(self, images: int) -> float:
        """Seconds that a batch of so many images takes."""
        return (self.batch_ms + self.image_ms * images) / 1000

    def full_rate(self, max_batch: int) -> float:
        """Images/s of one engine that never waits and whose batches are full."""
        return max_batch / self.seconds(max_batch)


# Chosen, not measured: a batch of 16 takes 11.6 ms, so one worker does 1,379 images/s, and a handful of workers reach
# the limits of a server and of a few cores. The shape of the curve matters, not its scale.
GPU_LIKE = BatchTime(batch_ms=10.0, image_ms=0.1)
# 200 images/s: about what a plant's machine does with a real model, and so few that cameras can send ten times as many
# on the same cores.
FIXED_RATE = BatchTime(batch_ms=0.0, image_ms=5.0)


class SimulatedEngine(NullEngine):
    """Answers `good` for every image, after the time that a batch takes."""

    def __init__(self, batch_time: BatchTime = GPU_LIKE) -> None:
        self._batch_time = batch_time

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Takes as long as such batches, because a worker measures its first batch here."""
        for size in batch_sizes:
            time.sleep(self._batch_time.seconds(size))

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """float32 [N, 2]. Sleeps without the interpreter lock, as an engine that waits for its device does."""
        time.sleep(self._batch_time.seconds(len(batch)))
        return super().predict(batch)


def gpu_like_model(settings: Settings) -> LoadedModel:
    """A model on a simulated GPU, in place of the one that the settings name."""
    return replace(null_model(settings), engine=SimulatedEngine(GPU_LIKE))


def fixed_rate_model(settings: Settings) -> LoadedModel:
    """A model whose engine does 200 images/s, in place of the one that the settings name."""
    return replace(null_model(settings), engine=SimulatedEngine(FIXED_RATE))
