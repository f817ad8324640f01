"""`bench footprint`: how soon a worker is ready, and what memory it holds after many images.

The worker is started by the command that users run (`sortline worker`), under a small supervisor process, whose start
is counted too. Its memory is read while images come steadily, at nearly the rate that it can sustain.
"""

from __future__ import annotations

import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.measuring.machine import resident_mb
from bench.measuring.record import OnProgress, Record, spread
from bench.measuring.traffic import (
    PATIENCE_S,
    TrafficSpec,
    answered,
    cameras,
    finished_at,
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

SIZE = "640x480"
# Memory is first read after this many images: by then all buffers have been used.
FIRST_IMAGES = 1_000
# The rate of the later images, as a share of the rate at which the worker took the first ones from a full queue.
LOAD_SHARE = 0.9
POINTS = 50  # about how many times memory is read
_POLL_S = 0.002
_METRICS = "metrics on "  # precedes the address in the worker's log


def bench_footprint(settings: Settings, *, rounds: int, images: int, on_progress: OnProgress) -> Record:
    """Seconds to `/readyz` and to a first result; resident MB after the first images and after `images`."""
    settings = without_bounds(settings).model_copy(
        update={
            "log_level": "info",
            "log_format": "text",
            "metrics_port": 0,
            "queues": "live",
            "results_maxlen": max(settings.results_maxlen, images),
        }
    )
    client: Any = connect(settings.redis_url)
    ready: list[float] = []
    first: list[float] = []
    with tempfile.TemporaryDirectory(prefix="sortline-footprint-") as name:
        folder = Path(name)
        for number in range(1, rounds + 1):
            on_progress(f"footprint: start {number} of {rounds}")
            seconds = _start(settings, client=client, folder=folder)
            ready.append(seconds[0])
            first.append(seconds[1])
        client.flushdb()
        memory = _memory(settings, images, client=client, folder=folder, on_progress=on_progress)
    return {
        "benchmark": "footprint",
        "rounds": rounds,
        "size": SIZE,
        "max_batch": settings.max_batch,
        "ready_s": spread(ready, digits=3),
        "first_result_s": spread(first, digits=3),
        **memory,
    }


def _start(settings: Settings, *, client: Any, folder: Path) -> tuple[float, float]:
    """Seconds from the start of a worker to `/readyz`, and to the result of an image that waited for it."""
    client.flushdb()
    send(settings, TrafficSpec(line="start", count=1, size=SIZE), folder=folder)
    started_at, started = time.time(), time.monotonic()
    with Child(["worker"], log=folder / "worker.log", variables=environment(settings)) as worker:
        _wait_ready(worker)
        ready_s = time.monotonic() - started
        wait_answered(client, "start", count=1, child=worker)
        (result,) = results(client, "start")
    return ready_s, finished_at(result) - started_at


def _wait_ready(worker: Child) -> None:
    until = time.monotonic() + PATIENCE_S
    while not _is_ready(worker):
        if worker.poll() is not None or time.monotonic() > until:
            raise Transient(f"the worker did not become ready: {tail(worker)}")
        time.sleep(_POLL_S)


def _is_ready(worker: Child) -> bool:
    lines = worker.log.read_text(errors="replace").splitlines()
    address = next((line.partition(_METRICS)[2] for line in lines if _METRICS in line), None)
    if address is None:
        return False
    try:
        with urllib.request.urlopen(address.replace("/metrics", "/readyz"), timeout=1):  # noqa: S310  # our worker's
            return True
    except (urllib.error.URLError, TimeoutError):
        return False


def _memory(settings: Settings, images: int, *, client: Any, folder: Path, on_progress: OnProgress) -> Record:
    """Resident memory by the number of images sorted."""
    with ExitStack() as stack:
        worker = stack.enter_context(Child(["worker"], log=folder / "worker.log", variables=environment(settings)))
        _wait_ready(worker)
        first = min(FIRST_IMAGES, images)
        on_progress(f"footprint: the first {first:,} images")
        send(settings, TrafficSpec(line="first", count=first, size=SIZE), folder=folder)
        wait_answered(client, "first", count=first, child=worker)
        (registered,) = client.smembers(keys.RQ_WORKERS)
        pid = int(client.hget(registered, "pid"))
        found = results(client, "first")
        rate_hz = first / (finished_at(found[-1]) - found[0].captured_at) * LOAD_SHARE
        curve = [(first, resident_mb(pid))]
        rest = TrafficSpec(line="rest", count=images - first, rate_hz=rate_hz, size=SIZE)
        if rest.count:
            stack.enter_context(cameras(settings, rest, folder=folder))
        while curve[-1][0] < images:
            wanted = min(images, curve[-1][0] + max(1, images // POINTS))
            on_progress(f"footprint: {curve[-1][0]:,} of {images:,} images at {rate_hz:.0f} a second")
            wait_answered(client, "rest", count=wanted - first, child=worker)
            curve.append((first + answered(client, "rest"), resident_mb(pid)))
    return {
        "model": found[0].model.model_dump() if found[0].model else None,
        "images": images,
        "images_per_s": round(rate_hz, 1),
        "resident_mb": {"first": curve[0][1], "last": curve[-1][1], "most": max(mb for _, mb in curve)},
        "resident_mb_after": {str(count): mb for count, mb in curve},
    }
