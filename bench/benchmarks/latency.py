"""`bench latency`: times from capture to result at a steady load, and how many results are in time under overload.

One worker process, and cameras that send at a fixed rate, each a process. Each round first measures the worker's
capacity, on a full queue and without cameras; the loads are shares of it. It is measured with two engines:

- `real`: the model's own. Cameras, server and worker share the cores of this machine, as on a small plant's machine, so
  the cameras take from the worker a part of what the capacity was measured with. That part is measured too: the
  processor time (user and system) of the cameras' processes while they send, and the server's. So `of what the cameras
  leave` is the rate in time divided by capacity times (1 - the cameras' share of the cores).
- `simulated`: 200 images/s, without using the processor. What is not in time here was lost by the choice of images.

Each image is accounted for: it was refused, for a reason, or has exactly one result. Otherwise the run is void.
"""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from bench.contenders.running_worker import RunningWorker, running_worker, worker_settings
from bench.engines import REAL
from bench.engines.simulated import FIXED_RATE
from bench.measuring.processor_use import others_share
from bench.measuring.record import OnProgress, Record, percentiles, spread
from bench.measuring.traffic import (
    TrafficResult,
    TrafficSpec,
    check_accounted,
    forget_jobs,
    results,
    timed_traffic,
    times_ms,
)
from shared.cpu_cores import usable_cores
from shared.errors import Transient
from shared.schemas import Outcome, SortResult
from shared.settings import Settings

# Loads, in percent of the worker's capacity.
STEADY = (25, 50, 80)
OVERLOAD = (100, 150, 300, 1000)


@dataclass(slots=True)
class _LoadLevel:
    """The figures of one load, from all rounds."""

    percent: int
    asked_hz: list[float] = field(default_factory=list)
    sent: list[TrafficResult] = field(default_factory=list)
    results: list[SortResult] = field(default_factory=list)
    sorted_hz: list[float] = field(default_factory=list)
    sorted_to_capacity: list[float] = field(default_factory=list)

    def add(self, spec: TrafficSpec, sent: TrafficResult, found: list[SortResult], *, capacity_hz: float) -> None:
        """Add the traffic of one round and its results."""
        in_time = sum(1 for result in found if result.outcome is Outcome.SORTED)
        sorted_hz = in_time / sent.frames * sent.achieved_hz
        self.asked_hz.append(spec.rate_hz)
        self.sent.append(sent)
        self.results += found
        self.sorted_hz.append(sorted_hz)
        self.sorted_to_capacity.append(sorted_hz / capacity_hz)


def bench_latency(
    settings: Settings,
    *,
    kind: str,
    rounds: int,
    jobs: int,
    seconds: float,
    deadline_ms: float,
    on_progress: OnProgress,
    size: str = "640x480",
) -> Record:
    """Percentiles and outcomes by load; `jobs` images to measure the capacity, `seconds` at each load."""
    settings = worker_settings(settings)
    levels = [_LoadLevel(percent) for percent in (*STEADY, *OVERLOAD)]
    capacities: list[float] = []
    with running_worker(settings, kind) as run:
        for number in range(1, rounds + 1):
            title = f"latency {kind}: round {number} of {rounds}"
            on_progress(f"{title}, the worker's capacity")
            capacities.append(run.capacity(jobs=jobs, size=size, line=f"capacity-{number}"))
            for level in levels:
                rate_hz = capacities[-1] * level.percent / 100
                on_progress(f"{title}, {level.percent} % load: {rate_hz:.0f} images/s")
                line = f"load-{level.percent}-{number}"
                spec = timed_traffic(line, rate_hz=rate_hz, seconds=seconds, size=size, deadline_ms=deadline_ms)
                _measure(run, spec, level, capacity_hz=capacities[-1])
    if empty := [level.percent for level in levels if not level.results]:
        raise Transient(f"not one image was accepted at {empty[0]} % load: the run is void.")
    best_hz = [max(rates) for rates in zip(*(level.sorted_hz for level in levels), strict=True)]
    return {
        "benchmark": f"latency {kind}",
        "model": _model(levels[0].results) if kind == REAL else None,
        "engine_images_per_s": None if kind == REAL else FIXED_RATE.full_rate(settings.max_batch),
        "size": size,
        "max_batch": settings.max_batch,
        "linger_ms": settings.linger_ms,
        "deadline_ms": deadline_ms,
        "rounds": rounds,
        "seconds_per_load": seconds,
        "capacity_images_per_s": spread(capacities),
        "best_images_per_s": spread(best_hz),
        "loads": [_row(level, best_hz=best_hz, kind=kind) for level in levels],
    }


def _measure(run: RunningWorker, spec: TrafficSpec, level: _LoadLevel, *, capacity_hz: float) -> None:
    """One load in one round."""
    sent = run.send(spec)
    found = results(run.client, spec.line)
    check_accounted(found, spec, sent)
    level.add(spec, sent, found, capacity_hz=capacity_hz)
    forget_jobs(run.client)


def _model(found: list[SortResult]) -> dict[str, Any] | None:
    return next((result.model.model_dump() for result in found if result.model is not None), None)


def _row(level: _LoadLevel, *, best_hz: list[float], kind: str) -> Record:
    """The record of one load. `capture_to_result_ms` covers all answers, including images that `expired`."""
    frames = sum(sent.frames for sent in level.sent)
    counts = Counter(result.outcome.value for result in level.results)
    outcomes = {outcome.value: counts.pop(outcome.value, 0) for outcome in Outcome} | counts
    refused = sum((Counter(sent.refused) for sent in level.sent), Counter[str]())
    to_best = [rate / best if best else 0.0 for rate, best in zip(level.sorted_hz, best_hz, strict=True)]
    return {
        "percent": level.percent,
        "asked_images_per_s": round(statistics.median(level.asked_hz), 1),
        "achieved_images_per_s": round(statistics.median(sent.achieved_hz for sent in level.sent), 1),
        "cameras": max(sent.cameras for sent in level.sent),
        "frames": frames,
        "missed": sum(sent.missed for sent in level.sent),
        "capture_to_result_ms": percentiles(times_ms(level.results)),
        "outcomes": outcomes,
        "refused": dict(refused),
        "sorted_share": round(outcomes[Outcome.SORTED] / frames, 4),
        "sorted_images_per_s": spread(level.sorted_hz),
        "sorted_to_capacity": round(statistics.median(level.sorted_to_capacity), 3),
        "sorted_to_best": round(statistics.median(to_best), 3),
        **_shares(level, kind=kind),
    }


def _shares(level: _LoadLevel, *, kind: str) -> Record:
    """Whose share of the machine's cores is whose, and the rate in time relative to what the cameras leave.

    A share is None where it isn't known: the server runs elsewhere, or the system doesn't tell. The simulated engine
    needs no core, so the cameras take nothing from it.
    """
    shares: dict[str, float | None] = {}
    for name in ("cameras", "server", "worker"):
        known = [sent.cores_used[name] / usable_cores() for sent in level.sent if name in sent.cores_used]
        shares[name] = round(statistics.median(known), 4) if len(known) == len(level.sent) else None
    others = [
        share for sent in level.sent if (share := others_share(sent.cores_used, cores=usable_cores())) is not None
    ]
    shares["others"] = round(statistics.median(others), 4) if len(others) == len(level.sent) else None
    cameras = shares["cameras"]
    left = None if cameras is None else round(1 - cameras - (shares["server"] or 0.0), 4)
    to_left = None
    if kind == REAL and cameras is not None and cameras < 1:
        to_left = round(statistics.median(level.sorted_to_capacity) / (1 - cameras), 3)
    return {"share_of_cores": {**shares, "left_for_worker": left}, "sorted_to_what_cameras_leave": to_left}
