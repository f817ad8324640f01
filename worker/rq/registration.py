"""Registration: makes this worker visible to RQ's own tools (`rq info`, rq-dashboard) and obeys their shutdown command.

Sorting doesn't need it, so it has a thread and a connection of its own, and no error in it keeps the worker from its
jobs. The thread also loads the functions that producers call. RQ's BaseWorker provides names and formats. Its loop,
maintenance, command thread and signal handlers are not used. They end on things that we must survive: a member of a
set that is not UTF-8, a key of another type, a message that is not JSON, a server that is full or has lost the
registration.
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
from shared.server import functions
from shared.server.connection import connect
from shared.server.error_translation import explain, is_unreachable, is_wrong_type, lacks_functions
from worker.observe.metrics import Metrics
from worker.parent.handover import worker_name
from worker.rq.persistence_check import warn_if_not_durable

log = logging.getLogger("sortline.presence")

# RQ forgets a worker this long (and a minute) after its last heartbeat.
WORKER_TTL_S = 60
HEARTBEAT_INTERVAL_S = 2.0
# How long one wait for a command takes, and so how soon the thread notices that it must end.
LISTEN_S = 0.5
# How many members of a set of workers are checked in one round trip.
CHUNK = 1_000
# What an error in this thread means.
ONLY_FOR_RQ = "only RQ's tools need it, sorting goes on"
PRODUCERS_WAIT = "producers wait if they may not load them either, sorting goes on"


def new_worker_name() -> str:
    """The name of a worker without a parent process that has named it."""
    return worker_name(pid=os.getpid(), token=secrets.token_hex(4))


class RqRegistration(BaseWorker):
    """Writes what RQ knows of one worker. Each method calls the server, and raises the errors of the client and RQ."""

    def __init__(self, client: redis.Redis, *, name: str, queues: Sequence[str]) -> None:
        """Does not call the server."""
        super().__init__(
            list(queues),
            name=name,
            connection=client,
            serializer=JSONSerializer,
            worker_ttl=WORKER_TTL_S,
            prepare_for_work=False,  # which would call the server for our address
        )
        self.hostname, self.pid = socket.gethostname(), os.getpid()

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        """Leave the connection as it is: RQ would raise its time-out to a minute for a blocking pop, not used here."""
        return connection

    def register(self, *, state: WorkerStatus = WorkerStatus.STARTED) -> None:
        """Make the worker visible to RQ. It may be called again at any time.

        RQ's own `register_birth` raises ValueError if the hash exists, as it does after the finish step has counted
        jobs in it, and it deletes those counts.
        """
        self._ask_own_address()
        try:
            self._write_registration(state)
        except redis.exceptions.ResponseError as error:
            if not is_wrong_type(error):
                raise
            # Most likely it is this worker's own key, which nobody else uses. A broken set of RQ's stays as it is.
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
        """Write everything at once, so that nobody sees half of it."""
        self.birth_date = self.last_heartbeat = now()
        self._state = state
        with self.connection.pipeline() as pipeline:
            pipeline.hdel(self.key, "death")
            pipeline.hset(self.key, mapping=self.serialize() | {"state": state})
            worker_registration.register(self, pipeline)
            pipeline.expire(self.key, self.worker_ttl + 60)
            pipeline.execute()

    def send_heartbeat(self, *, state: WorkerStatus) -> None:
        """Send a heartbeat; register again if the server lost the registration (restart, expiry, a deleted key)."""
        # Not in a transaction: a full server refuses HSET, but still extends the registration.
        with self.connection.pipeline(transaction=False) as pipeline:
            # Not EXISTS: the finish step may have counted its jobs in an otherwise empty hash.
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
        """End the registration as RQ's `register_death` does. A full server refuses only the date of death."""
        with self.connection.pipeline(transaction=False) as pipeline:
            worker_registration.unregister(self, pipeline)
            pipeline.hset(self.key, "death", utcformat(now()))
            pipeline.expire(self.key, 60)
            pipeline.delete(self.executions_key)
            pipeline.execute()

    def cleanup_tasks(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """RQ's periodic clean-up as named tasks, so that one that fails does not stop the others.

        Started jobs are left out: RQ would fail an abandoned one without a SortResult. `LeaseKeeper.reap` does that.
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
        """Remove workers whose hash is gone from a set of workers, and members that are no workers.

        This works on bytes. RQ's own clean-up decodes the members and ends on the first that is not UTF-8, as `rq info`
        does. No worker has such a name, so this removes the member.
        """
        prefix = keys.rq_worker("").encode()
        members = self.connection.sscan_iter(key)
        while chunk := list(islice(members, CHUNK)):
            workers = [member for member in chunk if member.startswith(prefix)]
            with self.connection.pipeline(transaction=False) as pipeline:
                for worker in workers:
                    pipeline.exists(worker)
                alive = {worker for worker, exists in zip(workers, pipeline.execute(), strict=True) if exists}
            if dead := [member for member in chunk if member not in alive]:
                self.connection.srem(key, *dead)

    def obey(self, data: object) -> None:
        """Obey one of RQ's commands: `shutdown` drains. The others are refused, as a batch can't be stopped."""
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
                log.warning("ignored a message to this worker that is not a command of RQ's: %.100r", data)


class RegistrationThread:
    """Keeps a worker registered with RQ until `stop`."""

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
        self._logged: dict[str, str] = {}
        self._are_functions_checked = False  # whether they are those of this release
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="registration", daemon=True)

    def start(self) -> None:
        """Register, and keep the registration alive."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Unregister, and wait at most `timeout_s` for that. Returns whether it is done."""
        self._stopping.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        is_checked = False
        while True:
            is_registered = self.attempt("the registration with RQ", self._heartbeat)
            if is_registered:
                self.attempt(
                    "loading the functions that producers call", self._load_functions, consequence=PRODUCERS_WAIT
                )
            # Listen before the check and the clean-up, which can wait until the worker has started.
            self._listen(HEARTBEAT_INTERVAL_S)
            if is_registered and not is_checked:
                is_checked = self.attempt(
                    "the check of the server's settings", partial(warn_if_not_durable, self._client)
                )
            if self._stopping.is_set():
                break
            if is_registered and self._registration.should_run_maintenance_tasks:
                self._registration.last_cleaned_at = now()  # type: ignore[assignment]  # RQ starts it as None
                for what, clean in self._registration.cleanup_tasks():
                    self.attempt(what, clean)
        self.attempt("the end of the registration with RQ", self._registration.unregister)
        self._stop_listening()
        self._client.close()

    def _heartbeat(self) -> None:
        if self._registration.birth_date is None:
            self._registration.register(state=self._state())
        else:
            self._registration.send_heartbeat(state=self._state())

    def _load_functions(self) -> None:
        """Load the functions that producers call, unless the server has them, or knows none.

        At each heartbeat, because the server may have lost its data.
        """
        try:
            if functions.version() not in functions.loaded_versions(self._client):
                functions.load(self._client)
            elif not self._are_functions_checked:
                functions.check_text(self._client)
            self._are_functions_checked = True
        except redis.exceptions.ResponseError as error:
            if not lacks_functions(error):  # before Redis 7 producers run scripts
                raise

    def _listen(self, duration_s: float) -> None:
        """Obey commands until the next heartbeat is due or the thread must end."""
        until = time.monotonic() + duration_s
        while not self._stopping.is_set() and (left_s := until - time.monotonic()) > 0:
            if not self.attempt("listening to RQ's commands", partial(self._next_command, left_s)):
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
            self.attempt("the end of listening to RQ's commands", pubsub.close)

    def attempt(self, what: str, work: Callable[[], object], *, consequence: str = ONLY_FOR_RQ) -> bool:
        """Do the work, and return whether it succeeded. Count an error, and log it if it is a new one.

        That the server can't be reached is logged by the pipeline already.
        """
        try:
            work()
        except Exception as error:  # not RedisError alone: RQ may raise anything
            self._metrics.server_errors.labels("presence").inc()
            if is_unreachable(error):
                return False
            text = (
                explain(error) if isinstance(error, redis.exceptions.RedisError) else f"{type(error).__name__}: {error}"
            )
            if text not in self._logged.values():  # often all of this thread's work fails for one reason
                log.warning("%s failed (%s); %s", what, text, consequence)
                self._logged[what] = text
            return False
        if self._logged.pop(what, None) is not None:
            log.info("%s works again", what)
        return True
