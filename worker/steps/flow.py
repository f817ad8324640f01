"""What the steps of one pipeline share: the queues between them, and what they know of the worker."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shared.clock import ServerClock
from worker.models.result_cache import ResultCache
from worker.models.routing import ActiveModels
from worker.observe.engine_clock import EngineClock
from worker.observe.metrics import Metrics
from worker.state.byte_budget import ByteBudget
from worker.state.costly_jobs import CostlyJobs
from worker.state.decode_queue import DecodeQueue
from worker.state.inflight import Inflight
from worker.state.jobs import AdmittedJob, FinishedJob
from worker.state.latency_estimator import LatencyEstimator
from worker.steps.batch import Batcher
from worker.steps.decide import Verdict, decide
from worker.steps.observer import BatchObserver

# How long an idle step sleeps before it checks for a shutdown, and for jobs that were pushed without a wakeup token.
IDLE_WAIT_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """Jobs flow from claim to `encoded_jobs`, some to `costly_jobs`, `batcher`, `finished`. All is for any thread."""

    encoded_jobs: DecodeQueue
    costly_jobs: CostlyJobs
    batcher: Batcher
    finished: queue.SimpleQueue[list[FinishedJob]]
    inflight: Inflight
    encoded_bytes: ByteBudget
    active_models: ActiveModels
    cache: ResultCache
    latency: LatencyEstimator
    server_clock: ServerClock
    engine_clock: EngineClock
    observer: BatchObserver
    metrics: Metrics
    clock: Callable[[], float]  # epoch seconds

    def conclude(self, verdicts: Iterable[Verdict]) -> None:
        """Decide what becomes of these jobs, and hand them to the finish step.

        On the thread that found out: the finish thread, of which there is one, would be what all others wait for.
        """
        self.finished.put([decide(verdict) for verdict in verdicts])

    def misses_deadline(self, admitted: AdmittedJob, needs_s: float) -> bool:
        """Whether a job that needs so many seconds more would be late."""
        return admitted.job.deadline_at is not None and self.clock() + needs_s > admitted.job.deadline_at
