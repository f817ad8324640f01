"""The queue of claimed jobs, with their images, that wait for a decode thread."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from worker.state.jobs import ClaimedJob

# Weight of a new time in the running means.
_WEIGHT = 0.05


class EncodedJob(NamedTuple):
    """A claimed job and its image file, which is None if it is gone, refused by its length, or fetched again later."""

    claimed: ClaimedJob
    image: bytes | None


class DecodeQueue:
    """Jobs leave it by the priority of their queue, then in the order in which they came. For any thread.

    The queues other than the most urgent one get a small share even if the most urgent one never runs empty.

    The threads share it, so that no job waits behind a thread that is busy with a slow image. It has no lock of its
    own: its deques and its token queue are thread-safe, and a lock for each job would cost more than decoding a small
    image.
    """

    def __init__(self, queues: Sequence[str], *, others_share: float) -> None:
        """`queues` by their priority, the most urgent first. The others get `others_share` of the time."""
        self._waiting: dict[str, deque[EncodedJob]] = {queue: deque() for queue in queues}
        self._urgent, *self._others = self._waiting.values()
        self._others_share = others_share
        # Running means of the seconds that one job takes, and the seconds that are due to the other queues. Threads may
        # lose an update, which matters little.
        self._urgent_s = self._other_s = 0.0
        self._credit_s = 0.0
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each job, and one once it is closed
        self._closed = False

    def put(self, jobs: Sequence[EncodedJob]) -> None:
        """Add jobs."""
        for job in jobs:
            self._waiting[job.claimed.lease.queue].append(job)
        for _ in jobs:  # after they were added: whoever has a token has a job
            self._tokens.put(None)

    def take(self, timeout_s: float) -> EncodedJob | None:
        """The next job; None if none comes within `timeout_s`, or if the queue is closed and empty."""
        try:
            self._tokens.get(timeout=timeout_s)
        except queue.Empty:
            return None
        job = self._next()
        while job is None and not self._closed:  # other jobs came and went while this thread went from deque to deque
            job = self._next()
        if job is None:  # this was the token of `close`, which is for every thread
            self._tokens.put(None)
        return job

    def observe(self, job: ClaimedJob, seconds: float) -> None:
        """Note how long a job has taken, for the others' share."""
        if not self._others:
            return
        if self._waiting[job.lease.queue] is self._urgent:
            self._urgent_s += (seconds - self._urgent_s) * (_WEIGHT if self._urgent_s else 1.0)
        else:
            self._other_s += (seconds - self._other_s) * (_WEIGHT if self._other_s else 1.0)

    def take_all(self) -> list[EncodedJob]:
        """Remove and return all jobs that wait."""
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
        if self._credit_s and (job := self._next_due()) is not None:
            return job
        try:
            job = self._urgent.popleft()
        except IndexError:  # empty, perhaps only now
            return self._next_other()
        due_s = self._others_share * (self._urgent_s or self._other_s or 1.0)
        self._credit_s = self._credit_s + due_s if any(self._others) else 0.0
        return job

    def _next_due(self) -> EncodedJob | None:
        """The next job of the others if enough time is due to them."""
        other_s = self._other_s or self._urgent_s or 1.0
        if self._credit_s < other_s:
            return None
        self._credit_s -= other_s
        return self._next_other()

    def _next_other(self) -> EncodedJob | None:
        for jobs in self._others:
            try:
                return jobs.popleft()
            except IndexError:
                continue
        return None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))
