"""A worker that kills itself, or holds its jobs for ever, at one boundary of its work: run as a process by tests.

    python -m tests.e2e.boundary_worker none|hold|decode-before|decode-after|infer-before|infer-after

Its model costs nothing. `hold`: its first batch never ends. The others: SIGKILL before or after its first decode, or
its first batch.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.engines.null import NoDecoder, NullEngine, null_model
from shared.cli import setup_logging
from shared.settings import Settings, load_settings
from worker.models.loading import LoadedModel
from worker.service import WorkerService


class _Decoder(NoDecoder):
    def decode_into(self, data: bytes, camera: str, out: Any) -> None:
        _kill_at("decode-before")
        super().decode_into(data, camera, out)
        _kill_at("decode-after")


class _Engine(NullEngine):
    """The warm-up does not call `predict`: its first call is the first batch of images."""

    def predict(self, batch: Any, *, on_ready_for_next: Callable[[], None] | None = None) -> Any:
        _kill_at("infer-before")
        if boundary == "hold":
            threading.Event().wait()
        rows = super().predict(batch)
        _kill_at("infer-after")
        return rows


def _kill_at(place: str) -> None:
    if place == boundary:
        print(f"reached {place}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait()  # the signal ends the process before any thread goes on


def _load(settings: Settings) -> LoadedModel:
    return replace(null_model(settings), engine=_Engine(), decoder=_Decoder())


if __name__ == "__main__":
    boundary = sys.argv[1]
    settings = load_settings()
    setup_logging(settings)
    sys.exit(WorkerService(settings, load=_load).run())
