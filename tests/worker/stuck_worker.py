"""A worker that hangs, for tests of shutdown: run as a process by test_service.py.

    python -m tests.worker.stuck_worker [load|decode|predict|crash] [RESTART_WAIT_S]

The first argument says what hangs: loading the model, decoding each image, or the model itself (the default). With
`crash`, the model hangs, and then the main thread raises.
"""

from __future__ import annotations

import logging
import sys
import threading
from dataclasses import replace
from typing import NoReturn

from shared.cli import setup_logging
from shared.settings import Settings, load_settings
from tests.worker import kit
from worker import service
from worker.models.loading import LoadedModel
from worker.observe import watchdog

_stuck = threading.Event()


def _hang(text: str) -> NoReturn:
    logging.getLogger("stuck").warning(text)
    _stuck.set()
    threading.Event().wait()
    raise AssertionError("nobody ends it")


class _HangingDecoder:
    def __call__(self, data: bytes, camera: str) -> kit.Pixels:
        _hang("stuck with an image")

    def is_costly(self, data: bytes, camera: str) -> bool:
        return False

    def decode_into(self, data: bytes, camera: str, out: kit.Pixels) -> None:
        _hang("stuck with an image")


def _load(settings: Settings) -> LoadedModel:
    if what == "load":
        _hang("stuck with the model")
    loaded = kit.loaded_model(settings, kit.ToneEngine(lambda batch: _hang("stuck with a batch")))
    return replace(loaded, decoder=_HangingDecoder()) if what == "decode" else loaded


def _raise(*args: object) -> NoReturn:
    _stuck.wait()
    raise RuntimeError("a bug of the main thread")


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else "predict"
    restart_wait_s = sys.argv[2] if len(sys.argv) > 2 else "600"
    watchdog.CONFIRM_S = 0.5
    service.RESTART_WAIT_S = float(restart_wait_s)
    if what == "crash":
        service.WorkerService._wait_for_end = _raise  # type: ignore[method-assign]
    settings = load_settings()
    setup_logging(settings)
    sys.exit(service.WorkerService(settings, load=_load).run())
