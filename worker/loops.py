"""The threads of a worker: started, watched, and told apart from a server that is away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from shared.server_answers import explain
from worker.metrics import Metrics

log = logging.getLogger("sortline.loops")

# A loop that has not come round for this long is stuck; every wait in them is far shorter.
STUCK_AFTER_S = 30.0
AWAY_WAIT_S = 0.5
AWAY_LOG_INTERVAL_S = 10.0


class Loops:
    """Threads that must all live: when one dies of an exception, `failed` is set and the worker ends."""

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._threads: list[threading.Thread] = []
        self._beats: dict[str, float] = {}
        self._away_since: float | None = None
        self._away_logged: dict[str, tuple[str, float]] = {}  # what was logged last, and when, by step
        self.failed = threading.Event()

    def start(self, name: str, loop: Callable[[], None]) -> None:
        """Run `loop` on a thread until it returns."""
        self.beat(name)
        thread = threading.Thread(target=self.guard, args=(name, loop), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for all loops to end; True when they have."""
        until = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - self._clock()))
        return not any(thread.is_alive() for thread in self._threads)

    def beat(self, name: str) -> None:
        """The loop `name` comes round."""
        self._beats[name] = self._clock()

    def problem(self) -> str | None:
        """None while every loop comes round, else which one doesn't."""
        if self.failed.is_set():
            return "a thread of the worker died; see its log"
        for thread in self._threads:
            silent_s = self._clock() - self._beats[thread.name]
            if thread.is_alive() and silent_s > STUCK_AFTER_S:
                return f"the {thread.name} loop has not come round for {silent_s:.0f} s"
        return None

    def server_away(self, step: str, error: Exception) -> None:
        """Count, say so now and then, and wait a little before the caller tries again."""
        self._metrics.server_errors.labels(step).inc()
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
        reason = explain(error)
        logged, logged_at = self._away_logged.get(step, ("", float("-inf")))
        if reason != logged or now - logged_at > AWAY_LOG_INTERVAL_S:
            self._away_logged[step] = (reason, now)
            log.error("%s: %s Trying again until it works.", step, reason)
        self.beat(step)
        time.sleep(AWAY_WAIT_S)

    def server_back(self) -> None:
        """A call went well: say so if it hadn't before."""
        if self._away_since is not None:
            log.info("Redis answers again after %.1f s", self._clock() - self._away_since)
            self._away_since = None
            self._away_logged.clear()

    def guard(self, name: str, work: Callable[[], None]) -> None:
        """Do `work` on the calling thread; when it raises, the worker ends."""
        try:
            work()
        except Exception:  # whatever it was: jobs would be held for ever, with nobody to finish them
            log.exception("the %s thread died", name)
            self.failed.set()
