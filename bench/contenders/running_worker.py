"""A worker process that works while a benchmark sends it images: the real one, or one with an engine of the bench."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bench.engines import REAL, SIMULATED
from bench.measuring.traffic import (
    PATIENCE_S,
    TrafficSpec,
    claims_suspended,
    results,
    send,
    tail,
    wait_answered,
    without_bounds,
)
from shared import keys
from shared.errors import Transient
from shared.settings import Settings, environment
from shared.subprocesses import Child

# Beside the `bench.engines.KINDS`: the engine that answers at once.
NULL = "null"

_ENGINES = {SIMULATED: "fixed-rate", NULL: "null"}
# More results than any run leaves: each must be found and counted.
_RESULTS_MAXLEN = 10_000_000
_POLL_S = 0.02


def worker_settings(settings: Settings) -> Settings:
    """The settings of the worker and of its cameras: with the user's bounds, but all results are kept."""
    return settings.model_copy(
        update={"log_level": "warning", "metrics_port": 0, "queues": "live", "results_maxlen": _RESULTS_MAXLEN}
    )


def start_worker(settings: Settings, kind: str, *, folder: Path) -> Child:
    """Start a worker: `real` is the command that users run; the others run an engine of the bench."""
    log, variables = folder / "worker.log", environment(settings)
    if kind == REAL:
        return Child(["worker"], log=log, variables=variables)
    return Child([_ENGINES[kind]], log=log, module="bench.contenders.worker_program", variables=variables)


def wait_registered(client: Any, worker: Child) -> None:
    """Wait until the worker is registered with RQ.

    Raises:
        Transient: it has ended, or does not come up; quotes its log.
    """
    until = time.monotonic() + PATIENCE_S
    while not client.scard(keys.RQ_WORKERS):
        if worker.poll() is not None or time.monotonic() > until:
            raise Transient(f"the worker did not start: {tail(worker)}")
        time.sleep(_POLL_S)


def capacity(settings: Settings, spec: TrafficSpec, *, client: Any, worker: Child, folder: Path) -> float:
    """Images/s of the worker on a queue that is filled before it may claim, while nothing else runs.

    The results that finish first start the clock, and are not counted.
    """
    with claims_suspended(client):
        send(without_bounds(settings), spec, folder=folder)
    wait_answered(client, spec.line, count=spec.count, child=worker)
    finished = sorted(result.finished_at for result in results(client, spec.line))
    started = finished.count(finished[0])
    if started == len(finished):
        raise Transient(f"all {started} images were one batch: give the benchmark more --jobs. {tail(worker)}")
    return (len(finished) - started) / (finished[-1] - finished[0])
