"""`bench latency`: from capture to result at a steady load, and how many results are in time when there is too much.

One worker process; the load comes from cameras at a fixed rate, processes of their own. How much the worker can do is
measured first in each round, and the loads are shares of it: all on the same cores, as on a small plant's machine.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Record, Say, percentiles, spread
from bench.traffic import Load, Sent, held, results, send, tail, times_ms, wait_answered
from shared.errors import Transient
from shared.schemas import Outcome, SortResult
from shared.server.connection import connect
from shared.settings import Settings, environment
from shared.subprocesses import Child

# Percent of what the worker can do.
STEADY = (25, 50, 80)
OVERLOAD = (100, 150, 300)
# What is counted of a queue that was full is no outcome of a job: it was refused.
QUEUE_FULL = "queue_full"


@dataclass(slots=True)
class _Stretches:
    """All stretches of one load, one for each round."""

    percent: int
    asked_hz: list[float] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    results: list[SortResult] = field(default_factory=list)
    sorted_hz: list[float] = field(default_factory=list)
    sorted_to_capacity: list[float] = field(default_factory=list)

    def add(self, load: Load, sent: Sent, found: list[SortResult], *, capacity_hz: float) -> None:
        """One more: what was sent, and what became of it."""
        in_time = sum(1 for result in found if result.outcome is Outcome.SORTED)
        sorted_hz = in_time / sent.frames * sent.achieved_hz
        self.asked_hz.append(load.rate_hz)
        self.sent.append(sent)
        self.results += found
        self.sorted_hz.append(sorted_hz)
        self.sorted_to_capacity.append(sorted_hz / capacity_hz)


def bench_latency(
    settings: Settings, *, rounds: int, jobs: int, seconds: float, deadline_ms: float, say: Say, size: str = "640x480"
) -> Record:
    """Percentiles and outcomes by load; `jobs` images to find what the worker can do, `seconds` at each load."""
    settings = settings.model_copy(update={"log_level": "warning", "metrics_port": 0, "queues": "live"})
    loads = [_Stretches(percent) for percent in (*STEADY, *OVERLOAD)]
    capacity: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sortline-latency-")))
        client: Any = connect(settings.redis_url)
        worker = stack.enter_context(Child(["worker"], log=folder / "worker.log", variables=environment(settings)))
        for number in range(1, rounds + 1):
            say(f"latency: round {number} of {rounds}, what the worker can do")
            full = Load(line=f"capacity-{number}", count=jobs, size=size)
            capacity.append(_capacity(settings, full, client=client, worker=worker, folder=folder))
            for stretches in loads:
                rate_hz = capacity[-1] * stretches.percent / 100
                say(f"latency: round {number} of {rounds}, {stretches.percent} % of it: {rate_hz:.0f} images/s")
                load = Load(
                    line=f"load-{stretches.percent}-{number}",
                    count=max(1, round(rate_hz * seconds)),
                    rate_hz=rate_hz,
                    size=size,
                    deadline_ms=deadline_ms,
                )
                sent = send(settings, load, folder=folder)
                wait_answered(client, load.line, count=sent.accepted, child=worker)
                stretches.add(load, sent, results(client, load.line), capacity_hz=capacity[-1])
                _forget(client)
    return {
        "benchmark": "latency",
        "model": _model(loads[0].results),
        "size": size,
        "max_batch": settings.max_batch,
        "linger_ms": settings.linger_ms,
        "deadline_ms": deadline_ms,
        "rounds": rounds,
        "seconds_per_load": seconds,
        "capacity_images_per_s": spread(capacity),
        "loads": [_row(stretches) for stretches in loads],
    }


def _capacity(settings: Settings, load: Load, *, client: Any, worker: Child, folder: Path) -> float:
    """Images/s of the worker on a queue that was filled before, nothing else at work.

    The results of the first finish count as the start, not as work.
    """
    with held(client):
        send(
            settings.model_copy(update={"queue_max_items": max(settings.queue_max_items, load.count)}),
            load,
            folder=folder,
        )
    wait_answered(client, load.line, count=load.count, child=worker)
    finished = sorted(result.finished_at for result in results(client, load.line))
    started = finished.count(finished[0])
    if started == len(finished):
        raise Transient(f"all {started} images were one batch: give the benchmark more --jobs. {tail(worker)}")
    return (len(finished) - started) / (finished[-1] - finished[0])


def _forget(client: Any) -> None:
    """Finished jobs of one stretch must not fill the server's memory: the worker is idle now, and starts anew."""
    doomed = [*client.scan_iter("rq:job:*", count=1000), *client.scan_iter("rq:results:*", count=1000)]
    for start in range(0, len(doomed), 1000):
        client.unlink(*doomed[start : start + 1000])


def _model(found: list[SortResult]) -> dict[str, Any] | None:
    return next((result.model.model_dump() for result in found if result.model is not None), None)


def _row(stretches: _Stretches) -> Record:
    """One load. `capture_to_result_ms` is of all answers: of images that `expired` without the model, too."""
    frames = sum(sent.frames for sent in stretches.sent)
    counts = Counter(result.outcome.value for result in stretches.results)
    outcomes = {outcome.value: counts[outcome.value] for outcome in Outcome}
    outcomes[QUEUE_FULL] = sum(sent.refused_full for sent in stretches.sent)
    return {
        "percent": stretches.percent,
        "asked_images_per_s": round(statistics.median(stretches.asked_hz), 1),
        "achieved_images_per_s": round(statistics.median(sent.achieved_hz for sent in stretches.sent), 1),
        "cameras": max(sent.cameras for sent in stretches.sent),
        "frames": frames,
        "capture_to_result_ms": percentiles(times_ms(stretches.results)),
        "outcomes": outcomes,
        "sorted_share": round(outcomes[Outcome.SORTED] / frames, 4),
        "sorted_images_per_s": spread(stretches.sorted_hz),
        "sorted_to_capacity": round(statistics.median(stretches.sorted_to_capacity), 3),
    }
