"""`bench swaps`: how promotions and rollbacks delay the images that are sorted meanwhile.

One worker process, one camera process at a steady rate, a store of three versions that are copies of the model.
Intervals with swaps and intervals without take turns in one run. Every fifth swap is a rollback to the version that the
worker has kept; the others promote a version that the worker has to fetch, verify and warm up.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.contenders.sortline_worker import LINE
from bench.measuring import traffic
from bench.measuring.machine import resident_mb
from bench.measuring.record import OnProgress, percentile, percentiles
from model_store.registry.store import ModelStore, copy_bundle, open_store, parse_spec
from shared import keys
from shared.errors import Transient
from shared.schemas import SortResult
from shared.server.connection import connect
from shared.settings import Settings, environment
from shared.subprocesses import Child

VERSIONS = 3
SWAPS_PER_INTERVAL = 10
# The pause after each swap. Images before, during and after a swap count as "with swaps".
PAUSE_S = 0.5
POLL_S = 0.5
PATIENCE_S = 60.0
# The first seconds of a camera and a worker are not measured.
SETTLE_S = 3.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A part of the run, with swaps or without. Images belong to it by their time of capture."""

    swaps: bool
    began_at: float
    ended_at: float


@dataclass(slots=True)
class _Run:
    """The processes of one run, and the swaps so far."""

    store: ModelStore
    name: str
    client: Any
    worker: Child
    on_progress: OnProgress
    wanted: int
    intervals: list[Interval] = field(default_factory=list)
    # From a change in the store to the first result of the new version.
    reached_s: list[float] = field(default_factory=list)
    done: int = 0

    def swap(self) -> None:
        """Promote the next version, or roll back, and wait until the results come from it."""
        self.on_progress(f"swaps: {self.done + 1} of {self.wanted}")
        changed = time.monotonic()
        if self.done % 5 == 4:
            version = self.store.rollback(self.name)
        else:
            version = self.store.current(self.name) % VERSIONS + 1
            self.store.promote(self.name, version)
        self.done += 1
        self.wait_for(version)
        self.reached_s.append(time.monotonic() - changed)

    def wait_for(self, version: int | None) -> None:
        """Wait until the newest result comes from this version, or from any version if it is None."""
        until = time.monotonic() + PATIENCE_S
        while True:
            newest = self.client.xrevrange(keys.results(LINE), count=1)
            model = _result(newest[0][1]).model if newest else None
            if model is not None and version in (None, model.version):
                return
            if self.worker.poll() is not None or time.monotonic() > until:
                raise Transient(f"no result of version {version} came: {self.worker.log.read_text()[-2000:]}")
            time.sleep(0.01)


def bench_swaps(settings: Settings, *, swaps: int, rate_hz: float, on_progress: OnProgress) -> dict[str, Any]:
    """Capture-to-result times with swaps and without, and what became of every image."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sortline-swaps-")))
        settings, store, name = scratch_store(settings, folder / "models")
        on_progress("swaps: starting the worker and the camera")
        client: Any = connect(settings.redis_url)
        worker = stack.enter_context(Child(["worker"], log=folder / "worker.log", variables=environment(settings)))
        camera = stack.enter_context(_camera(settings, rate_hz=rate_hz, folder=folder))
        run = _Run(store, name, client, worker, on_progress, swaps)
        run.wait_for(None)
        time.sleep(SETTLE_S)
        resident_mb = [_resident_mb(client)]
        for count in _portions(swaps):
            run.intervals += run_intervals(run.swap, count, on_progress=on_progress)
            resident_mb.append(_resident_mb(client))
        if camera.end():
            raise Transient(f"the camera failed: {camera.log.read_text()[-2000:]}")
        summary = json.loads((folder / "camera.json").read_text())
        results = _all_results(client, sent=summary["accepted"])
    record = _record(settings, run, results, summary=summary, rate_hz=rate_hz)
    return record | {
        "worker_resident_mb": {"before": resident_mb[0], "most": max(resident_mb), "last": resident_mb[-1]}
    }


def scratch_store(settings: Settings, root: Path) -> tuple[Settings, ModelStore, str]:
    """A store of copies of the model, so that the user's own is not touched, and the settings that serve it."""
    source = open_store(settings).open(settings.model).path
    name, _ = parse_spec(settings.model)
    scratch = settings.model_copy(
        update={"model_store": str(root), "model": name, "store_poll_s": POLL_S, "metrics_port": 0, "queues": "live"}
        | {"trusted_keys": ""}  # nobody has signed the copies
    )
    store = open_store(scratch)
    for number in range(VERSIONS):
        store.publish(name, copy_bundle(source, name), promote=number == 0)
    return scratch, store, name


def _camera(settings: Settings, *, rate_hz: float, folder: Path) -> Child:
    arguments = ["camera", "--line", LINE, "--source", "simulated", "--rate", str(rate_hz), "--json"]
    return Child(arguments, log=folder / "camera.log", out=folder / "camera.json", variables=environment(settings))


def _portions(swaps: int) -> list[int]:
    whole, rest = divmod(swaps, SWAPS_PER_INTERVAL)
    return [SWAPS_PER_INTERVAL] * whole + ([rest] if rest else [])


def run_intervals(
    swap: Callable[[], None],
    count: int,
    *,
    on_progress: OnProgress,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Interval, Interval]:
    """Run an interval with `count` swaps, and then one of the same length without swaps."""
    began_at = clock()
    for _ in range(count):
        swap()
        sleep(PAUSE_S)
    ended_at = clock()
    on_progress("swaps: now the same time without swaps")
    sleep(ended_at - began_at)
    with_swaps = Interval(swaps=True, began_at=began_at, ended_at=ended_at)
    return with_swaps, Interval(swaps=False, began_at=ended_at, ended_at=clock())


def _resident_mb(client: Any) -> float:
    """Memory that the worker's process holds, in MB; 0 if the system doesn't report it."""
    (worker,) = client.smembers(keys.RQ_WORKERS)
    return resident_mb(int(client.hget(worker, "pid")))


def _all_results(client: Any, *, sent: int) -> list[SortResult]:
    until = time.monotonic() + PATIENCE_S
    while client.xlen(keys.results(LINE)) < sent and time.monotonic() < until:
        time.sleep(0.1)
    return traffic.results(client, LINE)


def _result(fields: dict[bytes, bytes]) -> SortResult:
    return SortResult.model_validate_json(fields[b"result"])


def _record(
    settings: Settings, run: _Run, results: Sequence[SortResult], *, summary: dict[str, Any], rate_hz: float
) -> dict[str, Any]:
    distinct = len({result.job_id for result in results})
    outcomes = Counter(result.outcome.value for result in results)
    return {
        "benchmark": "swaps",
        "engine": settings.engine,
        "rate_hz": rate_hz,
        "swaps": run.done,
        "rollbacks": run.done // 5,
        "images": summary["accepted"],
        "failed": outcomes.total() - outcomes["sorted"],
        "lost": summary["accepted"] - distinct,
        "doubled": len(results) - distinct,
        "per_version": {
            str(version): count
            for version, count in sorted(Counter(result.model.version for result in results if result.model).items())
        },
        **delays(results, run.intervals),
        "reached_s": {"median": round(statistics.median(run.reached_s), 2), "max": round(max(run.reached_s), 2)},
        "poll_s": settings.store_poll_s,
    }


def delays(results: Sequence[SortResult], intervals: Sequence[Interval]) -> dict[str, Any]:
    """Capture-to-result times with swaps and without, and the ratio of their 99th percentiles."""
    with_swaps, without = (_times(results, intervals, swaps=swaps) for swaps in (True, False))
    return {
        "with_swaps_ms": percentiles(with_swaps),
        "without_swaps_ms": percentiles(without),
        "p99_ratio": round(percentile(with_swaps, 99) / percentile(without, 99), 2),
    }


def _times(results: Sequence[SortResult], intervals: Sequence[Interval], *, swaps: bool) -> list[float]:
    """Milliseconds from capture to result, of the images captured in the intervals with, or without, swaps."""
    windows = [interval for interval in intervals if interval.swaps is swaps]
    return traffic.times_ms(
        [
            result
            for result, window in itertools.product(results, windows)
            if window.began_at <= result.captured_at < window.ended_at
        ]
    )
