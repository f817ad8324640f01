"""The workers that the benchmarks compare. Each runs to its end in processes of its own.

They empty a queue that was filled before they start. Their rate is computed from the results that they leave, between
the first and the last one, so that starting up doesn't count.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shlex
import subprocess
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import redis

from bench.contenders.worker_processes import drain_queues, steady_rate
from bench.measuring.rates import rate_between
from bench.measuring.traffic import results, without_bounds
from shared import keys
from shared.errors import Transient
from shared.schemas import SortResult
from shared.server.connection import connect
from shared.settings import Settings, environment
from shared.subprocesses import own_command

LINE = "bench"
CAMERA = "camera-1"  # the default of `sortline camera`
# How many different frames are drawn before the first is sent. Drawing one takes about 20 ms, at 1920x1080 more.
REPLAYED = 40


def bench_settings(settings: Settings) -> Settings:
    """The settings, changed so that nothing answers in the worker's place or delays the producer."""
    return without_bounds(settings).model_copy(
        update={
            "log_level": "error",
            "metrics_port": 0,
            "queues": "live",
            "result_cache_items": 0,  # the same frames are sent again and again
        }
    )


def fill_queue(settings: Settings, *, count: int, size: str, quality: int = 85) -> list[bytes]:
    """Empty the server, and have the real producer put `count` simulated frames on its queue `live`.

    Returns:
        the image files, in the order of the queue; the same ones each time.
    """
    client: Any = connect(settings.redis_url)
    client.flushdb()
    arguments = ["camera", "--line", LINE, "--camera", CAMERA]
    arguments += ["--source", "simulated", "--rate", "0", "--replay", str(min(count, REPLAYED))]
    arguments += ["--count", str(count), "--size", size, "--quality", str(quality)]
    variables = os.environ | environment(without_bounds(settings))
    command = own_command(*arguments, "--json")
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, env=variables)  # noqa: S603  # our own camera
    if done.returncode:  # its log says why
        raise Transient(f"the producer ended with {done.returncode} (`sortline {shlex.join(arguments)}`): see above.")
    job_ids = [job_id.decode() for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]
    images: list[bytes] = []
    known: dict[bytes, bytes] = {}  # holds each frame only once, however often it was sent
    for start in range(0, len(job_ids), 100):
        found = client.mget(map(keys.image, job_ids[start : start + 100]))
        images += [known.setdefault(image, image) for image in found if image is not None]
    if len(images) != count:
        raise Transient(
            f"the producer left {len(images)} images on the queue instead of {count}: is the server's memory full?"
        )
    return images


def drained_rate(settings: Settings, *, count: int) -> float:
    """Images/s of the worker that emptied the queue, from the results it left.

    Raises:
        Transient: some images have no result, or more than one.
    """
    return rate_between(result.finished_at for result in _results(settings, count=count))


def shared_rate(settings: Settings, *, count: int, workers: int) -> float:
    """Like `drained_rate`, for several workers: only the time while all of them were working counts."""
    return steady_rate(_results(settings, count=count), workers=workers)


def _results(settings: Settings, *, count: int) -> list[SortResult]:
    found = results(connect(settings.redis_url), LINE)
    if len(found) != count:
        raise Transient(f"{len(found)} results instead of {count}: the run is void.")
    return found


def in_process(function: Callable[..., Any], *args: Any) -> Any:
    """Run `function(*args)` in a fresh process, so that no contender inherits another's threads, caches or heap.

    Raises:
        Transient: the process died.
        Whatever the function raised.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(function, *args).result()
        except BrokenProcessPool as error:
            raise Transient(f"a contender's process died ({function}): see its log above.") from error


def sortline_rate(settings: Settings, *, count: int, null: bool = False) -> float:
    """Images/s of Sortline's worker on a filled queue."""
    in_process(functools.partial(run_sortline, null=null), settings)
    return drained_rate(settings, count=count)


def two_workers_rate(settings: Settings, *, count: int) -> float:
    """Images/s of two workers with the null engine on one filled queue, while both are working."""
    from bench.engines.null import null_model

    drain_queues([settings, settings], null_model)
    return shared_rate(settings, count=count, workers=2)


def simple_worker_rate(settings: Settings, *, count: int, null: bool = False) -> float:
    """Images/s of RQ's SimpleWorker on a filled queue."""
    in_process(functools.partial(run_simple_worker, null=null), settings)
    return drained_rate(settings, count=count)


def run_sortline(settings: Settings, *, null: bool) -> None:
    """Empty the queue with Sortline's worker."""
    from bench.engines.null import null_model
    from shared.cli import setup_logging
    from worker.service import WorkerService

    setup_logging(settings)
    if code := WorkerService(settings, burst=True, load=null_model if null else None).run():
        raise Transient(f"the worker ended with {code}: see its log above.")


def run_simple_worker(settings: Settings, *, null: bool) -> None:
    """Empty the queue with RQ's SimpleWorker. Settings and model are loaded once, before it starts."""
    from rq import SimpleWorker

    from bench.engines.null import null_model
    from worker import tasks
    from worker.models.loading import load_model

    tasks.use(null_model(settings) if null else load_model(settings), settings)
    run_rq(SimpleWorker, settings)


def run_rq(kind: type[Any], settings: Settings) -> None:
    """Empty the queue with one of RQ's workers, which logs as little as possible."""
    import logging

    from rq.serializers import JSONSerializer

    client = redis.Redis.from_url(settings.redis_url)
    worker = kind(["live"], connection=client, serializer=JSONSerializer, log_job_description=False)
    worker.log.setLevel(logging.WARNING)
    worker.work(burst=True, logging_level="WARNING")
