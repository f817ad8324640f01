"""`sortline worker` with a model that is slow after its first batch: a process for tests.

    python -m tests.worker.slow_worker SECONDS[,successor-hangs] worker [OPTIONS]

With `successor-hangs`, a worker that replaces a dead one hangs while it loads the model.

Tests that disturb a worker in the middle of its work use it: a worker at full speed might finish before the test acts,
on a fast machine or while the test process gets no CPU time.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from worker.parent.handover import PREDECESSOR
from worker.parent.process import start_worker

if TYPE_CHECKING:
    from model_store.engines.protocol import Engine
    from shared.settings import Settings
    from worker.models.loading import LoadedModel


class SlowEngine:
    """An engine that takes `seconds` longer for each batch except its first."""

    def __init__(self, engine: Engine, *, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds
        self._first = threading.Semaphore(1)
        self.name, self.input_size_px = engine.name, engine.input_size_px
        self.classes_count, self.max_concurrency = engine.classes_count, engine.max_concurrency

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        self._engine.warm_up(batch_sizes)

    def predict(self, batch: Any, *, on_ready_for_next: Callable[[], None] | None = None) -> Any:
        if not self._first.acquire(blocking=False):
            time.sleep(self._seconds)
        return self._engine.predict(batch, on_ready_for_next=on_ready_for_next)


def main() -> None:
    seconds, _, option = sys.argv.pop(1).partition(",")
    start_worker()
    never_loads = option == "successor-hangs" and PREDECESSOR in os.environ
    # Imported only here, so that the parent process stays as small as that of `sortline worker`.
    import sortline.cli
    from worker import service

    load_model = service.load_model

    def load_slow(settings: Settings) -> LoadedModel:
        if never_loads:
            threading.Event().wait()
        loaded = load_model(settings)
        return replace(loaded, engine=SlowEngine(loaded.engine, seconds=float(seconds)))

    service.load_model = load_slow
    sortline.cli.main()


if __name__ == "__main__":
    main()
