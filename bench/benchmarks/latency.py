"""`bench latency`: times from capture to result at a steady load, and how many results are in time under overload.

One worker process, and cameras that send at a fixed rate, each a process. Each round first measures the worker's
capacity; the loads are shares of it. All processes share the same cores, as on a small plant's machine.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measuring.record import OnProgress, Record, percentiles, spread
from bench.measuring.traffic import (
    TrafficResult,
    TrafficSpec,
    claims_suspended,
    results,
    send,
    tail,
    times_ms,
    wait_answered,
)
from shared.errors import Transient
from shared.schemas import Outcome, SortResult
from shared.server.connection import connect
from shared.settings import Settings, environment
from shared.subprocesses import Child

# Loads, in percent of the worker's capacity.
STEADY = (25, 50, 80)
OVERLOAD = (100, 150, 300)
# Counted beside the outcomes of jobs: frames that were refused because the queue was full.
QUEUE_FULL = "queue_full"


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
    rounds: int,
    jobs: int,
    seconds: float,
    deadline_ms: float,
    on_progress: OnProgress,
    size: str = "640x480",
) -> Record:
    """Percentiles and outcomes by load; `jobs` images to measure the capacity, `seconds` at each load."""
    settings = settings.model_copy(update={"log_level": "warning", "metrics_port": 0, "queues": "live"})
    levels = [_LoadLevel(percent) for percent in (*STEADY, *OVERLOAD)]
    capacity: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sortline-latency-")))
        client: Any = connect(settings.redis_url)
        worker = stack.enter_context(Child(["worker"], log=folder / "worker.log", variables=environment(settings)))
        for number in range(1, rounds + 1):
            on_progress(f"latency: round {number} of {rounds}, the worker's capacity")
            full = TrafficSpec(line=f"capacity-{number}", count=jobs, size=size)
            capacity.append(_capacity(settings, full, client=client, worker=worker, folder=folder))
            for level in levels:
                rate_hz = capacity[-1] * level.percent / 100
                on_progress(f"latency: round {number} of {rounds}, {level.percent} % load: {rate_hz:.0f} images/s")
                spec = TrafficSpec(
                    line=f"load-{level.percent}-{number}",
                    count=max(1, round(rate_hz * seconds)),
                    rate_hz=rate_hz,
                    size=size,
                    deadline_ms=deadline_ms,
                )
                sent = send(settings, spec, folder=folder)
                wait_answered(client, spec.line, count=sent.accepted, child=worker)
                level.add(spec, sent, results(client, spec.line), capacity_hz=capacity[-1])
                _forget(client)
    return {
        "benchmark": "latency",
        "model": _model(levels[0].results),
        "size": size,
        "max_batch": settings.max_batch,
        "linger_ms": settings.linger_ms,
        "deadline_ms": deadline_ms,
        "rounds": rounds,
        "seconds_per_load": seconds,
        "capacity_images_per_s": spread(capacity),
        "loads": [_row(level) for level in levels],
    }


def _capacity(settings: Settings, spec: TrafficSpec, *, client: Any, worker: Child, folder: Path) -> float:
    """Images/s of the worker on a queue that is filled before it may claim, while nothing else runs.

    The results that finish first start the clock, and are not counted.
    """
    with claims_suspended(client):
        send(
            settings.model_copy(update={"queue_max_items": max(settings.queue_max_items, spec.count)}),
            spec,
            folder=folder,
        )
    wait_answered(client, spec.line, count=spec.count, child=worker)
    finished = sorted(result.finished_at for result in results(client, spec.line))
    started = finished.count(finished[0])
    if started == len(finished):
        raise Transient(f"all {started} images were one batch: give the benchmark more --jobs. {tail(worker)}")
    return (len(finished) - started) / (finished[-1] - finished[0])


def _forget(client: Any) -> None:
    """Delete finished jobs, which would fill the server's memory. Call it while the worker is idle."""
    doomed = [*client.scan_iter("rq:job:*", count=1000), *client.scan_iter("rq:results:*", count=1000)]
    for start in range(0, len(doomed), 1000):
        client.unlink(*doomed[start : start + 1000])


def _model(found: list[SortResult]) -> dict[str, Any] | None:
    return next((result.model.model_dump() for result in found if result.model is not None), None)


def _row(level: _LoadLevel) -> Record:
    """The record of one load. `capture_to_result_ms` covers all answers, including images that `expired`."""
    frames = sum(sent.frames for sent in level.sent)
    counts = Counter(result.outcome.value for result in level.results)
    outcomes = {outcome.value: counts[outcome.value] for outcome in Outcome}
    outcomes[QUEUE_FULL] = sum(sent.refused_full for sent in level.sent)
    return {
        "percent": level.percent,
        "asked_images_per_s": round(statistics.median(level.asked_hz), 1),
        "achieved_images_per_s": round(statistics.median(sent.achieved_hz for sent in level.sent), 1),
        "cameras": max(sent.cameras for sent in level.sent),
        "frames": frames,
        "capture_to_result_ms": percentiles(times_ms(level.results)),
        "outcomes": outcomes,
        "sorted_share": round(outcomes[Outcome.SORTED] / frames, 4),
        "sorted_images_per_s": spread(level.sorted_hz),
        "sorted_to_capacity": round(statistics.median(level.sorted_to_capacity), 3),
    }
