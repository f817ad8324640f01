"""The queue of claimed jobs, with their images, that wait for a decode thread."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from worker.state.jobs import ClaimedJob


class EncodedJob(NamedTuple):
    """A claimed job and its image file; None if it is gone, was refused by its length, or is fetched again later."""

    claimed: ClaimedJob
    image: bytes | None


class DecodeQueue:
    """Jobs leave it by the priority of their queue, then in the order in which they came. For any thread.

    The queues other than the most urgent one get a small share even if that never runs empty.

    The threads share it, so that no job waits behind a thread that is busy with a slow image. It takes no lock of its
    own: its parts are safe as they are, and a lock for each job would cost more than decoding a small image.
    """

    def __init__(self, queues: Sequence[str], *, others_share: float) -> None:
        """`queues` by their priority, the most urgent first. The others get `others_share` of the turns."""
        self._waiting: dict[str, deque[EncodedJob]] = {queue: deque() for queue in queues}
        self._urgent, *self._others = self._waiting.values()
        self._others_share = others_share
        self._credit = 0.0  # turns that are due to the others; threads may lose an update, which costs a turn
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each job, and one once it is closed
        self._closed = False

    def put(self, jobs: Sequence[EncodedJob]) -> None:
        """Add jobs."""
        for job in jobs:
            self._waiting[job.claimed.lease.queue].append(job)
        for _ in jobs:  # after they were added: who has a token finds a job
            self._tokens.put(None)

    def take(self, timeout_s: float) -> EncodedJob | None:
        """The next job; None if there is none for up to `timeout_s`, or ever again."""
        try:
            self._tokens.get(timeout=timeout_s)
        except queue.Empty:
            return None
        job = self._next()
        if job is None:  # it is closed: this token is for each thread
            self._tokens.put(None)
        return job

    def take_all(self) -> list[EncodedJob]:
        """All jobs that wait."""
        return list(iter(lambda: self.take(0.0), None))

    def close(self) -> None:
        """No more jobs will come."""
        self._closed = True
        self._tokens.put(None)

    @property
    def is_finished(self) -> bool:
        """Whether it is closed and empty."""
        return self._closed and not len(self)

    def _next(self) -> EncodedJob | None:
        if self._credit >= 1:
            self._credit -= 1
            if (job := self._next_other()) is not None:
                return job
        try:
            job = self._urgent.popleft()
        except IndexError:  # empty, perhaps only now
            return self._next_other()
        self._credit = self._credit + self._others_share if any(self._others) else 0.0
        return job

    def _next_other(self) -> EncodedJob | None:
        for jobs in self._others:
            try:
                return jobs.popleft()
            except IndexError:
                continue
        return None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))
