"""`bench scaling`: how the rate grows with more workers, and with a second server.

It is measured twice: with the real engine, which soon uses all cores of this machine, and with a simulated one that
takes time but no processor, as a GPU would, so that the limit is something else: the workers' own work, or the server.
The queue is filled first, and only the time while all workers are working counts. The second server is an embedded one,
also on this machine.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.contenders.worker_processes import Loader, drain_queues, steady_rate
from bench.engines import simulated
from bench.measuring.machine import ServerUse
from bench.measuring.record import OnProgress, Record, spread
from bench.measuring.traffic import TrafficSpec, results, send, without_bounds
from shared.cpu_cores import usable_cores
from shared.errors import NotFound, Transient
from shared.server.connection import connect
from shared.server.embedded import embedded_server
from shared.settings import Settings
from worker.models.loading import load_model

LINE = "bench"
REAL_WORKERS = (1, 2)
SIMULATED_WORKERS = (1, 2, 4, 8)
REAL_SIZE = "640x480"
# A JPEG of about 30 KB, as in `bench queue`.
SIMULATED_SIZE = "608x456"
# The simulated engine gets images for this many seconds at its full rate, but no more images than fit in memory.
SIMULATED_S = 3.0
MAX_IMAGES = 20_000
# A resource that is used above this share is the limit.
LIMIT_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class _Case:
    """One combination of workers and servers to measure."""

    workers: int
    servers: int
    images: int
    size: str
    load: Loader


@dataclass(slots=True)
class _Measured:
    """The measurements of all rounds of one case."""

    rates: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)  # processor time per job
    worker_us: list[float] = field(default_factory=list)  # processor time per job


def bench_scaling(
    settings: Settings, *, rounds: int, jobs: int, on_progress: OnProgress, simulated_s: float = SIMULATED_S
) -> Record:
    """Measure jobs/s by number of workers, with the real and the simulated engine, on one server and on two.

    The record also says what limited each case.
    """
    settings = without_bounds(settings).model_copy(update={"log_level": "warning", "metrics_port": 0, "queues": "live"})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sortline-scaling-")))
        left_out: dict[str, str] = {}
        urls = [settings.redis_url]
        try:
            urls.append(stack.enter_context(embedded_server()))
        except NotFound as error:
            left_out["two_servers"] = str(error)
        cases = _cases(settings, jobs=jobs, simulated_s=simulated_s, servers=len(urls))
        measured = {case: _Measured() for case in cases}
        for number in range(1, rounds + 1):
            for case in cases:
                kind = "simulated" if case.load is simulated.gpu_like_model else "real"
                what = f"{case.workers} workers, {kind} engine, {case.servers} servers"
                on_progress(f"scaling: round {number} of {rounds}, {what}")
                _measure(settings, case, measured[case], urls=urls, folder=folder)
    real = [case for case in cases if case.load is load_model]
    simulated_cases = [case for case in cases if case.load is not load_model]
    return {
        "benchmark": "scaling",
        "model": settings.model,
        "max_batch": settings.max_batch,
        "rounds": rounds,
        "real": {"size": REAL_SIZE, "points": _points(settings, real, measured)},
        "simulated": {
            "batch_ms": simulated.GPU_LIKE.batch_ms,
            "image_ms": simulated.GPU_LIKE.image_ms,
            "size": SIMULATED_SIZE,
            "engine_images_per_s": round(simulated.GPU_LIKE.full_rate(settings.max_batch), 1),
            "points": _points(settings, simulated_cases, measured),
        },
        "left_out": left_out,
    }


def _cases(settings: Settings, *, jobs: int, simulated_s: float, servers: int) -> list[_Case]:
    real = [_Case(workers, 1, jobs, REAL_SIZE, load_model) for workers in REAL_WORKERS]
    rate = simulated.GPU_LIKE.full_rate(settings.max_batch)
    return real + [
        _Case(
            workers,
            count,
            min(MAX_IMAGES, round(rate * workers * simulated_s)),
            SIMULATED_SIZE,
            simulated.gpu_like_model,
        )
        for workers in SIMULATED_WORKERS
        for count in range(1, min(servers, workers) + 1)
    ]


def _measure(settings: Settings, case: _Case, measured: _Measured, *, urls: Sequence[str], folder: Path) -> None:
    """One round of one case: fill the queue, drain it, read the results."""
    shards = [settings.model_copy(update={"redis_url": url}) for url in urls[: case.servers]]
    clients: list[Any] = [connect(shard.redis_url) for shard in shards]
    images = case.images // case.servers
    for shard, client in zip(shards, clients, strict=True):
        client.flushdb()
        send(shard, TrafficSpec(line=LINE, count=images, size=case.size), folder=folder)
    before = [ServerUse.of(client) for client in clients]
    worker_s = drain_queues([shards[number % case.servers] for number in range(case.workers)], case.load)
    after = [ServerUse.of(client) for client in clients]
    found = [result for client in clients for result in results(client, LINE)]
    if len(found) != images * case.servers:
        raise Transient(f"{len(found)} results instead of {images * case.servers}: the run is void.")
    server_s = sum(late.cpu_s - early.cpu_s for early, late in zip(before, after, strict=True))
    measured.rates.append(steady_rate(found, workers=case.workers))
    measured.server_us.append(server_s / len(found) * 1e6)
    measured.worker_us.append(worker_s / len(found) * 1e6)


def _points(settings: Settings, cases: Sequence[_Case], measured: dict[_Case, _Measured]) -> list[Record]:
    alone = statistics.median(measured[cases[0]].rates)
    return [_point(settings, case, measured[case], alone=alone) for case in cases]


def _point(settings: Settings, case: _Case, measured: _Measured, *, alone: float) -> Record:
    rate = statistics.median(measured.rates)
    server_us, worker_us = statistics.median(measured.server_us), statistics.median(measured.worker_us)
    shares = {
        "server": rate / case.servers * server_us / 1e6,
        "cores": rate * (server_us + worker_us) / 1e6 / usable_cores(),
    }
    if case.load is simulated.gpu_like_model:
        shares["engine"] = rate / case.workers / simulated.GPU_LIKE.full_rate(settings.max_batch)
    return {
        "workers": case.workers,
        "servers": case.servers,
        "images": case.images,
        "jobs_per_s": spread(measured.rates),
        "ratio_to_one_worker": round(rate / alone, 2),
        "server_us_per_job": round(server_us, 1),
        "worker_us_per_job": round(worker_us, 1),
        "used_share": {name: round(share, 3) for name, share in shares.items()},
        "limited_by": limited_by(shares),
    }


def limited_by(shares: dict[str, float]) -> str:
    """The resource that was used up, or `other`; `shares` says how much of each resource was used.

    `engine`: another worker would raise the rate in proportion. `server`: another server would, as a server works on
    one core. `cores`: the workers, and here the servers too, compete for the cores of this machine. `other`: all of
    these had capacity left; the limit is a single thread of each worker, or another program on this machine.
    """
    most = max(shares, key=lambda name: shares[name])
    return most if shares[most] >= LIMIT_SHARE else "other"
