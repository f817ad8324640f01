"""A worker whose model never answers, for tests of shutdown: run as a process by test_service.py."""

from __future__ import annotations

import logging
import sys
import threading

from shared.settings import load_settings
from shared.terminal import setup_logging
from tests.worker import kit
from worker.service import WorkerService


def _never_answers(batch: kit.Images) -> None:
    logging.getLogger("stuck").warning("stuck with a batch")
    threading.Event().wait()


if __name__ == "__main__":
    settings = load_settings()
    setup_logging(settings)
    engine = kit.ToneEngine(_never_answers)
    sys.exit(WorkerService(settings, load=lambda given: kit.served(given, engine)).run())
