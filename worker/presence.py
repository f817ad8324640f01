"""Presence: this worker as RQ's own tools see it (`rq info`, rq-dashboard, shutdown commands).

RQ's BaseWorker keeps the registration; the work itself is the pipeline's. Its loop, its maintenance and
its signal handlers are not used.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Sequence

import redis
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import WorkerStatus
from rq.worker.base import BaseWorker
from rq.worker_registration import clean_worker_registry

# RQ forgets a worker this long (and a minute) after its last heartbeat.
WORKER_TTL_S = 60


def worker_name() -> str:
    """A name that is unique and tells where the worker runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


class Presence(BaseWorker):
    """Registers, beats and unregisters one worker with RQ."""

    def __init__(self, client: redis.Redis, *, name: str, queues: Sequence[str]) -> None:
        """`client` must be this object's own: RQ raises its pool's socket timeout."""
        logging.getLogger("rq.worker").setLevel(logging.WARNING)  # the rest of what it says, we say ourselves
        super().__init__(list(queues), name=name, connection=client, serializer=JSONSerializer, worker_ttl=WORKER_TTL_S)

    def arrive(self) -> None:
        """Be visible to RQ, and listen to its commands. May be tried again when the server went away half-way."""
        self.connection.delete(self.key)  # by such a try: RQ takes it for another worker of the same name
        self.register_birth()  # type: ignore[no-untyped-call]  # RQ has no types here
        self.subscribe()  # type: ignore[no-untyped-call]
        self.set_state(WorkerStatus.STARTED)

    def beat(self, *, state: WorkerStatus) -> None:
        """A sign of life; registers anew if the server lost us (restart, expiry)."""
        with self.connection.pipeline() as pipeline:
            # Not EXISTS: the finish step may have counted its jobs into an empty hash by now.
            pipeline.hexists(self.key, "birth")
            self.heartbeat(pipeline=pipeline)
            known = bool(pipeline.execute()[0])
        if not known:
            self.connection.delete(self.key)  # only what the heartbeat above and the finish step wrote
            self.register_birth()  # type: ignore[no-untyped-call]
        if not known or state != self.get_state():
            self.set_state(state)

    def maintain(self) -> None:
        """RQ's periodic upkeep, when it is due."""
        if self.should_run_maintenance_tasks:
            self.clean_registries()
            self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ starts it as None

    def leave(self) -> None:
        """Be gone for RQ, and free what `subscribe` opened."""
        self.teardown()  # type: ignore[no-untyped-call]

    def clean_registries(self) -> None:
        """RQ's upkeep of its finished and failed registries and of dead workers' names.

        Not of started jobs: RQ would fail an abandoned job without a SortResult; `LeaseKeeper.reap`
        does that part.
        """
        for queue in self.queues:
            FinishedJobRegistry(queue=queue).cleanup()
            FailedJobRegistry(queue=queue).cleanup()
            clean_worker_registry(queue)

    def request_stop_execution(self, execution_id: str) -> None:
        """RQ's `stop-job` command: a batch in the model can't be stopped, so it is refused aloud."""
        self.log.warning("stop-job for execution %s refused: a batch runs to its end.", execution_id)
