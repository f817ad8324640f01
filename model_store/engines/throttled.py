"""An engine that leaves the cores to others most of the time: for proving a bundle beside a model at work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shared.images.arrays import Images

if TYPE_CHECKING:
    from model_store.engines.protocol import Engine, EngineName

# Pauses for every second of work. Not a low priority: an engine's threads would inherit it and keep it when they serve.
PAUSES_PER_WORK = 3.0


class Unhurried:
    """Runs the images of a batch one by one, each followed by a pause three times as long."""

    def __init__(self, engine: Engine, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._engine = engine
        self._sleep = sleep
        self.name: EngineName = engine.name
        self.input_size_px = engine.input_size_px
        self.classes_count = engine.classes_count
        self.callers = 1

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Each size as it is: a shape can't be warmed up in pieces."""
        for batch_size in batch_sizes:
            started = time.monotonic()
            self._engine.warm_up([batch_size])
            self._pause(time.monotonic() - started)

    def predict(self, batch: Images, *, hungry: Callable[[], None] | None = None) -> NDArray[np.float32]:
        """See `Engine.predict`; takes about four times as long."""
        rows = []
        for index in range(len(batch)):
            started = time.monotonic()
            rows.append(self._engine.predict(batch[index : index + 1]))
            self._pause(time.monotonic() - started)
        return np.concatenate(rows)

    def _pause(self, worked_s: float) -> None:
        self._sleep(PAUSES_PER_WORK * worked_s)
