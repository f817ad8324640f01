"""A job's way through the worker: claim, decode, batch, infer, decide, finish.

    claim ──▶ encoded jobs ──▶ decode ──▶ batcher ──▶ infer ──▶ decide ──▶ finished jobs ──▶ finish
      ▲                                                                                     │
      └───────────────────── capacity is free again (`Inflight`) ◀──────────────────────────┘
    decode-costly: takes over the images that would hold decode up, and waits for the process that decodes them
    leases: renews this worker's leases, takes back the jobs of dead workers and of threads that hang (`watchdog`)
    archive: keeps images with their results in a folder, once the results are in Redis (`archive.archive`)
    Beside the pipeline the follower swaps models (`models.follower`), the recorder counts a canary's comparisons
    (`canary.recorder`), and maintenance finds lost jobs and measures the clock (`rq.maintenance`).

The stages overlap: while one batch is in the model, the next one is decoded, the one after that is claimed, and the
results of the one before are written. The number of jobs that a worker holds is bounded, so that it claims no job that
it can't start soon. From decoding on, each job belongs to one model (`models.routing`).

What can go wrong in each step, and what becomes of the job:
    claim    can't meet its deadline        expired, without its image
    decode   not ours, or not JSON          failed, never retried (BadJob of `Admission`)
             impossible times               rejected (BadJob of `ServerClock`)
             can't meet its deadline        expired (`LatencyEstimator`)
             not a usable image             rejected (BadImage)
    infer    can't meet its deadline now    expired
             the engine failed on the item  retried, then failed (EngineFailed)
             a canary's engine failed       the stable model answers instead
    decide   its deadline has passed        late (`Decider`)
    finish   lease lost                     nothing is written: the job is another worker's
    any      the worker dies                it goes back to its queue, or to the suspects (`steps.suspects`)
    Redis unavailable, in any stage         the stage waits and goes on
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shared.clock import ServerClock
from shared.cpu_cores import usable_cores
from shared.server.raw_connection import RawConnection
from shared.settings import Settings
from worker.archive.archive import Archive
from worker.models.result_cache import ResultCache
from worker.models.routing import ActiveModels
from worker.observe.engine_clock import EngineClock
from worker.observe.metrics import Metrics
from worker.observe.supervisor import Stage, Supervisor
from worker.observe.watchdog import Watchdog
from worker.rq.capacity_report import Workload
from worker.rq.claimer import MAX_ENCODED_BYTES, Claimer
from worker.rq.finisher import Finisher
from worker.rq.leases import REAP_INTERVAL_S, LeaseKeeper
from worker.state.byte_budget import ByteBudget
from worker.state.capacity import CapacityEstimator
from worker.state.costly_jobs import CostlyJobs
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
from worker.steps.observer import BatchObserver, NoJobObserver
from worker.steps.suspects import SuspectClaims


@dataclass(frozen=True, slots=True)
class PipelineComponents:
    """What a pipeline is built from."""

    claimer: Claimer
    image_connection: RawConnection  # for the step that decodes costly images
    active_models: ActiveModels
    observer: BatchObserver
    cache: ResultCache
    finisher: Finisher
    keeper: LeaseKeeper
    server_clock: ServerClock
    inflight: Inflight
    metrics: Metrics
    archive: Archive | None = None


class Pipeline:
    """Runs each stage on threads of its own until it is drained."""

    def __init__(
        self,
        components: PipelineComponents,
        settings: Settings,
        *,
        lost_s: float = 0.0,
        burst: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts no thread; `start` does.

        Args:
            components: the objects that the stages use.
            settings: the worker's settings.
            lost_s: seconds of work that the crash of this worker's predecessor has cost; 0 if there was none.
            burst: end once the queues are empty and all jobs are finished.
            monotonic: monotonic seconds, for threads that hang (`stuck_after_s`) and for the turns of suspects.
        """
        self._components, self._settings = components, settings
        self._stop_claiming, self._claims_ended = threading.Event(), threading.Event()
        self.ended = threading.Event()
        self.supervisor = Supervisor(components.metrics, redis_url=settings.redis_url, clock=monotonic)
        self.watchdog = Watchdog(
            self.supervisor,
            inflight=components.inflight,
            keeper=components.keeper,
            stuck_after_s=settings.stuck_after_s,
            clock=monotonic,
        )
        self._decode_threads = settings.decode_threads or usable_cores()
        self._flow = _new_flow(components, settings, decode_threads=self._decode_threads)
        self.capacity = CapacityEstimator(
            queues=settings.queue_names,
            max_batch=settings.max_batch,
            decode_threads=self._decode_threads,
            bulk_share=settings.bulk_share,
            clock=monotonic,
        )
        self._claim = ClaimStep(
            self._flow,
            components.claimer,
            SuspectClaims(components.claimer, self._flow.costly_jobs, lost_s=lost_s, monotonic=monotonic),
            Admission(self._flow, max_attempts=settings.max_attempts),
            give_back=components.keeper.release,
            settings=settings,
            burst=burst,
            stop=self._stop_claiming,
        )

    def _stages(self) -> Iterator[Stage]:
        flow, components, settings = self._flow, self._components, self._settings
        admission = Admission(flow, max_attempts=settings.max_attempts)
        decode = DecodeStep(flow, admission)
        costly = CostlyDecodeStep(flow, admission, components.image_connection)
        leases = LeaseStep(
            flow,
            components.keeper,
            admission,
            watchdog=self.watchdog,
            interval_s=min(REAP_INTERVAL_S, settings.lease_s / 3),
            stop=self._stop_claiming,
            claims_ended=self._claims_ended,
            ended=self.ended,
            announced=self._claim.may_begin,
        )
        finish = FinishStep(flow, components.finisher, self.capacity)
        # One inference thread per concurrent engine call. On a GPU the second call copies its pixels while the batch
        # before it is computed; on a CPU one thread does the bookkeeping of its batch while the next batch runs. A
        # model that is swapped in runs on the same kind of engine, so the number stays right.
        engine_calls = components.active_models.current.stable.engine.max_concurrency
        all_done, decoded = self._is_finished, lambda: flow.encoded_jobs.is_finished
        skip_waiting = components.observer.skip_waiting
        yield Stage("leases", leases, finished=self.ended.is_set, ended=leases.release)
        yield Stage("claim", self._claim, finished=lambda: self._claim.is_finished, ended=self._end_claims)
        yield Stage("decode", decode, finished=decoded, threads=self._decode_threads)
        yield Stage("decode-costly", costly, finished=all_done)
        yield Stage("infer", InferStep(flow), finished=all_done, ended=skip_waiting, threads=engine_calls)
        yield Stage("finish", finish, finished=all_done, ended=self.ended.set)
        if (archive := components.archive) is not None:
            yield Stage("archive", archive, finished=lambda: self.ended.is_set() and archive.is_done, ended=archive.end)

    def start(self) -> None:
        """Start the threads and return."""
        for stage in self._stages():
            self.supervisor.run(stage)

    def drain(self) -> None:
        """Claim no more jobs, finish those that are held, then end."""
        self._stop_claiming.set()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads of a pipeline that has ended. Images that are not archived by then are dropped."""
        self.supervisor.join(timeout_s)
        if self._components.archive is not None:
            self._components.archive.close()
            self.supervisor.join(timeout_s)  # its thread deletes them from the server

    def abandon(self) -> int:
        """Give all held jobs back to their queues at once, and return how many there were.

        The threads may go on for a while, without effect: a job can't be finished without its lease.
        """
        self.drain()
        # Wait for a claim in progress: the jobs that it brings must be given back too. It takes no longer than this.
        self._claims_ended.wait(2 * IDLE_WAIT_S)
        return self._components.keeper.release()

    @property
    def idle(self) -> bool:
        """True while no job is held."""
        return len(self._components.inflight) == 0

    @property
    def suspended(self) -> bool:
        """True while an operator has suspended the workers with `rq suspend`."""
        return bool(self._claim.suspended)

    def workload(self) -> Workload:
        """How the worker stands now, for the report of its capacity."""
        flow, model = self._flow, self._components.active_models.current.stable
        cost, calls = model.cost, model.engine.max_concurrency
        # As the claim step counts: costly jobs that wait take no place.
        taken = sum(flow.inflight.count_of(name) for name in self._settings.queue_names)
        most, enough = BATCHES_HELD * self._settings.max_batch, flow.latency.enough_held(cost, engine_calls=calls)
        return Workload(
            cost=cost,
            decode_s=flow.latency.decode_s,
            needs_s=flow.latency.busy_s(cost),
            taken=max(0, taken - len(flow.costly_jobs)),
            places=most if enough is None else min(enough, most),
            is_suspended=self.suspended,
            is_leaving=self._stop_claiming.is_set(),
        )

    def ready_problem(self) -> str | None:
        """None while the worker claims jobs and can write their results, else the reason why not."""
        problem = self.watchdog.ready_problem() or self.supervisor.redis_problem()
        if problem is not None:
            return problem
        if self._stop_claiming.is_set():
            return "the worker is draining: it claims nothing more"
        if self._claim.suspended is None:
            return "Redis has not answered the first claim yet"
        return "workers are suspended: `rq resume` resumes them" if self.suspended else None

    def _end_claims(self) -> None:
        self._claims_ended.set()
        self._flow.batcher.drain()
        self._flow.encoded_jobs.close()

    def _is_finished(self) -> bool:
        return self._claims_ended.is_set() and self.idle and self.watchdog.is_settled


def _new_flow(components: PipelineComponents, settings: Settings, *, decode_threads: int) -> Flow:
    clock = components.server_clock.now
    latency = LatencyEstimator(max_batch=settings.max_batch, decode_threads=decode_threads)
    return Flow(
        encoded_jobs=DecodeQueue(settings.queue_names, others_share=settings.bulk_share),
        costly_jobs=CostlyJobs(settings.queue_names, others_share=settings.bulk_share),
        batcher=Batcher(
            max_batch=settings.max_batch,
            linger_s=settings.linger_ms / 1000,
            urgent_queue=settings.queue_names[0],
            wall_clock=clock,
            others_share=settings.bulk_share,
            latency=latency,
        ),
        finished=queue.SimpleQueue(),
        inflight=components.inflight,
        encoded_bytes=ByteBudget(MAX_ENCODED_BYTES),
        active_models=components.active_models,
        cache=components.cache,
        latency=latency,
        server_clock=components.server_clock,
        engine_clock=EngineClock(components.metrics.engine_seconds),
        observer=components.observer,
        job_observer=components.archive or NoJobObserver(),
        metrics=components.metrics,
        clock=clock,
    )
