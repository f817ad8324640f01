"""Remembers how a producer's queues answered: which lines found them congested, and which jobs were refused."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from producer.frames import PreparedJob
from producer.queue_writer import Admission

# The most refused jobs that are remembered, so that sending them again does not count as another arrival.
REMEMBERED_JOBS = 10_000


class Congestion:
    """What one producer knows of its queues. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._congested: dict[tuple[str, str], bool] = {}  # by queue and line
        self._refused: dict[str, None] = {}  # ids of jobs that were refused, oldest first

    def is_congested(self, job: PreparedJob) -> bool:
        """Whether the queue was congested for the job's line when it answered last."""
        with self._lock:
            return self._congested.get((job.queue, job.line), False)

    def count_new(self, jobs: Sequence[PreparedJob]) -> int:
        """How many of these jobs were not refused before."""
        with self._lock:
            return sum(job.job_id not in self._refused for job in jobs)

    def note(self, answer: Admission, jobs: Sequence[PreparedJob]) -> None:
        """Note what the queue answered about these jobs, which are of one queue and line."""
        with self._lock:
            if answer.is_congested is not None:
                self._congested[jobs[0].queue, jobs[0].line] = answer.is_congested
            for job in jobs:
                if job.job_id not in answer.refused:
                    self._refused.pop(job.job_id, None)
            self._refused |= dict.fromkeys(answer.refused)
            while len(self._refused) > REMEMBERED_JOBS:
                del self._refused[next(iter(self._refused))]
