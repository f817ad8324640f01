"""Writes jobs to their queues: a function on the server enqueues the jobs of a call, or says which bound they hit.

It writes what RQ's own `Queue.enqueue` would write (shared/server/functions/submit.lua). The images are written just
before it, in the same transaction: the server hashes every byte of the arguments that a Lua program gets. The job's
hash is built here without rq.Job, which would take longer than all other steps together; a contract test compares the
hash with RQ's, field by field.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import redis

from producer.frames import PreparedJob
from producer.queue_functions import Argument, QueueFunctions
from shared import keys
from shared.clock import ServerClock
from shared.errors import Bound, RedisUnavailable
from shared.jobs import CLOCK_OFFSET_FIELD, LINE_FIELD, MAX_ATTEMPTS_FIELD
from shared.rq_time import format_rq_time
from shared.server.error_translation import server_errors
from shared.settings import Settings

# RQ's own default. It limits the job's time in a plain `rq worker`; Sortline's worker uses leases instead.
JOB_TIMEOUT_S = 180
# Maximum number of tokens in the wakeup list: more than there are workers that could usefully wake at once.
WAKEUP_TOKENS = 64
# Limits of one call, which blocks the whole server: this many jobs take about a millisecond.
CHUNK_JOBS = 64
CHUNK_BYTES = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """What the queue answers to some jobs of one line. The sizes are those after the call."""

    waiting: int  # jobs in the queue
    queue_bytes: int
    line_items: int  # of the line, waiting or in a worker
    line_bytes: int
    wait_s: float  # expected for the next job; 0 if no worker has reported its rate
    needs_s: float  # what a worker then needs
    places: int  # how many jobs can be sorted before the shortest deadline; 0 if the lines don't share them out
    retry_after_s: float
    is_congested: bool | None  # for the line; None if the call had no new job
    refused: dict[str, Bound]  # by job id

    @classmethod
    def parse(cls, answer: Sequence[Any], jobs: Sequence[PreparedJob]) -> Admission:
        """The answer of a function about `jobs`; admission.lua, which both functions begin with, describes it."""
        waiting, queue_bytes, line_items, line_bytes, *more = map(int, answer[:9])
        wait_ms, needs_ms, places, retry_ms, is_congested = more
        refused = {
            jobs[int(index)].job_id: Bound(bound.decode())
            for index, bound in zip(answer[9::2], answer[10::2], strict=True)
        }
        return cls(
            waiting=waiting,
            queue_bytes=queue_bytes,
            line_items=line_items,
            line_bytes=line_bytes,
            wait_s=wait_ms / 1000,
            needs_s=needs_ms / 1000,
            places=places,
            retry_after_s=retry_ms / 1000,
            is_congested=None if is_congested < 0 else bool(is_congested),
            refused=refused,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What a caller wants to enqueue at once, in this call and in those that follow."""

    items: int
    size_bytes: int
    deadline_at: float | None  # the earliest one of all, by this machine's clock
    partial: bool  # take the jobs that fit; otherwise all or none
    arriving: int  # how many jobs arrive for the first time

    @classmethod
    def of(cls, jobs: Sequence[PreparedJob], *, partial: bool, arriving: int) -> Demand:
        """The demand of all these jobs."""
        return cls(
            items=len(jobs),
            size_bytes=sum(len(job.image) for job in jobs),
            deadline_at=min((job.deadline_at for job in jobs if job.deadline_at is not None), default=None),
            partial=partial,
            arriving=arriving,
        )

    def without(self, jobs: Sequence[PreparedJob]) -> Demand:
        """The demand that is left after these jobs."""
        size_bytes = sum(len(job.image) for job in jobs)
        return replace(self, items=self.items - len(jobs), size_bytes=self.size_bytes - size_bytes)


class QueueWriter:
    """Enqueues jobs, and asks about them. May be shared by threads."""

    def __init__(
        self,
        client: redis.Redis,
        settings: Settings,
        server_clock: ServerClock,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._settings = settings
        self._server_clock = server_clock
        self._clock = clock
        self._functions = QueueFunctions(client, settings.redis_url)

    def submit(self, chunk: Sequence[PreparedJob], demand: Demand) -> Admission:
        """Enqueue jobs of one queue and line, at most what one call may carry. Refused jobs are not enqueued.

        Raises:
            RedisUnavailable, QueueFull (the server's memory is full), BadSetting, CommandRefused: as `LineProducer`.
        """
        offset_s = self._server_clock.offset_s
        names, arguments = self._common(chunk[0], demand, offset_s=offset_s)
        fields = self._common_fields(chunk[0], offset_s=offset_s)
        arguments += [WAKEUP_TOKENS, len(fields), *fields]
        for job in chunk:
            names += (keys.rq_job(job.job_id), keys.image(job.job_id))
            arguments += (
                job.job_id,
                job.payload,
                job.description,
                len(job.image),
                _server_time(job.deadline_at, offset_s=offset_s),
            )
        images = {job.job_id: job.image for job in chunk}
        with self._server_errors():
            answer = self._functions.submit(names, arguments, images=images, image_ttl_s=self._settings.image_ttl_s)
            return Admission.parse(answer, chunk)

    def ask(self, jobs: Sequence[PreparedJob], demand: Demand) -> Admission:
        """Ask which of these jobs the queue would refuse; they are of one queue and line. Enqueues nothing.

        Raises:
            as `submit`.
        """
        offset_s = self._server_clock.offset_s
        names, arguments = self._common(jobs[0], demand, offset_s=offset_s)
        for job in jobs:
            names.append(keys.rq_job(job.job_id))
            arguments += (len(job.image), _server_time(job.deadline_at, offset_s=offset_s))
        with self._server_errors():
            return Admission.parse(self._functions.ask(names, arguments), jobs)

    def ping(self) -> None:
        """Ask the server whether it answers; raises as `submit`."""
        with self._server_errors():
            self._client.ping()

    def _common(self, job: PreparedJob, demand: Demand, *, offset_s: float) -> tuple[list[str], list[Argument]]:
        """The keys and arguments that admission.lua describes."""
        settings, queue = self._settings, job.queue
        names = [
            keys.RQ_QUEUES,
            keys.rq_queue(queue),
            keys.wakeup(queue),
            keys.suspects(queue),
            keys.rq_wip(queue),
            keys.load(queue),
            keys.flow(queue),
        ]
        bounds = [settings.queue_max_items, settings.queue_max_bytes, settings.queue_max_wait_s, settings.line_share]
        deadline = _server_time(demand.deadline_at, offset_s=offset_s)
        needed = (demand.items, demand.size_bytes, deadline, int(demand.partial), demand.arriving)
        return names, [*bounds, job.line, *needed]

    def _common_fields(self, job: PreparedJob, *, offset_s: float) -> list[str | int]:
        """The fields of RQ's job hash that are the same for all jobs of a call, each followed by its value."""
        now = format_rq_time(self._clock())
        fields: dict[str, str | int] = {
            "created_at": now,
            "enqueued_at": now,
            "status": "queued",
            "origin": job.queue,
            "timeout": JOB_TIMEOUT_S,
            "result_ttl": self._settings.result_ttl_s,
            "failure_ttl": self._settings.failure_ttl_s,
            "success_callback_name": "",
            "failure_callback_name": "",
            "stopped_callback_name": "",
            "started_at": "",
            "ended_at": "",
            "last_heartbeat": "",
            "worker_name": "",
            "group_id": "",
            LINE_FIELD: job.line,
        }
        if offset_s:
            fields[CLOCK_OFFSET_FIELD] = f"{offset_s:.6f}"
        # From this field and retries_left a worker computes which attempt it makes.
        fields[MAX_ATTEMPTS_FIELD] = self._settings.max_attempts
        retries = self._settings.max_attempts - 1
        if retries:  # RQ has no Retry(max=0)
            fields |= {"retries_left": retries, "retry_intervals": "[0]", "enqueue_at_front_on_retry": 1}
        return [part for pair in fields.items() for part in pair]

    @contextmanager
    def _server_errors(self) -> Iterator[None]:
        try:
            with server_errors(self._settings.redis_url):
                yield
        except RedisUnavailable:
            # After a failover the server may be a replica whose connections are still open: reconnect next time.
            self._client.connection_pool.disconnect(inuse_connections=False)
            raise


def chunks(jobs: Sequence[PreparedJob]) -> Iterator[list[PreparedJob]]:
    """Split the jobs into runs that fit one call; an image larger than CHUNK_BYTES is sent alone."""
    chunk: list[PreparedJob] = []
    chunk_bytes = 0
    for job in jobs:
        if chunk and (len(chunk) == CHUNK_JOBS or chunk_bytes + len(job.image) > CHUNK_BYTES):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk.append(job)
        chunk_bytes += len(job.image)
    if chunk:
        yield chunk


def _server_time(at: float | None, *, offset_s: float) -> str:
    """A time by this machine's clock as text, by the server's clock; '' for none. `offset_s`: this clock minus that."""
    return "" if at is None else f"{at - offset_s:.6f}"
