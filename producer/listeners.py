"""Finds out from RQ's registry of workers whether any worker listens to a queue, and explains why a job waits.

A worker that was killed stays in the registry for two minutes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import redis

from shared import keys
from shared.closest_name import closest_name
from shared.server.error_translation import is_wrong_type
from shared.settings import Settings

# How often a producer asks the server. It reports a suspension within this time. Each check is two round trips.
CHECK_INTERVAL_S = 10.0
# The queues of a worker that is not told which.
_PLAIN_QUEUES = tuple(str(Settings.model_fields["queues"].default).split(","))


@dataclass(frozen=True, kw_only=True, slots=True)
class Listeners:
    """How many workers listen to one queue, and which queues have workers."""

    queue: str
    count: int
    served: tuple[str, ...]
    are_suspended: bool

    @property
    def problem(self) -> str | None:
        """Why the queue's jobs wait, and what to do. None if workers listen to the queue and are not suspended."""
        if self.count and self.are_suspended:
            return f"the workers of queue {self.queue!r} are suspended: its jobs wait until `rq resume`."
        if self.count:
            return None
        nobody = f"no worker listens to queue {self.queue!r}"
        start = "sortline worker" if self.queue in _PLAIN_QUEUES else f"sortline worker --queues {self.queue}"
        close = closest_name(self.queue, self.served or _PLAIN_QUEUES)
        if not self.served:
            hint = f" Or did you mean {close}?" if close and self.queue not in _PLAIN_QUEUES else ""
            return f"{nobody}: none is running. Its jobs wait until you start one: {start}.{hint}"
        advice = f"Did you mean {close}?" if close else f"Start one: {start}."
        return f"{nobody}; workers listen to {', '.join(self.served)}. {advice}"


def read_listeners(client: redis.Redis, queue: str) -> Listeners:
    """Ask the server for the workers of `queue`.

    Raises:
        redis.exceptions.RedisError: it can't be reached, or refuses.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.smembers(keys.RQ_WORKERS)
        pipe.exists(keys.RQ_SUSPENDED)
        workers, are_suspended = cast("tuple[set[bytes], int]", tuple(pipe.execute()))
        prefix = keys.rq_worker("").encode()
        for worker in workers:
            if worker.startswith(prefix):  # anybody may have put another key there
                pipe.hget(worker, "queues")
        answers = pipe.execute(raise_on_error=False)
    queues_of = [answer.decode(errors="replace").split(",") for answer in answers if isinstance(answer, bytes)]
    return Listeners(
        queue=queue,
        count=sum(queue in queues for queues in queues_of),
        served=tuple(sorted({name for queues in queues_of for name in queues})),
        are_suspended=bool(are_suspended),
    )


def explain_wait(client: redis.Redis, job_id: str) -> str:
    """Explain why a job has no result yet, as far as the server knows.

    Raises:
        redis.exceptions.RedisError: it can't be reached, or refuses.
    """
    try:
        origin, status = cast("list[bytes | None]", client.hmget(keys.rq_job(job_id), "origin", "status"))
    except redis.exceptions.ResponseError as error:
        if not is_wrong_type(error):
            raise
        origin = status = None
    if origin is None:
        return "the server does not have this job, or no longer has it."
    queue = origin.decode(errors="replace")
    listeners = read_listeners(client, queue)
    if listeners.problem is not None:
        return listeners.problem
    workers = f"{listeners.count:,} worker{'s listen' if listeners.count > 1 else ' listens'} to queue {queue!r}"
    if status == b"queued":
        waiting = client.llen(keys.rq_queue(queue))
        return f"{workers} (jobs waiting there: {waiting:,}), and none has taken this job yet."
    return f"{workers}; the job is {(status or b'unknown').decode(errors='replace')}."


class ListenerWatch:
    """Calls `on_problem` when no worker listens to a queue, or its workers are suspended: once for each change."""

    def __init__(
        self, client: redis.Redis, on_problem: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._on_problem = on_problem
        self._clock = clock
        self._lock = threading.Lock()  # the threads that share a producer call `check`
        self._check_at: dict[str, float] = {}
        self._problems: dict[str, str | None] = {}

    def check(self, queue: str) -> str | None:
        """Return the queue's problem, or None. Asks the server at most every CHECK_INTERVAL_S; never raises."""
        now = self._clock()
        with self._lock:
            is_due = now >= self._check_at.get(queue, float("-inf"))
            if is_due:
                self._check_at[queue] = now + CHECK_INTERVAL_S
        if is_due:
            self._ask(queue)
        return self._problems.get(queue)

    def _ask(self, queue: str) -> None:
        try:
            problem = read_listeners(self._client, queue).problem
        except redis.exceptions.RedisError:  # this is only a hint; the call that sends or waits reports the error
            problem = None
        with self._lock:
            before, self._problems[queue] = self._problems.get(queue), problem
        if problem is not None and problem != before:
            self._on_problem(problem)
