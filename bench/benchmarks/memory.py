"""`bench memory`: the server's memory while producers push as fast as they can against the default bounds.

Two producers, each on a line of its own, with images of 30 KB and of 5 MB, without a worker and with one whose engine
answers at once. Nobody waits: a refused image is gone, and the next one is pushed at once. The server's own figures
(INFO memory) are read all the time.

`bound_mb` is what docs/sizing.md promises: the images of a queue (`queue_max_bytes`, and 20 % for the allocator), RQ's
data of the most jobs that it can hold (`queue_max_items`), and what is on its way: a call of each producer, and a claim
of each worker. Finished jobs and results are not part of it: `result_ttl_s` and `results_maxlen` bound them. They are
what a worker has left at the end, and each sample of the memory is reduced by its share of that.

A run is bounded in time and in images. Without a worker it ends once the memory is far above the bound, which is then
recorded as broken. A server on another machine is refused: nothing but the loopback device is fast enough.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from bench.contenders.pushing import CALL_BYTES, Pushed, Pushing, pushing
from bench.contenders.running_worker import NULL, start_worker, wait_registered, worker_settings
from bench.measuring.machine import is_local
from bench.measuring.record import OnProgress, Record
from bench.measuring.traffic import PATIENCE_S, answered, tail
from shared import keys
from shared.errors import BadSetting, Transient
from shared.masking import masked
from shared.server.connection import connect
from shared.settings import Settings
from shared.subprocesses import Child
from worker.rq.claimer import MAX_ENCODED_BYTES

SIZES_BYTES = (30_000, 5_000_000)
PRODUCERS = 2
MAX_IMAGES = 200_000
# What the allocator takes for an image of one byte, at most, and RQ's data of a waiting job. As in docs/sizing.md.
ALLOCATED = 1.2
JOB_BYTES = 1_000
# A run ends when the memory is above the bound by this factor: the bound is broken.
GIVE_UP_FACTOR = 2.0
_POLL_S = 0.02


def bench_memory(settings: Settings, *, seconds: float, on_progress: OnProgress) -> Record:
    """Memory and the account of all images, of `seconds` of pushing, by size of image, without and with a worker."""
    settings = worker_settings(settings)
    client: Any = connect(settings.redis_url)
    if not is_local(client):
        raise BadSetting(f"redis_url {masked(settings.redis_url)}: `bench memory` needs a server on this machine.")
    bound_bytes = bound_of(settings)
    cases = []
    for size_bytes in SIZES_BYTES:
        for has_worker in (False, True):
            with_worker = "with a worker" if has_worker else "without a worker"
            on_progress(f"memory: images of {size_bytes:,} bytes, {with_worker}")
            _empty(client)
            cases.append(
                _case(
                    settings,
                    size_bytes,
                    client=client,
                    seconds=seconds,
                    has_worker=has_worker,
                    bound_bytes=bound_bytes,
                )
            )
    _empty(client)
    return {
        "benchmark": "memory",
        "seconds": seconds,
        "producers": PRODUCERS,
        "queue_max_items": settings.queue_max_items,
        "queue_max_bytes": settings.queue_max_bytes,
        "bound_mb": _mb(bound_bytes),
        "cases": cases,
    }


def bound_of(settings: Settings) -> float:
    """Bytes that a queue may take on the server, with what is on its way to it and to one worker."""
    in_transit = PRODUCERS * max(CALL_BYTES, *SIZES_BYTES) + MAX_ENCODED_BYTES
    return settings.queue_max_bytes * ALLOCATED + settings.queue_max_items * JOB_BYTES + in_transit


def _case(
    settings: Settings, size_bytes: int, *, client: Any, seconds: float, has_worker: bool, bound_bytes: float
) -> Record:
    """Push for some seconds, then let the worker, if there is one, finish; check the account of all images."""
    before = client.info("memory")
    before_bytes = int(before["used_memory"])
    # A worker's finished jobs may take any memory: then the bound can't be judged before the end.
    give_up_bytes = float("inf") if has_worker else before_bytes + GIVE_UP_FACTOR * bound_bytes
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sortline-memory-")))
        worker = stack.enter_context(start_worker(settings, NULL, folder=folder)) if has_worker else None
        if worker is not None:
            wait_registered(client, worker)
        run = stack.enter_context(
            pushing(settings, producers=PRODUCERS, size_bytes=size_bytes, seconds=seconds, max_images=MAX_IMAGES)
        )
        samples = _watch(client, run, give_up_bytes=give_up_bytes)
        pushed = run.result()
        waiting = _check_account(client, pushed, worker=worker)
    return {
        "image_bytes": size_bytes,
        "worker": has_worker,
        "pushed": pushed.pushed,
        "accepted": pushed.accepted,
        "refused": dict(pushed.refused),
        "waiting_at_end": waiting,
        "before_mb": _mb(before_bytes),
        **_peaks(
            samples,
            before=before,
            after=client.info("memory"),
            accepted=pushed.accepted,
            has_worker=has_worker,
            bound_bytes=bound_bytes,
        ),
    }


def _watch(client: Any, run: Pushing, *, give_up_bytes: float) -> list[_Sample]:
    """Sample the memory until the producers have stopped. They are told to once it is above `give_up_bytes`."""
    samples = [_sample(client)]
    while not run.is_over:
        time.sleep(_POLL_S)
        samples.append(_sample(client))
        if samples[-1].used_bytes > give_up_bytes:
            run.stop()
    return samples


def _peaks(
    samples: Sequence[_Sample],
    *,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    accepted: int,
    has_worker: bool,
    bound_bytes: float,
) -> Record:
    """The highest memory, with finished jobs and without them. `before` and `after` are the server's INFO memory."""
    before_bytes = int(before["used_memory"])
    peak_bytes = max(sample.used_bytes for sample in samples)
    if after["used_memory_peak"] > before["used_memory_peak"]:  # the server's own peak is of this case
        peak_bytes = int(after["used_memory_peak"])
    finished_bytes = int(after["used_memory"]) - before_bytes if has_worker else 0
    each_bytes = finished_bytes / max(1, accepted)
    queued_bytes: float = peak_bytes - before_bytes
    if has_worker:
        queued_bytes = max(sample.used_bytes - before_bytes - sample.finished * each_bytes for sample in samples)
    return {
        "peak_mb": _mb(peak_bytes),
        "peak_resident_mb": _mb(max(sample.resident_bytes for sample in samples)),
        "finished_mb": _mb(finished_bytes),
        "peak_without_finished_mb": _mb(queued_bytes),
        "peak_to_bound": round(queued_bytes / bound_bytes, 3),
        "ended_as_bound_was_broken": not has_worker and queued_bytes > GIVE_UP_FACTOR * bound_bytes,
    }


class _Sample(NamedTuple):
    used_bytes: int
    resident_bytes: int
    finished: int  # results so far


def _sample(client: Any) -> _Sample:
    found = client.info("memory")
    return _Sample(int(found["used_memory"]), int(found["used_memory_rss"]), _finished(client))


def _empty(client: Any) -> None:
    """Delete everything, and wait until the server has freed the memory: by default it does so in the background."""
    client.execute_command("FLUSHDB", "SYNC")


def _finished(client: Any) -> int:
    return sum(answered(client, f"line-{number}") for number in range(1, PRODUCERS + 1))


def _check_account(client: Any, pushed: Pushed, *, worker: Child | None) -> int:
    """How many images wait on the queue at the end: with a worker, none.

    Raises:
        Transient: an image is neither accepted nor refused, or an accepted one neither waits nor has a result.
    """
    if pushed.accepted + pushed.refused.total() != pushed.pushed:
        raise Transient(f"the producers don't account for all images that they pushed: {pushed}. The run is void.")
    seen, until = -1, 0.0
    while True:
        waiting = int(client.llen(keys.rq_queue("live")))
        there = _finished(client)
        if there + (waiting if worker is None else 0) == pushed.accepted:
            return waiting
        if there != seen:
            seen, until = there, time.monotonic() + PATIENCE_S
        if worker is None or worker.poll() is not None or time.monotonic() > until:
            log = "" if worker is None else tail(worker)
            raise Transient(
                f"{pushed.accepted:,} images were accepted, but {waiting:,} wait and {there:,} have results: the run "
                f"is void. {log}"
            )
        time.sleep(_POLL_S)


def _mb(value: float) -> float:
    return round(value / 1e6, 1)
