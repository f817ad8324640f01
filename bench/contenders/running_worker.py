"""A worker process that works while a benchmark sends it images: the real one, or one with an engine of the bench."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.engines import REAL, SIMULATED
from bench.measuring.machine import is_local, server_cpu_s
from bench.measuring.processor_use import CpuSource, busy_s, tree_cpu_s
from bench.measuring.traffic import (
    PATIENCE_S,
    TrafficResult,
    TrafficSpec,
    claims_suspended,
    forget_jobs,
    results,
    send,
    tail,
    wait_answered,
    without_bounds,
)
from shared import keys
from shared.errors import Transient
from shared.server.connection import connect
from shared.settings import Settings, environment
from shared.subprocesses import Child

# Beside the `bench.engines.KINDS`: the engine that answers at once.
NULL = "null"

_ENGINES = {SIMULATED: "fixed-rate", NULL: "null"}
# More results than any run leaves: each must be found and counted.
_RESULTS_MAXLEN = 10_000_000
_POLL_S = 0.02


def worker_settings(settings: Settings) -> Settings:
    """The settings of the worker and of its cameras: with the user's bounds, but for one line, and all results kept."""
    return settings.model_copy(
        update={
            "log_level": "warning",
            "metrics_port": 0,
            "queues": "live",
            "results_maxlen": _RESULTS_MAXLEN,
            "line_share": 1.0,
        }
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


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A worker that runs, and the server and folder of the run."""

    settings: Settings
    client: Any
    child: Child
    folder: Path

    def capacity(self, *, jobs: int, size: str, line: str = "capacity") -> float:
        """Images/s on a queue of `jobs` that is filled before the worker may claim, while nothing else runs.

        The results that finish first start the clock, and are not counted.
        """
        spec = TrafficSpec(line=line, count=jobs, size=size)
        with claims_suspended(self.client):
            send(without_bounds(self.settings), spec, folder=self.folder)
        wait_answered(self.client, line, count=jobs, child=self.child)
        finished = sorted(result.finished_at for result in results(self.client, line))
        forget_jobs(self.client)
        started = finished.count(finished[0])
        if started == len(finished):
            raise Transient(f"all {started} images were one batch: give the benchmark more --jobs. {tail(self.child)}")
        return (len(finished) - started) / (finished[-1] - finished[0])

    def send(self, spec: TrafficSpec) -> TrafficResult:
        """Send the traffic, and wait until all accepted images are answered.

        Besides the cameras' use of the cores, `cores_used` has that of the `worker`, of the `server` if it is on this
        machine, and of `all` programs.
        """
        watch: dict[str, CpuSource] = {"worker": functools.partial(tree_cpu_s, self.child.pid), "all": busy_s}
        if is_local(self.client):
            watch["server"] = functools.partial(server_cpu_s, self.client)
        sent = send(self.settings, spec, folder=self.folder, watch=watch)
        wait_answered(self.client, spec.line, count=sent.accepted, child=self.child)
        return sent


@contextlib.contextmanager
def running_worker(settings: Settings, kind: str) -> Iterator[RunningWorker]:
    """A worker on an engine of this kind, for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="sortline-bench-") as name:
        folder = Path(name)
        with start_worker(settings, kind, folder=folder) as child:
            yield RunningWorker(settings, connect(settings.redis_url), child, folder)
