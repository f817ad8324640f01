"""Watchdog: notices a thread that hangs at its jobs, and gives up the jobs that the worker holds.

A decoder or an engine can hang in native code, where Python can't stop it. The worker must then stop renewing its jobs,
so that other workers get them. What counts is how long a thread has worked on one image or one batch, not the age of a
job: a job may also wait for a thread, a batch or the server.

The lease thread calls `check`. The threads that are watched tell the supervisor what they work on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from worker.observe.supervisor import Supervisor
from worker.state.inflight import Inflight

log = logging.getLogger("sortline.watchdog")

# A thread is given up only if it still hangs this long after it was first noticed. After the whole process was stopped
# (SIGSTOP, a paused machine), all threads seem to hang until each has sent one heartbeat.
CONFIRM_S = 5.0


class LeaseReleaser(Protocol):
    """The part of `worker.rq.leases.LeaseKeeper` that the watchdog uses."""

    def release(self) -> int:
        """Give all held jobs back to the front of their queues. Returns how many of them were still held."""


class Watchdog:
    """Watches the threads of one worker. `hanging` is set when a thread is given up, and stays set."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        inflight: Inflight,
        keeper: LeaseReleaser,
        stuck_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._inflight = inflight
        self._keeper = keeper
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._first_noticed_at: float | None = None
        self._reason = ""
        self._are_taken_back = False
        self.hanging = threading.Event()

    def check(self) -> bool:
        """Give up a thread that hangs. Returns whether one is given up, now or by an earlier check."""
        if self.hanging.is_set():
            return True
        hanging_s = self._supervisor.silent(longer_than_s=self._stuck_after_s)
        if not hanging_s:
            self._first_noticed_at = None
        elif self._first_noticed_at is None:
            self._first_noticed_at = self._clock()
        elif self._clock() - self._first_noticed_at >= CONFIRM_S:
            self._give_up(hanging_s)
        return self.hanging.is_set()

    def give_back(self) -> None:
        """Give back all jobs but those of threads that hang. May be called repeatedly.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; nothing was given back.
        """
        self._keeper.release()

    def settle(self) -> None:
        """Note that the jobs of the threads that hang have been taken back."""
        self._are_taken_back = True

    @property
    def is_settled(self) -> bool:
        """Whether no thread hangs, or the jobs of those that do have been taken back."""
        return not self.hanging.is_set() or self._are_taken_back

    def health_problem(self) -> str | None:
        """None while every thread lives and sends heartbeats, else which one doesn't."""
        if self.hanging.is_set():
            return f"{self._reason}; its jobs are given up, restart the worker"
        return self._supervisor.health_problem(stuck_after_s=self._stuck_after_s)

    def ready_problem(self) -> str | None:
        """As `health_problem`, but after half the time: being out of service for a while costs less than a restart."""
        return self.health_problem() or self._supervisor.health_problem(stuck_after_s=self._stuck_after_s / 2)

    def _give_up(self, hanging_s: Mapping[str, float]) -> None:
        name, seconds = next(iter(hanging_s.items()))
        self._reason = f"the {name} thread has not reported for {seconds:.0f} s"
        stuck = [lease for name in hanging_s for lease in self._supervisor.jobs_of(name) if lease in self._inflight]
        log.error(
            "%s; the worker claims nothing more, and its parent starts another one. Jobs that will be tried alone: %s. "
            "All other jobs are given back.",
            self._reason,
            ", ".join(f"{lease.job_id!r:.200}" for lease in stuck) or "none",
        )
        # These jobs are not given back like the others: a hang counts as a crash, so that a job that always hangs fails
        # in the end.
        self._inflight.remove(stuck)
        self.hanging.set()
