"""An engine that takes as long as a GPU would, without using the processor. For benchmarks only.

It shows the rate that everything else can sustain when the model isn't the limit: claiming, bookkeeping and results are
real. Decoding and the copy to the device are left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.engines.null import NullEngine, null_model
from shared.images.arrays import Images
from shared.settings import Settings
from worker.models.loading import LoadedModel

# Chosen, not measured: a batch of 16 takes 11.6 ms, so one worker does 1,379 images/s, and a handful of workers reach
# the limits of a server and of a few cores. The shape of the curve matters, not its scale.
BATCH_MS = 10.0
IMAGE_MS = 0.1


class SimulatedEngine(NullEngine):
    """Answers `good` for every image, after BATCH_MS and IMAGE_MS for each image."""

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """float32 [N, 2]. Sleeps without the interpreter lock, as an engine that waits for its device does."""
        time.sleep((BATCH_MS + IMAGE_MS * len(batch)) / 1000)
        return super().predict(batch)


def simulated_model(settings: Settings) -> LoadedModel:
    """A model on a simulated device, in place of the one that the settings name."""
    return replace(null_model(settings), engine=SimulatedEngine())


def full_rate(max_batch: int) -> float:
    """Images/s of one engine that never waits and whose batches are full."""
    return max_batch / (BATCH_MS + IMAGE_MS * max_batch) * 1000
