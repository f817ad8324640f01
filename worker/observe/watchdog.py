"""Watchdog: notices a thread that hangs at its jobs, and then gives up all jobs that the worker holds.

A decoder or an engine can hang in native code, where Python can't stop it. Its jobs must not be renewed for ever, so
that other workers get them. What counts is the time that one thread spends at one image or one batch. The age of a job
does not count: a job that waits for a thread, a batch or the server is not what hangs.

Called by the lease thread; `working_on` by the threads that are watched.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from worker.observe.supervisor import Supervisor
from worker.state.inflight import Inflight
from worker.state.jobs import Lease

log = logging.getLogger("sortline.watchdog")

# A thread is given up only when it still hangs this long after it was first seen to. When the whole process stood
# still (SIGSTOP, a paused machine), all threads look as if they hung, until each has come round once.
CONFIRM_S = 5.0


class Releases(Protocol):
    """The part of `LeaseKeeper` that is needed here."""

    def release(self) -> int:
        """Give all held jobs back to the front of their queues; how many were still ours."""


class Watchdog:
    """Watches the threads of one worker; `hanging` is set when one is given up, and stays so."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        inflight: Inflight,
        keeper: Releases,
        stuck_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._inflight = inflight
        self._keeper = keeper
        self._stuck_after_s = stuck_after_s
        self._clock = clock
        self._at: dict[str, Sequence[Lease]] = {}
        self._seen_at: float | None = None
        self._reason = ""
        self.hanging = threading.Event()

    def working_on(self, name: str, leases: Sequence[Lease]) -> None:
        """The loop `name` begins to work on these jobs."""
        self._supervisor.heartbeat(name)
        self._at[name] = leases

    def check(self) -> bool:
        """Whether a thread is given up: from now on, or since an earlier check."""
        if self.hanging.is_set():
            return True
        hanging_s = self._supervisor.silent(longer_than_s=self._stuck_after_s)
        if not hanging_s:
            self._seen_at = None
        elif self._seen_at is None:
            self._seen_at = self._clock()
        elif self._clock() - self._seen_at >= CONFIRM_S:
            self._give_up(hanging_s)
        return self.hanging.is_set()

    def give_back(self) -> None:
        """Give back all jobs but those that hang; may be called again.

        Raises:
            redis.exceptions.RedisError: the server can't be reached; nothing was given back.
        """
        self._keeper.release()

    def health_problem(self) -> str | None:
        """None while every thread lives and comes round, else which one doesn't."""
        if self.hanging.is_set():
            return f"{self._reason}; its jobs are given up, restart the worker"
        return self._supervisor.health_problem(stuck_after_s=self._stuck_after_s)

    def ready_problem(self) -> str | None:
        """As `health_problem`, but sooner: to be out of service for a while costs less than a restart."""
        return self.health_problem() or self._supervisor.health_problem(stuck_after_s=self._stuck_after_s / 2)

    def _give_up(self, hanging_s: Mapping[str, float]) -> None:
        name, seconds = next(iter(hanging_s.items()))
        self._reason = f"the {name} loop has not come round for {seconds:.0f} s"
        stuck = [lease for name in hanging_s for lease in self._at.get(name, ()) if lease in self._inflight]
        log.error(
            "%s; the worker claims nothing more. Its jobs are not renewed, so that another worker gets them when their "
            "leases run out: %s. The other jobs are given back.",
            self._reason,
            ", ".join(lease.job_id for lease in stuck) or "none",
        )
        # Left to run out, not given back: this uses up an attempt. An image that hangs every worker fails in the end.
        self._inflight.remove(stuck)
        self.hanging.set()
