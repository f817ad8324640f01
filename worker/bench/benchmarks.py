"""The benchmarks: each a function from settings to one record of figures and ratios."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

from shared.settings import Settings
from worker.bench.contenders import drained_rate, fill, in_process, run_baseline, run_simple_worker, run_sortline

Say = Callable[[str], None]

# About 30 KB a JPEG, as the design's `queue` asks for.
QUEUE_FRAME, QUEUE_QUALITY = "608x456", 85
QUIET: dict[str, Any] = {"log_level": "warning", "metrics_port": 0, "queue_max_items": 1_000_000}


def bench_queue(settings: Settings, *, rounds: int, jobs: int, say: Say) -> dict[str, Any]:
    """Jobs/s with an engine that answers at once, against RQ's SimpleWorker on the same server."""
    settings = settings.model_copy(update=QUIET)
    peer_jobs = max(100, jobs // 20)  # SimpleWorker is some 30 times slower: seconds each, not minutes
    ours: list[float] = []
    theirs: list[float] = []
    sizes: list[int] = []
    for number in range(1, rounds + 1):
        say(f"queue: round {number} of {rounds}, sortline")
        sizes += map(len, fill(settings, count=jobs, size=QUEUE_FRAME, quality=QUEUE_QUALITY))
        in_process(functools.partial(run_sortline, null=True), settings)
        ours.append(drained_rate(settings, count=jobs))
        say(f"queue: round {number} of {rounds}, RQ SimpleWorker")
        fill(settings, count=peer_jobs, size=QUEUE_FRAME, quality=QUEUE_QUALITY)
        in_process(functools.partial(run_simple_worker, null=True), settings)
        theirs.append(drained_rate(settings, count=peer_jobs))
    ratio = statistics.median(ours) / statistics.median(theirs)
    return {
        "benchmark": "queue",
        "image_bytes_mean": round(statistics.mean(sizes)),
        "max_batch": settings.max_batch,
        "jobs": jobs,
        "sortline_jobs_per_s": _summary(ours),
        "rq_simple_worker_jobs_per_s": _summary(theirs),
        "ratio_to_rq_simple_worker": round(ratio, 1),
    }


def bench_line(settings: Settings, *, rounds: int, jobs: int, size: str, say: Say) -> dict[str, Any]:
    """Images/s end to end through Redis, against the same decoder and engine in one process without a queue."""
    settings = settings.model_copy(update=QUIET)
    ceiling: list[float] = []
    line: list[float] = []
    peer: list[float] = []
    sizes: list[int] = []
    for number in range(1, rounds + 1):
        say(f"line {size}: round {number} of {rounds}, decode + engine without a queue")
        images = fill(settings, count=jobs, size=size)
        sizes += map(len, images)
        ceiling.append(in_process(run_baseline, settings, images))
        say(f"line {size}: round {number} of {rounds}, sortline")
        in_process(functools.partial(run_sortline, null=False), settings)
        line.append(drained_rate(settings, count=jobs))
        say(f"line {size}: round {number} of {rounds}, RQ SimpleWorker, model preloaded")
        fill(settings, count=jobs // 4, size=size)
        in_process(functools.partial(run_simple_worker, null=False), settings)
        peer.append(drained_rate(settings, count=jobs // 4))
    return {
        "benchmark": f"line {size}",
        "image_bytes_mean": round(statistics.mean(sizes)),
        "max_batch": settings.max_batch,
        "engine": settings.engine,
        "jobs": jobs,
        "no_queue_images_per_s": _summary(ceiling),
        "sortline_images_per_s": _summary(line),
        "rq_simple_worker_images_per_s": _summary(peer),
        "ratio_to_no_queue": round(statistics.median(line) / statistics.median(ceiling), 3),
        "ratio_to_rq_simple_worker": round(statistics.median(line) / statistics.median(peer), 2),
    }


def _summary(rates: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(rates), 1), "min": round(min(rates), 1), "max": round(max(rates), 1)}
