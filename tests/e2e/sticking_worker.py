"""A worker whose model answers one batch and then no more, to be killed in the middle of the work; see test_kill.py.

Everything else of it is real, the model too. A worker that goes on would be done before it is killed, on a fast day.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from model_store.engines import Engine
from shared.settings import Settings, load_settings
from shared.terminal import setup_logging
from worker.loading import Served, load_served
from worker.service import WorkerService


class _Sticking:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.input_size_px = engine.name, engine.input_size_px
        self.classes_count, self.callers = engine.classes_count, engine.callers
        self._first = threading.Semaphore(1)

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        self._engine.warm_up(batch_sizes)

    def predict(self, batch: Any, *, hungry: Callable[[], None] | None = None) -> Any:
        if not self._first.acquire(blocking=False):
            threading.Event().wait()
        return self._engine.predict(batch, hungry=hungry)


def _sticking(settings: Settings) -> Served:
    served = load_served(settings)
    return replace(served, engine=_Sticking(served.engine))


if __name__ == "__main__":
    its_settings = load_settings()
    setup_logging(its_settings)
    sys.exit(WorkerService(its_settings, load=_sticking).run())
