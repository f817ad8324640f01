"""`bench shed`: what an image costs that is not sorted: one that is answered `expired`, and one that is refused.

**Expired**: a queue is filled with images whose deadlines are past before the worker may claim. Then the worker, whose
engine answers at once, answers all of them. Counted is the processor time of the worker's processes and of the server
from the moment that the worker may claim until the last image is answered, for each image: what submitting cost lies
before that. What the server spends on freeing the images' memory counts too.

**Refused**: a camera sends as fast as it can to a queue that is full (`items`). Counted is the processor time of the
camera's processes (they draw no frames meanwhile) and of the server, for each image.

**Refused by deadline**: the same, to a queue that is not full, but congested: at the rate that is reported for the
workers, what waits takes longer than the images' deadline allows. No worker runs, or it would take from what waits; the
benchmark reports the rate in its place.
"""

from __future__ import annotations

import functools
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from bench.contenders.running_worker import NULL, start_worker, wait_registered, worker_settings
from bench.measuring.machine import server_cpu_s
from bench.measuring.processor_use import tree_cpu_s
from bench.measuring.record import OnProgress, Record, spread
from bench.measuring.traffic import (
    TrafficSpec,
    check_accounted,
    claims_suspended,
    forget_jobs,
    results,
    send,
    wait_answered,
    without_bounds,
)
from shared import keys
from shared.errors import Bound, NotFound, Transient
from shared.schemas import Outcome
from shared.server.connection import connect
from shared.settings import Settings
from shared.subprocesses import Child

# A JPEG of about 30 KB, as in `bench queue`.
SIZE = "608x456"
# Filling the queue may not take longer for any one image, or a careful producer would refuse it.
DEADLINE_MS = 500.0
# The congested queue: as many images wait, and the workers sort so many a second: it takes twice the deadline.
WAITING, IMAGES_PER_S = 100, 100.0
NEEDS_S = 0.05
REPORT_S = 1.0
# How long a worker that has just started, or whose claims were suspended, is given to become idle.
SETTLE_S = 1.0


def bench_shed(settings: Settings, *, rounds: int, images: int, on_progress: OnProgress) -> Record:
    """Processor time of `images` that are answered `expired`, and of as many that are refused, both ways, a round."""
    settings = worker_settings(settings)
    expired: dict[str, list[float]] = {"worker": [], "server": [], "both": []}
    refused: dict[Bound, dict[str, list[float]]] = {
        bound: {"camera": [], "server": [], "both": []} for bound in (Bound.ITEMS, Bound.DEADLINE)
    }
    seconds: list[float] = []
    reasons: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="sortline-shed-") as name:
        folder = Path(name)
        client: Any = connect(settings.redis_url)
        for number in range(1, rounds + 1):
            on_progress(f"shed: round {number} of {rounds}, images that expire")
            client.flushdb()
            worker_us, server_us, took_s = _expired(settings, images, client=client, folder=folder)
            _add(expired, worker=worker_us, server=server_us)
            seconds.append(took_s)
            for bound, figures in refused.items():
                on_progress(f"shed: round {number} of {rounds}, images that are refused ({bound.value})")
                client.flushdb()
                camera_us, server_us = _refused(settings, images, client=client, folder=folder, bound=bound)
                _add(figures, camera=camera_us, server=server_us)
                reasons[bound.value] += images
    return {
        "benchmark": "shed",
        "rounds": rounds,
        "images": images,
        "size": SIZE,
        "expired_us_per_image": {name: spread(values) for name, values in expired.items()},
        "expired_per_s": spread([images / each for each in seconds]),
        "refused_us_per_image": {name: spread(values) for name, values in refused[Bound.ITEMS].items()},
        "refused_by_deadline_us_per_image": {name: spread(values) for name, values in refused[Bound.DEADLINE].items()},
        "refused": dict(reasons),
    }


def _add(rounds: dict[str, list[float]], **values: float) -> None:
    for name, value in values.items():
        rounds[name].append(value)
    rounds["both"].append(sum(values.values()))


def _expired(settings: Settings, images: int, *, client: Any, folder: Path) -> tuple[float, float, float]:
    """Microseconds of the worker and of the server for each image, and the seconds that all of them took."""
    spec = TrafficSpec(line="expired", count=images, size=SIZE, deadline_ms=DEADLINE_MS)
    with ExitStack() as stack:
        with claims_suspended(client):
            sent = send(without_bounds(settings), spec, folder=folder)
            worker = stack.enter_context(start_worker(settings, NULL, folder=folder))
            wait_registered(client, worker)
            time.sleep(max(SETTLE_S, 2 * DEADLINE_MS / 1000))
            worker_s, server_s, began = _worker_cpu_s(worker), server_cpu_s(client), time.monotonic()
        wait_answered(client, spec.line, count=images, child=worker)
        took_s = time.monotonic() - began
        worker_s, server_s = _worker_cpu_s(worker) - worker_s, server_cpu_s(client) - server_s
        found = results(client, spec.line)
    check_accounted(found, spec, sent)
    outcomes = Counter(result.outcome.value for result in found)
    if outcomes[Outcome.EXPIRED] != images:
        raise Transient(f"{images:,} images were to expire, but their outcomes are {dict(outcomes)}: the run is void.")
    forget_jobs(client)
    return worker_s / images * 1e6, server_s / images * 1e6, took_s


def _worker_cpu_s(worker: Child) -> float:
    cpu_s = tree_cpu_s(worker.pid)
    if cpu_s is None:
        raise NotFound("this system doesn't tell a process's processor time (/proc): `bench shed` runs on Linux only.")
    return cpu_s


def _refused(settings: Settings, images: int, *, client: Any, folder: Path, bound: Bound) -> tuple[float, float]:
    """Microseconds of the camera and of the server for each image that is refused because of this bound."""
    by_deadline = bound is Bound.DEADLINE
    full = settings if by_deadline else settings.model_copy(update={"queue_max_items": 1})
    send(full, TrafficSpec(line="first", count=WAITING if by_deadline else 1, size=SIZE), folder=folder)
    spec = TrafficSpec(line="refused", count=images, size=SIZE, deadline_ms=DEADLINE_MS)
    watch = {"server": functools.partial(server_cpu_s, connect(settings.redis_url))}
    with _reported_rate(settings) if by_deadline else nullcontext():
        sent = send(full, spec, folder=folder, watch=watch)
    if sent.refused != {bound.value: images}:
        raise Transient(
            f"{images:,} images were to be refused ({bound.value}), but {sent.accepted:,} were accepted, and "
            f"refused were {dict(sent.refused)}: the run is void."
        )
    if not {"cameras", "server"} <= sent.cores_used.keys():
        raise Transient(
            f"{images:,} images were refused too soon to measure it: give the benchmark more --shed-images."
        )
    camera_us, server_us = (sent.cores_used[name] * sent.seconds / images * 1e6 for name in ("cameras", "server"))
    return camera_us, server_us


@contextmanager
def _reported_rate(settings: Settings) -> Iterator[None]:
    """Report once a second, as workers do, that they sort IMAGES_PER_S."""
    client: Any = connect(settings.redis_url)
    over = threading.Event()

    def report() -> None:
        seconds, microseconds = client.time()
        fields = {"capacity": IMAGES_PER_S, "needs_s": NEEDS_S, "capacity_at": seconds + microseconds / 1e6}
        client.hset(keys.flow("live"), mapping={name: f"{value:.6f}" for name, value in fields.items()})

    def go_on() -> None:
        while not over.wait(REPORT_S):
            report()

    report()
    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
