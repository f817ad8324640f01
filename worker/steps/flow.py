"""What the steps of one pipeline share: the queues between them, and the worker's state."""

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
from worker.steps.decide import Classified, Expired, Verdict, decide
from worker.steps.observer import BatchObserver, JobObserver

# How long an idle step sleeps before it checks for a shutdown, and for jobs that were pushed without a wakeup token.
IDLE_WAIT_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """The queues between the steps, and what they share. Any thread may use all of it.

    Jobs pass through `encoded_jobs`, some also through `costly_jobs`, then through `batcher` and `finished`.
    """

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
    job_observer: JobObserver
    metrics: Metrics
    clock: Callable[[], float]  # the server's time, epoch seconds

    def conclude(self, verdicts: Iterable[Verdict]) -> None:
        """Decide what becomes of these jobs, and hand them to the finish step.

        The thread that found a verdict also decides. If the only finish thread decided, all others would wait for it.
        """
        decided = list(verdicts)
        finished = [decide(verdict) for verdict in decided]
        self.inflight.answer(job.claimed.lease for job in finished)
        self.finished.put(finished)
        for verdict in decided:
            if not isinstance(verdict, Classified | Expired):
                _forget_frames(verdict.error)

    def misses_deadline(self, admitted: AdmittedJob, needs_s: float) -> bool:
        """Whether the job would be late if it needed `needs_s` more seconds."""
        deadline_at = admitted.deadline_at
        return deadline_at is not None and self.clock() + needs_s > deadline_at


def _forget_frames(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of its causes, which nobody reads any more.

    Their frames refer to the image, and to the verdict, which refers to the error: a cycle that only the garbage
    collector would free, some time later.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
