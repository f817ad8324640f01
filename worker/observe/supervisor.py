"""Runs the pipeline's stages on threads, and watches them. Tells a thread that hangs from one that waits for Redis.

A stage's step does one round; everything that all stages need is here: heartbeats, waiting while Redis is unavailable,
the end, and what happens when a step raises.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import redis

from shared.images.decode_memory import DECODE_MEMORY
from shared.server.error_translation import explain
from worker.observe.metrics import Metrics
from worker.state.jobs import Lease

log = logging.getLogger("sortline.loops")

RETRY_WAIT_S = 0.5
UNAVAILABLE_LOG_INTERVAL_S = 10.0
# If an answer takes longer than this, the worker counts as not ready. The socket's own time-out is longer, as it ends
# the connection.
ANSWER_EXPECTED_S = 5.0


class StageThread:
    """One thread of a stage. With this the stage's step tells the supervisor what the thread does."""

    def __init__(self, name: str, supervisor: Supervisor) -> None:
        self.name = name
        self._supervisor = supervisor

    def heartbeat(self) -> None:
        """The thread is alive."""
        self._supervisor.heartbeat(self.name)

    def wait_for_work(self) -> None:
        """The thread waits for work. Until its next heartbeat it never counts as stuck."""
        self._supervisor.wait_for_work(self.name)

    def work_on(self, leases: Sequence[Lease]) -> None:
        """The thread begins to work on these jobs. If it hangs, they are given up."""
        self._supervisor.work_on(self.name, leases)

    def calling_redis(self) -> AbstractContextManager[None]:
        """The thread calls Redis inside the block. It never counts as stuck meanwhile."""
        return self._supervisor.calling_redis(self.name)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the pipeline: a step, and the threads that run it.

    A step that raises a RedisError is called again after a while, until Redis is back: it must keep what it has taken.
    """

    name: str
    step: Callable[[StageThread], None]  # one round: takes work, does it, hands it on; returns soon if there is none
    finished: Callable[[], bool]  # asked before each round: no more work will come
    ended: Callable[[], None] | None = None  # called on each thread when it ends
    threads: int = 1

    def names(self) -> list[str]:
        """The names of its threads."""
        return [self.name, *(f"{self.name}-{number}" for number in range(1, self.threads))]


class Supervisor:
    """Runs threads that must all live. When one dies of an exception, `failed` is set and the worker ends."""

    def __init__(self, metrics: Metrics, *, redis_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`redis_url` is named in the log."""
        self._metrics = metrics
        self._redis_url = redis_url
        self._clock = clock
        self._threads: list[threading.Thread] = []
        self._heartbeats: dict[str, float] = {}  # infinite while a thread waits for work or for the server
        self._calling_since: dict[str, float] = {}
        self._jobs_of: dict[str, Sequence[Lease]] = {}
        self._lock = threading.Lock()  # guards the three fields below
        self._errors: dict[str, Exception] = {}  # of steps whose last call failed
        self._unavailable_since: float | None = None
        self._unavailable_logged: dict[str, float] = {}  # when each reason was logged last
        self.failed = threading.Event()

    def start(self, name: str, loop: Callable[[], None]) -> None:
        """Run `loop` on a thread until it returns."""
        self.heartbeat(name)
        thread = threading.Thread(target=self.guard, args=(name, loop), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def run(self, stage: Stage) -> None:
        """Run the stage on threads of its own until it is finished."""
        for name in stage.names():
            self.start(name, functools.partial(self._run_stage, stage, StageThread(name, self)))

    def _run_stage(self, stage: Stage, thread: StageThread) -> None:
        while not stage.finished():
            self.heartbeat(thread.name)
            try:
                stage.step(thread)
            except redis.exceptions.RedisError as error:
                self.redis_unavailable(thread.name, error)
        if stage.ended is not None:
            stage.ended()

    def join(self, timeout_s: float) -> bool:
        """Wait for all threads to end. Returns whether they have."""
        until = self._clock() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - self._clock()))
        return not any(thread.is_alive() for thread in self._threads)

    def heartbeat(self, name: str) -> None:
        """Note that the thread `name` is alive."""
        self._heartbeats[name] = self._clock()

    def work_on(self, name: str, leases: Sequence[Lease]) -> None:
        """Note that the thread `name` begins to work on these jobs."""
        self.heartbeat(name)
        self._jobs_of[name] = leases

    def jobs_of(self, name: str) -> Sequence[Lease]:
        """The jobs that the thread `name` works on, or worked on last."""
        return self._jobs_of.get(name, ())

    def wait_for_work(self, name: str) -> None:
        """Note that the thread `name` waits for work. Until its next heartbeat it never counts as stuck."""
        self._heartbeats[name] = math.inf

    @contextlib.contextmanager
    def calling_redis(self, step: str) -> Iterator[None]:
        """The thread `step` calls Redis inside the block. It never counts as stuck meanwhile."""
        self._calling_since[step] = self._clock()
        self.wait_for_work(step)
        try:
            yield
        finally:
            del self._calling_since[step]
            self.heartbeat(step)
        if step in self._errors:
            self._redis_recovered(step)

    def silent(self, *, longer_than_s: float) -> dict[str, float]:
        """Threads that are not waiting and have sent no heartbeat for longer than this, and for how many seconds."""
        waiting = DECODE_MEMORY.waiting_threads()  # for memory that another thread holds: only that one can hang
        silent_s = {
            thread.name: self._clock() - self._heartbeats[thread.name]
            for thread in self._threads
            if thread.is_alive() and thread.name not in waiting
        }
        return {name: seconds for name, seconds in silent_s.items() if seconds > longer_than_s}

    def health_problem(self, *, stuck_after_s: float) -> str | None:
        """None while every thread lives and sends heartbeats, else which one doesn't."""
        if self.failed.is_set():
            return "a thread of the worker died; see its log"
        for name, seconds in self.silent(longer_than_s=stuck_after_s).items():
            return f"the {name} thread has not reported for {seconds:.0f} s"
        return None

    def redis_problem(self) -> str | None:
        """None while Redis answers every step, else which step gets an error or no answer."""
        with self._lock:
            for step, error in self._errors.items():
                return f"{step}: {explain(error)}"
        for step, since in self._calling_since.copy().items():
            if self._clock() - since > ANSWER_EXPECTED_S:
                return f"Redis has not answered {step} for {self._clock() - since:.0f} s"
        return None

    def redis_unavailable(self, step: str, error: Exception) -> None:
        """Count a failed call, log it, and wait before the caller tries again.

        Most outages fail all steps for the same reason. It is logged once for all of them, and then from time to time.
        """
        self._metrics.server_errors.labels(step).inc()
        now = self._clock()
        reason = explain(error, self._redis_url)
        with self._lock:
            self._errors[step] = error
            if self._unavailable_since is None:
                self._unavailable_since = now
            is_due = now - self._unavailable_logged.get(reason, -math.inf) > UNAVAILABLE_LOG_INTERVAL_S
            if is_due:
                self._unavailable_logged[reason] = now
        if is_due:
            log.error("%s: %s Trying again until it works.", step, reason)
        self.wait_for_work(step)
        time.sleep(RETRY_WAIT_S)
        self.heartbeat(step)

    def _redis_recovered(self, step: str) -> None:
        """A call of `step` succeeded after one that failed. Log it when no other step still fails."""
        with self._lock:
            self._errors.pop(step, None)
            if self._errors or self._unavailable_since is None:
                return
            unavailable_s = self._clock() - self._unavailable_since
            self._unavailable_since = None
            self._unavailable_logged.clear()
        log.info("Redis answers again after %.1f s", unavailable_s)

    def guard(self, name: str, work: Callable[[], None]) -> None:
        """Do `work` on the calling thread. If it raises, the worker ends."""
        try:
            work()
        except Exception:  # without this thread, jobs would be held forever and nobody would finish them
            log.exception("the %s thread died", name)
            self.failed.set()
