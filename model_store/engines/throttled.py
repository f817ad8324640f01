"""An engine that pauses most of the time: for checking a bundle while another model of the process serves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from model_store.engines.protocol import Engine, EngineName
from shared.arrays import Floats
from shared.images.arrays import Images

# Seconds of pause per second of work. A low thread priority is no alternative: the engine's threads would inherit it,
# and keep it when they serve.
PAUSE_RATIO = 3.0


class ThrottledEngine:
    """Runs the images of a batch one by one, each followed by a pause three times as long."""

    def __init__(self, engine: Engine, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._engine = engine
        self._sleep = sleep
        self.name: EngineName = engine.name
        self.input_size_px = engine.input_size_px
        self.classes_count = engine.classes_count
        self.max_concurrency = 1

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Warm up each size as a whole, with a pause after it: a batch shape can't be warmed up image by image."""
        for batch_size in batch_sizes:
            started = time.monotonic()
            self._engine.warm_up([batch_size])
            self._pause(time.monotonic() - started)

    def predict(self, batch: Images, *, on_ready_for_next: Callable[[], None] | None = None) -> Floats:
        """See `Engine.predict`; takes about four times as long."""
        rows = []
        for index in range(len(batch)):
            started = time.monotonic()
            rows.append(self._engine.predict(batch[index : index + 1]))
            self._pause(time.monotonic() - started)
        return np.concatenate(rows)

    def _pause(self, worked_s: float) -> None:
        self._sleep(PAUSE_RATIO * worked_s)
