"""Presence: this worker as RQ's own tools see it (`rq info`, rq-dashboard, shutdown commands).

It is for show, and runs on a thread and a connection of its own: nothing that goes wrong here keeps the worker from its
jobs. RQ's BaseWorker knows the names and the forms; its loop, its maintenance, its thread for commands and its signal
handlers are not used. They end on what we must survive: one member of a set that is not UTF-8, a key of another type, a
message that is not JSON, a server that is full or lost the registration.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import redis
from redis.client import PubSub
from rq import worker_registration
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import now, utcformat
from rq.worker import WorkerStatus
from rq.worker.base import BaseWorker

from shared import keys
from shared.server.connection import connect
from shared.server.error_translation import explain, is_wrong_type
from worker.observe.metrics import Metrics
from worker.rq.persistence_check import warn_if_not_durable

log = logging.getLogger("sortline.presence")

# RQ forgets a worker this long (and a minute) after its last heartbeat.
WORKER_TTL_S = 60
HEARTBEAT_INTERVAL_S = 2.0
# How long one wait for a command takes, and so how soon the thread notices its end.
LISTEN_S = 0.5
# Members of a set of workers that are looked at in one round trip.
CHUNK = 1_000


def worker_name() -> str:
    """A name that is unique and tells where the worker runs."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class RqRegistration(BaseWorker):
    """What one worker writes to be seen by RQ. Each method asks the server, and raises what the client and RQ raise."""

    def __init__(self, client: redis.Redis, *, name: str, queues: Sequence[str]) -> None:
        """Asks the server nothing yet."""
        super().__init__(
            list(queues),
            name=name,
            connection=client,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_S,
            prepare_for_work=False,  # which would ask for our address now
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """As it is: RQ would raise the socket's time-out to a minute, for a blocking pop that is not made here."""
        return connection

    def register(self, *, state: WorkerStatus = WorkerStatus.STARTED) -> None:
        """Be visible to RQ; may be called again at any time.

        RQ's own `register_birth` raises ValueError where the hash exists, as it does when the finish step has counted
        jobs into it, and deletes those counts.
        """
        self._ask_own_address()
        try:
            self._write_registration(state)
        except redis.exceptions.ResponseError as error:
            if not is_wrong_type(error):
                raise
            # Most likely it is our own key, which only this worker uses. A broken set of RQ's stays as it is.
            if self.connection.type(self.key) != b"hash":
                self.connection.delete(self.key)
            self._write_registration(state)

    def _ask_own_address(self) -> None:
        try:
            self.connection.client_setname(self.name)
            self.ip_address = str(self.connection.client_info()["addr"])
        except redis.exceptions.ResponseError:  # managed services refuse CLIENT
            self.ip_address = "unknown"

    def _write_registration(self, state: WorkerStatus) -> None:
        """All at once, so that nobody sees half of it."""
        self.birth_date = self.last_heartbeat = now()
        self._state = state
        with self.connection.pipeline() as pipeline:
            pipeline.hdel(self.key, "death")
            pipeline.hset(self.key, mapping=self.serialize() | {"state": state})
            worker_registration.register(self, pipeline)
            pipeline.expire(self.key, self.worker_ttl + 60)
            pipeline.execute()

    def send_heartbeat(self, *, state: WorkerStatus) -> None:
        """A sign of life; registers anew if the server lost us (restart, expiry, a deleted key)."""
        # Each command for itself: a full server refuses HSET, but lets the registration live on.
        with self.connection.pipeline(transaction=False) as pipeline:
            # Not EXISTS: the finish step may have counted its jobs into an empty hash by now.
            pipeline.hexists(self.key, "birth")
            self.heartbeat(pipeline=pipeline)
            self.set_state(state, pipeline=pipeline)
            is_registered, *answers = pipeline.execute(raise_on_error=False)
        if is_registered is not True:  # False, or an error: the key is of another type
            self.register(state=state)
            return
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

    def unregister(self) -> None:
        """Be gone for RQ, as its `register_death` leaves it; a full server refuses the date of death alone."""
        with self.connection.pipeline(transaction=False) as pipeline:
            worker_registration.unregister(self, pipeline)
            pipeline.hset(self.key, "death", utcformat(now()))
            pipeline.expire(self.key, 60)
            pipeline.delete(self.executions_key)
            pipeline.execute()

    def cleanup_tasks(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """RQ's periodic clean-up, in named pieces, so that one that fails does not stop the others.

        Not of started jobs: RQ would fail an abandoned job without a SortResult; `LeaseKeeper.reap` does that part.
        """
        for queue in self.queues:
            yield f"the clean-up of {queue.name}'s finished jobs", FinishedJobRegistry(queue=queue).cleanup
            yield f"the clean-up of {queue.name}'s failed jobs", FailedJobRegistry(queue=queue).cleanup
            yield (
                f"the clean-up of {queue.name}'s workers",
                partial(self._forget_dead, keys.rq_queue_workers(queue.name)),
            )
        yield "the clean-up of all workers", partial(self._forget_dead, keys.RQ_WORKERS)

    def _forget_dead(self, key: str) -> None:
        """Take out of a set of workers those whose hash is gone.

        In bytes. RQ's own clean-up decodes the members, and ends on the first that is not UTF-8, as `rq info` does;
        no such worker exists, so here it is taken out.
        """
        members = self.connection.sscan_iter(key)
        while chunk := list(islice(members, CHUNK)):
            with self.connection.pipeline(transaction=False) as pipeline:
                for member in chunk:
                    pipeline.exists(member)
                alive = pipeline.execute()
            if dead := [member for member, exists in zip(chunk, alive, strict=True) if not exists]:
                self.connection.srem(key, *dead)

    def obey(self, data: object) -> None:
        """Do what one of RQ's commands says: `shutdown` drains; the others would stop a batch, which can't be done."""
        try:
            command = json.loads(data) if isinstance(data, bytes | str) else None
        except (ValueError, RecursionError):
            command = None
        match command:
            case {"command": "shutdown"}:
                os.kill(os.getpid(), signal.SIGINT)  # as RQ's workers do
            case {"command": "stop-job" | "stop-execution" | "kill-horse" as name}:
                log.warning("RQ's command %s is refused: a batch runs to its end", name)
            case _:
                log.warning("a message to this worker is no command of RQ's, and ignored: %.100r", data)


class RegistrationThread:
    """Keeps a worker present in RQ until `stop`."""

    def __init__(
        self,
        redis_url: str,
        *,
        name: str,
        queues: Sequence[str],
        state: Callable[[], WorkerStatus],
        metrics: Metrics,
    ) -> None:
        self._client = connect(redis_url)
        self._registration = RqRegistration(self._client, name=name, queues=queues)
        self._state = state
        self._metrics = metrics
        self._pubsub: PubSub | None = None
        self._said: dict[str, str] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="presence", daemon=True)

    def start(self) -> None:
        """Register, and keep it so."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Unregister, which is not waited for longer than this; whether it is done."""
        self._stopping.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        is_checked = False
        while True:
            is_registered = self._attempt("the registration with RQ", self._heartbeat)
            # Before the rest, which can wait until the worker is under way.
            self._listen(HEARTBEAT_INTERVAL_S)
            if is_registered and not is_checked:
                is_checked = self._attempt(
                    "the check of the server's settings", partial(warn_if_not_durable, self._client)
                )
            if self._stopping.is_set():
                break
            if is_registered and self._registration.should_run_maintenance_tasks:
                self._registration.last_cleaned_at = now()  # type: ignore[assignment]  # RQ starts it as None
                for what, clean in self._registration.cleanup_tasks():
                    self._attempt(what, clean)
        self._attempt("the end of the registration with RQ", self._registration.unregister)
        self._stop_listening()
        self._client.close()

    def _heartbeat(self) -> None:
        if self._registration.birth_date is None:
            self._registration.register(state=self._state())
        else:
            self._registration.send_heartbeat(state=self._state())

    def _listen(self, duration_s: float) -> None:
        """Obey commands until the next heartbeat is due, or the end."""
        until = time.monotonic() + duration_s
        while not self._stopping.is_set() and (left_s := until - time.monotonic()) > 0:
            if not self._attempt("listening to RQ's commands", partial(self._next_command, left_s)):
                self._stop_listening()
                self._stopping.wait(left_s)

    def _next_command(self, timeout_s: float) -> None:
        if self._pubsub is None:
            self._pubsub = self._client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            self._pubsub.subscribe(self._registration.pubsub_channel_name)
        message = self._pubsub.get_message(timeout=min(timeout_s, LISTEN_S))
        if message is not None:
            self._registration.obey(message["data"])

    def _stop_listening(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            self._attempt("the end of listening to RQ's commands", pubsub.close)

    def _attempt(self, what: str, work: Callable[[], object]) -> bool:
        """Whether it went well. What RQ and the client raise is counted, and said when it is another than last time."""
        try:
            work()
        except Exception as error:  # not RedisError alone: RQ raises what it likes
            self._metrics.server_errors.labels("presence").inc()
            text = (
                explain(error) if isinstance(error, redis.exceptions.RedisError) else f"{type(error).__name__}: {error}"
            )
            if self._said.get(what) != text:
                log.warning("%s failed (%s); only RQ's tools need it, sorting goes on", what, text)
            self._said[what] = text
            return False
        if self._said.pop(what, None) is not None:
            log.info("%s went well again", what)
        return True
