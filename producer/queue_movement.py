"""Tells whether the jobs of a queue are being taken. Called by the uploader while it waits behind others' jobs."""

from __future__ import annotations

from typing import cast

import redis

from shared import keys


class QueueMovement:
    """Watches the first job of a queue, which changes whenever a worker takes a job.

    The number of jobs would not do: other producers may fill each place that becomes free. Errors of the server count
    as no movement; the uploader's other calls report them.
    """

    def __init__(self, client: redis.Redis, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._first: bytes | None = None
        self.last_sent = ""  # the caller's last job in the queue

    def has_moved(self) -> bool:
        """Whether the first job has changed since the last call."""
        try:
            first = cast("bytes | None", self._client.lindex(keys.rq_queue(self._queue), 0))
        except redis.exceptions.RedisError:
            return False
        before, self._first = self._first, first
        return before is not None and first != before  # the first job of an empty queue is no movement

    def is_waiting(self) -> bool:
        """Whether the caller's last job is still in the queue. Once it is taken, only others' jobs move the queue."""
        try:
            return self._client.hget(keys.rq_job(self.last_sent), "status") == b"queued"
        except redis.exceptions.RedisError:
            return False
