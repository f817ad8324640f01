"""The Celery application of the peer celery-batches: one task that classifies a batch.

Celery is set up as its documentation recommends for short CPU-bound tasks: the prefork pool with a process per core, a
prefetch window of several batches (celery-batches needs more than one), no gossip, mingle, heartbeat or events. The
images lie in Redis under the ids of their tasks, and a batch fetches its images with one MGET. Inside the messages they
would be base64, and would also pass through the worker's main process and a pipe: with 30 KB images this costs 29 %
more processor time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.contenders.no_queue import decode_rows
from shared import keys
from shared.server.connection import connect
from shared.settings import Settings
from worker.models.loading import LoadedModel, load_model

TASK = "classify"
# The last images of a run wait at most this long for their batch to fill.
FLUSH_INTERVAL_S = 0.1
# Batches that the main process holds ready for each process of the pool.
_PREFETCHED_BATCHES = 4
# Celery's default for the start of a pool process is 4 s; TensorFlow takes longer to load.
_START_TIMEOUT_S = 180.0


def celery_app(settings: Settings, *, null: bool) -> Any:
    """The application, for the worker and for the process that puts tasks on its queue.

    With `null` it answers at once, without decoding.
    """
    from celery import Celery
    from celery.signals import worker_process_init
    from celery_batches import Batches

    app = Celery("sortline-peer", broker=settings.redis_url, backend=settings.redis_url)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        worker_enable_remote_control=False,
        worker_prefetch_multiplier=_PREFETCHED_BATCHES * settings.max_batch,
        worker_proc_alive_timeout=_START_TIMEOUT_S,
    )
    classifier = _Classifier(settings, null=null)
    worker_process_init.connect(classifier.load, weak=False)

    def classify(requests: Sequence[Any]) -> None:
        for request, answer in zip(requests, classifier.answers([each.id for each in requests]), strict=True):
            app.backend.mark_as_done(request.id, answer, request=request)

    app.task(classify, name=TASK, base=Batches, flush_every=settings.max_batch, flush_interval=FLUSH_INTERVAL_S)
    return app


class _Classifier:
    """The model of one process of the pool, loaded when the process starts."""

    def __init__(self, settings: Settings, *, null: bool) -> None:
        self._settings = settings
        self._null = null

    def load(self, **_: object) -> None:
        """Called by Celery in each new process: connections and models don't survive a fork."""
        from bench.engines.null import null_model

        # There is one process per core, so each engine has one thread.
        settings = self._settings.model_copy(update={"engine_threads": 1})
        self._loaded: LoadedModel = null_model(settings) if self._null else load_model(settings)
        self._client: Any = connect(settings.redis_url)

    def answers(self, task_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The model's answers for the images of these tasks."""
        image_keys = [keys.image(task_id) for task_id in task_ids]
        images = self._client.mget(image_keys)
        size_px = self._loaded.engine.input_size_px
        pixels = np.empty((len(images), size_px, size_px, 3), np.uint8)
        decode_rows(self._loaded, images, pixels)
        rows = self._loaded.engine.predict(pixels).tolist()
        finished_at = time.time()
        self._client.unlink(*image_keys)
        return [{"probabilities": row, "finished_at": finished_at} for row in rows]
