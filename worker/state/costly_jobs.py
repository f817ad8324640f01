"""The claimed jobs whose images are costly to decode: those that wait, without their images, and the one in hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from worker.state.decode_queue import DecodeQueue, EncodedJob
from worker.state.jobs import ClaimedJob

# How long the decoding thread sleeps while no job may be begun.
HELD_BACK_WAIT_S = 0.05


class CostlyJobs:
    """One thread decodes them, one after the other, with `begin` and `end`. All other methods are for any thread."""

    def __init__(self, queues: Sequence[str], *, others_share: float) -> None:
        """The arguments are those of `DecodeQueue`."""
        self._waiting = DecodeQueue(queues, others_share=others_share)
        # For the two fields below. Nobody waits for a job while holding it.
        self._lock = threading.Lock()
        self._is_held_back = False
        self._in_hand: ClaimedJob | None = None

    def put(self, job: ClaimedJob) -> None:
        """Add a job."""
        self._waiting.put([EncodedJob(job, None)])

    def begin(self, timeout_s: float) -> ClaimedJob | None:
        """The job in hand, or the next one; None if there is none for up to `timeout_s`, or none may be begun."""
        with self._lock:
            if self._in_hand is not None:
                return self._in_hand
            is_held_back = self._is_held_back
        if is_held_back:
            time.sleep(min(timeout_s, HELD_BACK_WAIT_S))
            return None
        job = self._waiting.take(timeout_s)
        return None if job is None else self._take_in_hand(job)

    def _take_in_hand(self, job: EncodedJob) -> ClaimedJob | None:
        """Begin this job, unless jobs have been held back while `begin` waited for it: then it waits again."""
        with self._lock:
            if self._is_held_back:
                self._waiting.put([job])
            else:
                self._in_hand = job.claimed
            return self._in_hand

    def end(self) -> None:
        """Note that the job in hand is decoded, or no longer wanted."""
        with self._lock:
            self._in_hand = None

    def hold_back(self) -> bool:
        """Let no further job be begun until `go_on`. Returns whether none is in hand."""
        with self._lock:
            self._is_held_back = True
            return self._in_hand is None

    def go_on(self) -> None:
        """Let jobs be begun again."""
        with self._lock:
            self._is_held_back = False

    def take_all(self) -> list[ClaimedJob]:
        """Remove and return all jobs that wait."""
        return [job.claimed for job in self._waiting.take_all()]

    @property
    def in_hand(self) -> ClaimedJob | None:
        """The job that is being decoded."""
        with self._lock:
            return self._in_hand

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)
