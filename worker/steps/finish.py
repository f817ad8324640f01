"""Finish: records in Redis how jobs ended. In: `FinishedJob`s. Out: results and RQ's statuses (`rq.finisher`)."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter
from collections.abc import Sequence

from shared.schemas import Outcome
from worker.observe.supervisor import StageThread
from worker.rq.finisher import Finisher
from worker.state.capacity import CapacityEstimator
from worker.state.jobs import Disposition, FinishedJob
from worker.steps.flow import IDLE_WAIT_S, Flow

# The most jobs in one round: it bounds how long the server is blocked.
FINISH_MAX = 64
_CLASSIFIED = (Outcome.SORTED, Outcome.LATE)


class FinishStep:
    """Writes one batch a round, and counts what shows how much the worker can do."""

    def __init__(self, flow: Flow, finisher: Finisher, capacity: CapacityEstimator) -> None:
        self._flow = flow
        self._finisher = finisher
        self._capacity = capacity
        self._unwritten: list[FinishedJob] = []  # kept while Redis is unavailable

    def __call__(self, thread: StageThread) -> None:
        """Take the jobs that wait, and write their results and statuses."""
        if not self._unwritten:
            self._unwritten = self._flow.job_observer.before_finish(self._next_jobs())
        if self._unwritten:
            self._write(thread)

    def _next_jobs(self) -> list[FinishedJob]:
        """The next jobs: at most FINISH_MAX and one batch more; none if none come within IDLE_WAIT_S."""
        jobs: list[FinishedJob] = []
        is_idle, started = not len(self._flow.inflight), time.monotonic()
        with contextlib.suppress(queue.Empty):
            jobs += self._flow.finished.get(timeout=IDLE_WAIT_S)
            while len(jobs) < FINISH_MAX:
                jobs += self._flow.finished.get_nowait()
        if is_idle:
            self._capacity.add_idle(time.monotonic() - started)
        return jobs

    def _write(self, thread: StageThread) -> None:
        inflight, metrics = self._flow.inflight, self._flow.metrics
        leases = [finished.claimed.lease for finished in self._unwritten]
        inflight.finishing(leases)
        started = time.perf_counter()
        with thread.calling_redis():
            held = self._finisher.finish(self._unwritten)
        written, self._unwritten = self._unwritten, []
        metrics.observe_finish(time.perf_counter() - started)
        finished = [job for job, ours in zip(written, held, strict=True) if ours]
        metrics.retried.inc(sum(job.disposition is Disposition.RETRY for job in finished))
        metrics.observe_results([job.result for job in finished if job.result is not None])
        self._count(finished)
        for lease, ours in zip(leases, held, strict=True):
            if not ours and lease in inflight:
                metrics.leases_lost.inc()  # for a lease that is not in flight, the lease thread has counted the loss
        inflight.remove(leases)
        self._flow.job_observer.after_finish(finished)

    def _count(self, finished: Sequence[FinishedJob]) -> None:
        """Count what shows how much the worker can do.

        Without the failed and the rejected, which say nothing about that, and apart the expired, which cost far less.
        """
        by_model, from_cache, expired = Counter[str](), Counter[str](), 0
        for job in finished:
            result, queue_name = job.result, job.claimed.lease.queue
            if result is None:
                continue
            if result.timings_ms.infer is not None:
                by_model[queue_name] += 1
            elif result.outcome in _CLASSIFIED:
                from_cache[queue_name] += 1
            elif result.outcome is Outcome.EXPIRED:
                expired += 1
        for queue_name, images in by_model.items():
            self._capacity.count_sorted(queue_name, images)
        for queue_name, images in from_cache.items():
            self._capacity.count_cached(queue_name, images)
        if expired:
            self._capacity.count_expired(expired)
