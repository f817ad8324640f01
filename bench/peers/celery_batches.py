"""The peer celery-batches: its queue is filled by its own client, then a worker process empties it."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.contenders.sortline_worker import in_process
from bench.measuring.rates import rate_between
from bench.measuring.traffic import tail
from bench.peers.celery_app import TASK, celery_app
from shared import keys
from shared.errors import Transient
from shared.server.connection import connect
from shared.settings import Settings, environment
from shared.subprocesses import Child

# The run is void if no result comes for this long. TensorFlow's first result takes longest.
_PATIENCE_S = 180.0
_POLL_S = 0.2


def celery_batches_rate(settings: Settings, images: Sequence[bytes], *, null: bool = False) -> float:
    """Images/s of a celery-batches worker on a queue of these images, on an emptied server.

    Raises:
        Transient: the worker ended, or left images without an answer; quotes its log.
    """
    task_ids: list[str] = in_process(_fill, settings, images)
    client: Any = connect(settings.redis_url)
    arguments = ["--null"] if null else []
    with tempfile.TemporaryDirectory(prefix="sortline-celery-") as folder:
        log = Path(folder) / "worker.log"
        with Child(arguments, log=log, module="bench.peers.celery_worker", variables=environment(settings)) as worker:
            _wait_done(client, task_ids, worker)
    return rate_between(_finished_at(client, task_ids))


def _fill(settings: Settings, images: Sequence[bytes]) -> list[str]:
    """Put a task for each image on Celery's queue, and return their ids. Runs in a process of its own."""
    client: Any = connect(settings.redis_url)
    client.flushdb()
    app = celery_app(settings, null=True)
    task_ids = [uuid.uuid4().hex for _ in images]
    with app.pool.acquire() as connection, app.amqp.Producer(connection) as producer:
        for task_id, image in zip(task_ids, images, strict=True):
            client.set(keys.image(task_id), image)
            app.tasks[TASK].apply_async(task_id=task_id, producer=producer)
    return task_ids


def _wait_done(client: Any, task_ids: Sequence[str], worker: Child) -> None:
    results = [_result_key(task_id) for task_id in task_ids]
    seen, until = -1, 0.0
    while (there := client.exists(*results)) < len(results):
        if there != seen:
            seen, until = there, time.monotonic() + _PATIENCE_S
        if worker.poll() is not None or time.monotonic() > until:
            raise Transient(f"celery-batches gave {there} results instead of {len(results)}: {tail(worker)}")
        time.sleep(_POLL_S)


def _finished_at(client: Any, task_ids: Sequence[str]) -> list[float]:
    answers = [json.loads(text) for text in client.mget([_result_key(task_id) for task_id in task_ids])]
    failed = [answer for answer in answers if answer["status"] != "SUCCESS"]
    if failed:
        raise Transient(f"celery-batches failed on {len(failed)} of {len(answers)} images, e.g. {failed[0]}")
    return [answer["result"]["finished_at"] for answer in answers]


def _result_key(task_id: str) -> str:
    """The key of a task's result, as Celery's Redis backend names it."""
    return f"celery-task-meta-{task_id}"
