"""Run as a program: `python -m bench.contenders.worker_program ENGINE`, a worker with an engine of `bench.engines`.

It is a complete worker (`WorkerService`) for the server that the settings name, until SIGTERM.
"""

from __future__ import annotations

import argparse

from bench.engines.null import null_model
from bench.engines.simulated import fixed_rate_model, gpu_like_model
from shared.cli import setup_logging
from shared.settings import load_settings
from worker.service import WorkerService

_MODELS = {"null": null_model, "gpu-like": gpu_like_model, "fixed-rate": fixed_rate_model}


def main() -> int:
    """Work until told to stop; returns the worker's exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=sorted(_MODELS))
    engine = parser.parse_args().engine
    settings = load_settings()
    setup_logging(settings)
    return WorkerService(settings, load=_MODELS[engine]).run()


if __name__ == "__main__":
    raise SystemExit(main())
