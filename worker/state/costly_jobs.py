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
        self._held_back = threading.Event()
        self._in_hand: ClaimedJob | None = None

    def put(self, job: ClaimedJob) -> None:
        """Add a job."""
        self._waiting.put([EncodedJob(job, None)])

    def begin(self, timeout_s: float) -> ClaimedJob | None:
        """The job in hand, or the next one; None if there is none for up to `timeout_s`, or none may be begun."""
        if self._in_hand is None and self._held_back.is_set():
            time.sleep(min(timeout_s, HELD_BACK_WAIT_S))
        elif self._in_hand is None and (job := self._waiting.take(timeout_s)) is not None:
            self._in_hand = job.claimed
            # Check again now that `_in_hand` is set: `hold_back` sets the event first and reads `_in_hand` then.
            if self._held_back.is_set():
                self._in_hand = None
                self._waiting.put([job])
        return self._in_hand

    def end(self) -> None:
        """Note that the job in hand is decoded, or no longer wanted."""
        self._in_hand = None

    def hold_back(self) -> bool:
        """Let no further job be begun until `go_on`. Returns whether none is in hand."""
        self._held_back.set()
        return self._in_hand is None

    def go_on(self) -> None:
        """Let jobs be begun again."""
        self._held_back.clear()

    def take_all(self) -> list[ClaimedJob]:
        """Remove and return all jobs that wait."""
        return [job.claimed for job in self._waiting.take_all()]

    @property
    def in_hand(self) -> ClaimedJob | None:
        """The job that is being decoded."""
        return self._in_hand

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)
