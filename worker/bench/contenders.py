"""What the benchmarks compare, each run to its end in a process of its own.

All but the baseline empty a queue that was filled before they start. Their speed is read from the
results they leave: between the first and the last, so that starting up doesn't count.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import numpy as np
import redis

from shared import keys
from shared.connection import connect
from shared.errors import Transient
from shared.settings import Settings, environment

LINE = "bench"
CAMERA = "camera-1"  # as `sortline camera` calls one that is not named


def fill(settings: Settings, *, count: int, size: str, quality: int = 85) -> list[bytes]:
    """Put `count` simulated frames on the queue `live` of an emptied server, by the real producer.

    Returns:
        the image files, in the order of the queue.
    """
    client: Any = connect(settings.redis_url)
    client.flushdb()
    command = [sys.executable, "-m", "sortline", "camera", "--line", LINE, "--camera", CAMERA]
    command += ["--source", "simulated", "--rate", "0"]
    command += ["--count", str(count), "--size", size, "--quality", str(quality), "--redis-url", settings.redis_url]
    variables = os.environ | {"SORTLINE_QUEUE_MAX_ITEMS": str(settings.queue_max_items)}
    done = subprocess.run([*command, "--json"], check=False, stdout=subprocess.DEVNULL, env=variables)
    if done.returncode:  # it has said why
        raise Transient(f"the producer ended with {done.returncode} (`sortline {shlex.join(command[3:])}`): see above.")
    job_ids = [job_id.decode() for job_id in client.lrange(keys.rq_queue("live"), 0, -1)]
    images = [
        image for start in range(0, count, 100) for image in client.mget(map(keys.image, job_ids[start : start + 100]))
    ]
    if len(images) != count or None in images:
        raise Transient(
            f"the producer left {len(job_ids)} jobs on the queue instead of {count}: is it bounded by queue_max_items?"
        )
    return images


def drained_rate(settings: Settings, *, count: int) -> float:
    """Images/s of whoever emptied the queue, from the results it left.

    The results of the first finish count as the start, not as work.
    """
    client = connect(settings.redis_url)
    entries: list[Any] = client.xrange(keys.results(LINE)) or []
    finished = sorted(_finished_at(fields) for _, fields in entries)
    if len(finished) != count:
        raise Transient(f"{len(finished)} results instead of {count}: the run is void.")
    started = sum(1 for at in finished if at == finished[0])
    return (count - started) / (finished[-1] - finished[0])


def _finished_at(fields: dict[bytes, bytes]) -> float:
    return float(json.loads(fields[b"result"])["finished_at"])


def in_process(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` in a fresh process: no contender inherits another's threads, caches or heap."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def run_sortline(settings: Settings, *, null: bool) -> None:
    """Empty the queue with Sortline's worker."""
    from worker.bench.null import null_served
    from worker.service import WorkerService

    WorkerService(settings, burst=True, load=null_served if null else None).run()


def run_simple_worker(settings: Settings, *, null: bool) -> None:
    """Empty the queue with RQ's SimpleWorker, the model loaded once before it starts."""
    import logging

    from rq import SimpleWorker
    from rq.serializers import JSONSerializer

    from worker import tasks
    from worker.bench.null import null_served
    from worker.loading import load_served

    os.environ.update(environment(settings))
    served = null_served(settings) if null else load_served(settings)
    tasks.use(served)
    client = redis.Redis.from_url(settings.redis_url)
    worker = SimpleWorker(["live"], connection=client, serializer=JSONSerializer, log_job_description=False)
    worker.log.setLevel(logging.WARNING)
    worker.work(burst=True, logging_level="WARNING")


def run_baseline(settings: Settings, images: Sequence[bytes]) -> float:
    """Images/s of the same decoder and engine in one process with no queue: the ceiling.

    Decodes on as many threads as the worker has while the engine runs, a batch ahead.
    """
    from model_store.engines import usable_cores
    from worker.loading import load_served

    served = load_served(settings)
    batches = [images[i : i + settings.max_batch] for i in range(0, len(images), settings.max_batch)]
    with ThreadPoolExecutor(settings.decode_threads or usable_cores()) as pool:
        started = time.perf_counter()
        ahead = [[pool.submit(served.decoder, image, CAMERA) for image in batch] for batch in batches[:2]]
        for index in range(len(batches)):
            pixels = np.stack([future.result() for future in ahead.pop(0)])
            if index + 2 < len(batches):
                ahead.append([pool.submit(served.decoder, image, CAMERA) for image in batches[index + 2]])
            served.engine.predict(pixels)
        return len(images) / (time.perf_counter() - started)
