"""The way of a job through the worker: claim, decode, batch, infer, decide, finish.

    claim ──▶ encoded jobs ──▶ decode ──▶ batcher ──▶ infer ──▶ decide ──▶ finished jobs ──▶ finish
      ▲                                                                                     │
      └───────────────────── capacity is free again (`Inflight`) ◀──────────────────────────┘
    decode-costly: gets from decode what would hold it up, and waits for the process that decodes it
    leases: renews the leases that are held, takes back jobs of dead workers, gives up threads that hang (`watchdog`)
    Beside the pipeline the follower swaps models (`models.follower`), the recorder counts a canary's comparisons
    (`canary.recorder`), and maintenance finds lost jobs and measures the clock (`rq.maintenance`).

The stages overlap: while one batch is in the model, the next one is decoded, the one after that is claimed, and the
results of the one before are written. The number of jobs that are held is bounded, so that no job is claimed that can't
start soon. From its decoding on a job belongs to one model (`models.routing`).

Where it can go wrong, and what becomes of the job:
    decode   not ours, or not JSON          failed, never retried (BadJob of `Admission`)
             impossible times               rejected (BadJob of `ServerClock`)
             can't meet its deadline        expired (`LatencyEstimator`)
             not a usable image             rejected (BadImage)
    batch    can't meet its deadline now    expired
    infer    the engine failed on the item  retried, then failed (EngineFailed); a canary's: the stable model answers
    decide   it is past its deadline        late (`Decider`)
    finish   lease lost                     nothing is written: the job is another worker's
    any      the worker dies                it goes back to its queue, or to the suspects (`steps.suspects`)
    Redis unavailable, in any stage         the stage waits and goes on
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.clock import ServerClock
from shared.server.raw_connection import RawConnection
from worker.models.result_cache import ResultCache
from worker.models.routing import ActiveModels
from worker.observe.engine_clock import EngineClock
from worker.observe.metrics import Metrics
from worker.observe.supervisor import Stage, Supervisor
from worker.observe.watchdog import Watchdog
from worker.rq.claimer import MAX_ENCODED_BYTES, Claimer
from worker.rq.finisher import Finisher
from worker.rq.leases import REAP_INTERVAL_S, LeaseKeeper
from worker.state.byte_budget import ByteBudget
from worker.state.decode_queue import DecodeQueue
from worker.state.inflight import Inflight
from worker.state.latency_estimator import LatencyEstimator
from worker.state.pixel_buffer import BATCHES_HELD
from worker.steps.admit import Admission
from worker.steps.batch import Batcher
from worker.steps.claim import ClaimStep
from worker.steps.decode import DecodeStep
from worker.steps.decode_costly import CostlyDecodeStep
from worker.steps.finish import FinishStep
from worker.steps.flow import IDLE_WAIT_S, Flow
from worker.steps.infer import InferStep
from worker.steps.keep_leases import LeaseStep
from worker.steps.observer import BatchObserver
from worker.steps.suspects import SuspectClaims


@dataclass(frozen=True, slots=True)
class PipelineComponents:
    """What a pipeline is built from. Each component is used by one stage."""

    claimer: Claimer
    image_connection: RawConnection  # of the step that decodes costly images
    active_models: ActiveModels
    observer: BatchObserver
    cache: ResultCache
    finisher: Finisher
    keeper: LeaseKeeper
    server_clock: ServerClock
    inflight: Inflight
    metrics: Metrics


class Pipeline:
    """Runs each stage on threads of its own until it is drained."""

    def __init__(
        self,
        components: PipelineComponents,
        *,
        queues: Sequence[str],
        bulk_share: float,
        max_batch: int,
        linger_s: float,
        decode_threads: int,
        max_decode_s: float,
        max_attempts: int,
        lease_s: int,
        stuck_after_s: float,
        lost_s: float = 0.0,
        burst: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`burst` ends the pipeline once the queues are empty and all jobs are finished.

        `stuck_after_s`, by the clock `monotonic`, is the longest time that a thread may take for one image or batch.
        `lost_s` is how long ago the worker crashed whose place this one takes; 0 if it takes none.
        """
        self._inflight, self._keeper = components.inflight, components.keeper
        self._stop_claiming, self._claims_ended = threading.Event(), threading.Event()
        self.ended = threading.Event()
        self.supervisor = Supervisor(components.metrics, clock=monotonic)
        self.watchdog = Watchdog(
            self.supervisor,
            inflight=components.inflight,
            keeper=components.keeper,
            stuck_after_s=stuck_after_s,
            clock=monotonic,
        )
        self._flow = Flow(
            encoded_jobs=DecodeQueue(queues),
            costly_jobs=DecodeQueue(queues),
            batcher=Batcher(max_batch=max_batch, linger_s=linger_s),
            finished=queue.SimpleQueue(),
            inflight=components.inflight,
            encoded_bytes=ByteBudget(MAX_ENCODED_BYTES),
            active_models=components.active_models,
            cache=components.cache,
            latency=LatencyEstimator(max_batch=max_batch),
            server_clock=components.server_clock,
            engine_clock=EngineClock(components.metrics.engine_seconds),
            observer=components.observer,
            metrics=components.metrics,
            clock=clock,
        )
        admission = Admission(self._flow, max_attempts=max_attempts)
        self._claim = ClaimStep(
            self._flow,
            components.claimer,
            SuspectClaims(components.claimer, lost_s=lost_s, monotonic=monotonic),
            queues=queues,
            bulk_share=bulk_share,
            capacity=BATCHES_HELD * max_batch,
            max_batch=max_batch,
            burst=burst,
            stop=self._stop_claiming,
        )
        leases = LeaseStep(
            self._flow,
            components.keeper,
            admission,
            watchdog=self.watchdog,
            interval_s=min(REAP_INTERVAL_S, lease_s / 3),
            stop=self._stop_claiming,
            ended=self.ended,
            known=self._claim.may_begin,
        )
        # One inference thread per concurrent engine call. On a GPU a second call overlaps the copy of its pixels with
        # the batch before; on a CPU the bookkeeping of one batch is done while the next one runs. A model that is
        # swapped in runs on the same kind of engine, so it has the same number.
        engine_calls = components.active_models.current.stable.engine.max_concurrency
        self._stages = (
            Stage("leases", leases, finished=self.ended.is_set, ended=leases.release),
            Stage("claim", self._claim, finished=lambda: self._claim.is_finished, ended=self._end_claims),
            Stage(
                "decode",
                DecodeStep(self._flow, admission, max_decode_s=max_decode_s),
                finished=lambda: self._flow.encoded_jobs.is_finished,
                threads=decode_threads,
            ),
            Stage(
                "decode-costly",
                CostlyDecodeStep(self._flow, admission, components.image_connection),
                finished=self._is_finished,
            ),
            Stage(
                "infer",
                InferStep(self._flow),
                finished=self._is_finished,
                ended=components.observer.end,
                threads=engine_calls,
            ),
            Stage("finish", FinishStep(self._flow, components.finisher), self._is_finished, ended=self.ended.set),
        )

    def start(self) -> None:
        """Start the threads and return."""
        for stage in self._stages:
            self.supervisor.run(stage)

    def drain(self) -> None:
        """Claim no more jobs, finish those that are held, then end."""
        self._stop_claiming.set()

    def abandon(self) -> int:
        """Give back all jobs that are held, at once; how many there were.

        The threads may go on for a while, without effect: a job can't be finished without its lease.
        """
        self.drain()
        # A claim in progress would bring jobs that are not given back. It takes no longer than this.
        self._claims_ended.wait(2 * IDLE_WAIT_S)
        return self._keeper.release()

    @property
    def idle(self) -> bool:
        """True while no job is held."""
        return len(self._inflight) == 0

    @property
    def suspended(self) -> bool:
        """True while an operator has suspended the workers with `rq suspend`."""
        return bool(self._claim.suspended)

    def ready_problem(self) -> str | None:
        """None while jobs are claimed and their results can be written, else why not."""
        problem = self.watchdog.ready_problem() or self.supervisor.redis_problem()
        if problem is not None:
            return problem
        if self._stop_claiming.is_set():
            return "the worker is draining: it claims nothing more"
        if self._claim.suspended is None:
            return "Redis has not answered the first claim yet"
        return "workers are suspended: rq resume" if self.suspended else None

    def _end_claims(self) -> None:
        self._claims_ended.set()
        self._flow.batcher.drain()
        self._flow.encoded_jobs.close()

    def _is_finished(self) -> bool:
        return self._claims_ended.is_set() and self.idle
