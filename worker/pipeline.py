"""A job's way through the worker: claim, decode, batch, infer, decide, finish. Long, so that it is on one page.

    claim thread ──▶ decode threads ──▶ batcher ──▶ inference thread(s) ──▶ finish thread
         ▲                                                                       │
         └──────────── capacity is free again (`Inflight`) ◀─────────────────────┘
    lease thread: renews the leases that are held, takes back jobs of dead workers, gives up on threads that hang
    (`watchdog`)
    Beside the pipeline the follower swaps models (`models.follower`), the recorder counts a canary's comparisons
    (`canary.recorder`), and maintenance finds lost jobs and measures the clock (`rq.maintenance`).

The steps overlap: while one batch is in the model, the next one is decoded, the one after that is claimed, and the
results of the one before are written. The number of jobs that are held is bounded, so that no job is claimed that can't
start soon. From its decoding on a job belongs to one model (`models.routing`).

Where it can go wrong, and what becomes of the job:
    claim    not ours, or not JSON          failed, never retried (BadJob)
             impossible times               rejected (BadJob of `ServerClock`)
             can't meet its deadline        expired (`LatencyEstimator`)
    decode   not a usable image             rejected (BadImage)
    batch    can't meet its deadline now    expired
    infer    the engine failed on the item  retried, then failed (EngineFailed); a canary's: the stable model answers
    finish   lease lost                     nothing is written: the job is another worker's
    Redis unavailable, in any step          the step waits and goes on
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from shared.clock import ServerClock
from shared.errors import BadImage, BadJob, EngineFailed
from worker.canary.comparer import Comparer, Comparisons
from worker.models.decider import Decider
from worker.models.result_cache import ResultCache
from worker.models.routing import ActiveModels
from worker.observe.engine_clock import EngineClock
from worker.observe.metrics import Metrics
from worker.observe.supervisor import Supervisor
from worker.observe.watchdog import Watchdog
from worker.rq.leases import REAP_INTERVAL_S, LeaseKeeper
from worker.state.byte_budget import ByteBudget
from worker.state.inflight import Inflight
from worker.state.jobs import AdmittedJob, ClaimedJob, Disposition, FinishedJob, StageTimings
from worker.state.latency_estimator import LatencyEstimator
from worker.state.pixel_buffer import BATCHES_HELD
from worker.steps.admit import admit
from worker.steps.batch import Batcher
from worker.steps.claim import MAX_ENCODED_BYTES, Claimer
from worker.steps.decode import decode, decode_for_comparison
from worker.steps.finish import Finisher
from worker.steps.infer import Prediction, infer, retry_on_stable_model
from worker.steps.work import Batch, Decoded

log = logging.getLogger("sortline.pipeline")

# How long an idle step sleeps before it checks for a shutdown, and for jobs that were pushed without a wakeup token.
IDLE_WAIT_S = 0.5
# The most jobs in one finish step: it bounds how long the server is blocked.
FINISH_MAX = 64


@dataclass(frozen=True, slots=True)
class PipelineComponents:
    """What a pipeline is built from. Each component is used by one step."""

    claimer: Claimer
    active_models: ActiveModels
    comparisons: Comparisons
    cache: ResultCache
    finisher: Finisher
    keeper: LeaseKeeper
    server_clock: ServerClock
    inflight: Inflight
    metrics: Metrics


class Pipeline:
    """Runs each step on threads of its own until it is drained."""

    def __init__(
        self,
        components: PipelineComponents,
        *,
        max_batch: int,
        linger_s: float,
        decode_threads: int,
        max_attempts: int,
        lease_s: int,
        stuck_after_s: float,
        burst: bool = False,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`burst` ends the pipeline once the queues are empty and all jobs are finished.

        `stuck_after_s`, by the clock `monotonic`, is the longest time that a thread may take for one image or batch.
        """
        self._components = components
        self._max_batch = max_batch
        self._capacity = BATCHES_HELD * max_batch
        self._max_attempts = max_attempts
        self._keep_interval_s = min(REAP_INTERVAL_S, lease_s / 3)
        self._burst = burst
        self._clock = clock
        self._batcher = Batcher(max_batch=max_batch, linger_s=linger_s)
        self._latency = LatencyEstimator(max_batch=max_batch)
        self._comparer = Comparer(
            components.active_models,
            sink=components.comparisons,
            max_waiting=self._capacity,
            metrics=components.metrics,
        )
        self._engine_clock = EngineClock(components.metrics.engine_seconds)
        self._encoded = ByteBudget(MAX_ENCODED_BYTES)
        self._decode_threads = decode_threads
        # Not a ThreadPoolExecutor: the interpreter waits for its threads at exit, and one may hang in native code.
        self._chunks: queue.SimpleQueue[deque[tuple[ClaimedJob, bytes | None]] | None] = queue.SimpleQueue()
        self._finished: queue.SimpleQueue[list[FinishedJob]] = queue.SimpleQueue()
        self._stop_claiming = threading.Event()
        self._claims_ended = threading.Event()
        self._may_claim = threading.Event()  # set when the other workers on this host know of this one
        self._suspended: bool | None = None  # None until the first claim is answered
        self.ended = threading.Event()
        self.supervisor = Supervisor(components.metrics, clock=monotonic)
        self.watchdog = Watchdog(
            self.supervisor,
            inflight=components.inflight,
            keeper=components.keeper,
            stuck_after_s=stuck_after_s,
            clock=monotonic,
        )

    def start(self) -> None:
        """Start the threads and return."""
        self.supervisor.start("leases", self._lease_loop)
        self.supervisor.start("claim", self._claim_loop)
        for number in range(self._decode_threads):
            name = f"decode-{number}"
            self.supervisor.start(name, functools.partial(self._decode_loop, name))
        # One thread per concurrent engine call. On a GPU a second call overlaps the copy of its pixels with the batch
        # before; on a CPU the results of one batch are made while the next one runs. A model that is swapped in runs on
        # the same kind of engine, so it has the same number.
        for number in range(self._components.active_models.current.stable.engine.max_concurrency):
            name = f"infer-{number}" if number else "infer"
            self.supervisor.start(name, functools.partial(self._infer_loop, name))
        self.supervisor.start("finish", self._finish_loop)

    def drain(self) -> None:
        """Claim no more jobs, finish those that are held, then end."""
        self._stop_claiming.set()
        self._may_claim.set()

    def abandon(self) -> int:
        """Give back all jobs that are held, at once; how many there were.

        The threads may go on for a while, without effect: a job can't be finished without its lease.
        """
        self.drain()
        # A claim in progress would bring jobs that are not given back. It takes no longer than this.
        self._claims_ended.wait(2 * IDLE_WAIT_S)
        return self._components.keeper.release()

    @property
    def idle(self) -> bool:
        """True while no job is held."""
        return len(self._components.inflight) == 0

    @property
    def suspended(self) -> bool:
        """True while an operator has suspended the workers with `rq suspend`."""
        return bool(self._suspended)

    def ready_problem(self) -> str | None:
        """None while jobs are claimed and their results can be written, else why not."""
        problem = self.watchdog.ready_problem() or self.supervisor.redis_problem()
        if problem is not None:
            return problem
        if self._stop_claiming.is_set():
            return "the worker is draining: it claims nothing more"
        if self._suspended is None:
            return "Redis has not answered the first claim yet"
        return "workers are suspended: rq resume" if self._suspended else None

    # claim ──────────────────────────────────────────────────────────────────────────────────────────

    def _claim_loop(self) -> None:
        self._may_claim.wait()
        inflight = self._components.inflight
        while not self._stop_claiming.is_set():
            self.supervisor.heartbeat("claim")
            free_jobs = self._capacity - inflight.wait_below(self._capacity, IDLE_WAIT_S)
            free_bytes = self._encoded.wait_for_capacity(IDLE_WAIT_S)
            if free_jobs <= 0 or free_bytes <= 0 or self._stop_claiming.is_set():  # it was told to stop while it waited
                continue
            try:
                self._claim_once(min(free_jobs, self._max_batch), max_bytes=free_bytes)
            except redis.exceptions.RedisError as error:
                self.supervisor.redis_unavailable("claim", error)
        self._claims_ended.set()
        self._batcher.drain()
        for _ in range(self._decode_threads):
            self._chunks.put(None)

    def _claim_once(self, limit: int, *, max_bytes: int) -> None:
        idle = self.idle  # read before the claim: a job that is put back after it must not be overlooked
        with self.supervisor.calling_redis("claim"):
            claim = self._components.claimer.claim(limit, max_bytes=max_bytes)
        if claim.suspended != self.suspended:
            log.warning("workers are suspended: rq resume" if claim.suspended else "workers are resumed")
        self._suspended = claim.suspended
        self._components.inflight.add([job.lease for job in claim.jobs])
        images = self._images(claim.jobs)
        self._encoded.take(sum(map(_size_bytes, images)))
        jobs = list(zip(claim.jobs, images, strict=True))
        if jobs:
            self._batcher.reserve(len(jobs))
            self._engine_clock.observe_queue(is_idle=False)
        # One chunk of jobs per thread: to hand over single jobs would cost more than decoding a small image.
        for first in range(min(self._decode_threads, len(jobs))):
            self._chunks.put(deque(jobs[first :: self._decode_threads]))
        if claim.jobs or claim.cut_short:
            return
        if self._burst and idle:
            self.drain()
        elif claim.suspended or self._burst:
            self._stop_claiming.wait(0.05 if self._burst else IDLE_WAIT_S)
        else:
            with self.supervisor.calling_redis("claim"):
                self._components.claimer.wait(IDLE_WAIT_S)

    def _images(self, jobs: Sequence[ClaimedJob]) -> list[bytes | None]:
        """Try until it succeeds: this worker holds the jobs by now, and no other would answer them."""
        while True:
            try:
                with self.supervisor.calling_redis("claim"):
                    return self._components.claimer.images(jobs)
            except redis.exceptions.RedisError as error:
                self.supervisor.redis_unavailable("claim", error)

    # decode ─────────────────────────────────────────────────────────────────────────────────────────

    def _decode_loop(self, name: str) -> None:
        while True:
            self.supervisor.wait_for_work(name)
            chunk = self._chunks.get()
            if chunk is None:
                return
            self._decode_chunk(chunk, name)

    def _decode_chunk(self, chunk: deque[tuple[ClaimedJob, bytes | None]], name: str) -> None:
        while chunk:
            claimed, image = chunk.popleft()  # so that its bytes are freed when it is decoded, not with the whole chunk
            self.watchdog.working_on(name, (claimed.lease,))
            try:
                admitted = self._admit(claimed)
                item = None if admitted is None else self._decoded(admitted, image)
            finally:
                self._encoded.give_back(_size_bytes(image))
            if item is None:
                self._batcher.cancel()
                self._engine_clock.observe_queue(is_idle=self._batcher.is_empty)
                continue
            comparison = item.comparison
            if comparison is None or comparison.pixels is not None or image is None or chunk:
                self._batcher.add(item)  # nothing is left to decode for a comparison, or there is no time for it
                continue
            comparison.is_decoding = True
            self._batcher.add(item)
            decode_for_comparison(comparison, image, camera=item.admitted.job.camera)

    def _admit(self, claimed: ClaimedJob) -> AdmittedJob | None:
        """Check a claimed job; None if it was refused or answered here."""
        try:
            admitted = admit(claimed, max_attempts=self._max_attempts)
        except Exception as error:  # BadJob, or a bug: the jobs claimed with it must not be lost
            self._refuse(claimed, error)
            return None
        try:
            self._components.server_clock.check(admitted.job.captured_at, admitted.job.deadline_at)
        except BadJob as error:
            result = self._components.active_models.current.stable.decider.impossible(
                admitted, error, finished_at=self._clock()
            )
            self._finished.put([FinishedJob(claimed, Disposition.SUCCESS, result)])
            return None
        return admitted

    def _decoded(self, admitted: AdmittedJob, image: bytes | None) -> Decoded | None:
        """Decode a job for its model; None if it was answered without the model."""
        route = self._components.active_models.current.route(admitted.job)
        try:
            needs_s = self._latency.estimate_from_decode(route.model.cost, waiting=len(self._batcher))
            if self._misses_deadline(admitted, needs_s):
                self._finished.put([self._expired(admitted, route.model.decider)])
                return None
            cache_key = self._components.cache.key(admitted.job, image, route)
            if cache_key is not None and (known := self._components.cache.get(cache_key)) is not None:
                result = route.model.decider.classified(
                    admitted, known, timings=StageTimings(), finished_at=self._clock()
                )
                self._finished.put([FinishedJob(admitted.claimed, Disposition.SUCCESS, result)])
                return None
            item = decode(admitted, image, route, cache_key=cache_key)
        except BadImage as error:
            result = route.model.decider.rejected(admitted, error, timings=StageTimings(), finished_at=self._clock())
            self._finished.put([FinishedJob(admitted.claimed, Disposition.SUCCESS, result)])
        except Exception as error:  # a bug, or no memory: it affects this job alone, and the next attempt may succeed
            log.exception("decoding job %.200r failed", admitted.job.job_id)
            self._finished.put([self._retry_or_fail(admitted, error, route.model.decider)])
        else:
            self._latency.observe_decode(item.decode_ms / 1000)
            return item
        return None

    def _refuse(self, claimed: ClaimedJob, error: Exception) -> None:
        trace = None if isinstance(error, BadJob) else error
        log.error("job %.200r is failed unread: %s", claimed.lease.job_id, error, exc_info=trace)
        self._components.metrics.refused.inc()
        self._finished.put([FinishedJob(claimed, Disposition.FAILURE, None, f"{type(error).__name__}: {error}")])

    # batch, infer, decide ───────────────────────────────────────────────────────────────────────────

    def _infer_loop(self, name: str) -> None:
        compares = name == "infer"  # only the first thread
        while not (self._claims_ended.is_set() and self.idle):
            self.supervisor.heartbeat(name)
            if not compares and self._components.active_models.current.canary is not None:
                # The thread that compares has the engines to itself: a batch beside it could miss its deadlines.
                self.ended.wait(IDLE_WAIT_S)
                continue
            compares_now = compares and self._comparer.ready and not self._batcher.is_busy
            batch = self._next_batch(0.0 if compares_now else IDLE_WAIT_S)
            if batch is not None:
                self.watchdog.working_on(name, [item.admitted.claimed.lease for item in batch.items])
                self._run(batch)
                self._batcher.mark_done(batch)  # also if none of its items went to the model
            if compares:
                self._comparer.step(spare_s=self._batcher.spare_s())
        if compares:
            self._comparer.skip_all()

    def _next_batch(self, timeout_s: float) -> Batch | None:
        self._engine_clock.observe_queue(is_idle=self._batcher.is_empty)
        return self._batcher.take(timeout_s)

    def _run(self, batch: Batch) -> None:
        items: list[Decoded] = []
        finished: list[FinishedJob] = []
        model = batch.items[0].model  # all items of a batch are for one model
        needs_s = self._latency.estimate_from_batch(
            model.cost, images=len(batch.items), others_wait=len(self._batcher) > 0
        )
        for item in sorted(batch.items, key=_slot_index):
            if item.admitted.claimed.lease not in self._components.inflight:
                continue  # its lease was lost while it waited: another worker has it, and the lease thread counted it
            if self._misses_deadline(item.admitted, needs_s):
                finished.append(self._expired(item.admitted, item.model.decider, decode_ms=item.decode_ms))
            else:
                items.append(item)
        predictions: list[Prediction] = []
        if items:
            decided, predictions = self._run_items(items, batch)
            finished += decided
        model.buffer.give_back(item.slot for item in batch.items)
        self._observe_margins(finished)
        self._finished.put(finished)
        self._comparer.offer(predictions)

    def _run_items(self, items: Sequence[Decoded], batch: Batch) -> tuple[list[FinishedJob], list[Prediction]]:
        """Run the items and decide. If the engine takes two calls, another thread brings its batch meanwhile."""
        self._engine_clock.entered()
        started_at = time.monotonic()
        with self._latency.running(items[0].model.cost, images=len(items)):
            predictions = self._predict(items, functools.partial(self._batcher.on_ready_for_next, batch))
        self._engine_clock.left()
        self._batcher.mark_done(batch)
        infer_s, finished_at = time.monotonic() - started_at, self._clock()
        self._components.metrics.batch_size.observe(len(items))
        self._components.metrics.batches.labels(batch.reason).inc()
        decided = [
            self._decide(prediction, started_at=started_at, infer_s=infer_s, finished_at=finished_at)
            for prediction in predictions
        ]
        return decided, predictions

    def _predict(self, items: Sequence[Decoded], on_ready_for_next: Callable[[], None]) -> list[Prediction]:
        model = items[0].model
        images = model.buffer.as_batch([item.slot for item in items])
        outputs = infer(images, model.engine, on_ready_for_next=on_ready_for_next)
        predictions, fault = retry_on_stable_model(map(Prediction, items, outputs))
        if fault is not None:
            self._components.comparisons.failed(fault.canary, fault.error)
        return predictions

    def _decide(self, prediction: Prediction, *, started_at: float, infer_s: float, finished_at: float) -> FinishedJob:
        item, output = prediction
        admitted, decider = item.admitted, item.model.decider
        if isinstance(output, EngineFailed):
            return self._retry_or_fail(admitted, output, decider)
        if item.cache_key is not None and item.comparison is None:
            self._components.cache.add(item.cache_key, output)
        timings = StageTimings(item.decode_ms, (started_at - item.ready_at) * 1000, infer_s * 1000)
        result = decider.classified(admitted, output, timings=timings, finished_at=finished_at)
        return FinishedJob(admitted.claimed, Disposition.SUCCESS, result)

    def _observe_margins(self, finished: Sequence[FinishedJob]) -> None:
        for each in finished:
            if each.result is not None and each.result.deadline_margin_ms is not None:
                self._comparer.headroom.observe(each.result.deadline_margin_ms / 1000)

    def _misses_deadline(self, admitted: AdmittedJob, needs_s: float) -> bool:
        return admitted.job.deadline_at is not None and self._clock() + needs_s > admitted.job.deadline_at

    def _expired(self, admitted: AdmittedJob, decider: Decider, decode_ms: float | None = None) -> FinishedJob:
        result = decider.expired(admitted, timings=StageTimings(decode_ms), finished_at=self._clock())
        return FinishedJob(admitted.claimed, Disposition.SUCCESS, result)

    def _retry_or_fail(self, admitted: AdmittedJob, error: Exception, decider: Decider) -> FinishedJob:
        text = "".join(traceback.format_exception(error))
        if admitted.claimed.retries_left > 0:
            self._components.metrics.retried.inc()
            return FinishedJob(admitted.claimed, Disposition.RETRY, None, text)
        result = decider.failed(admitted, error, timings=StageTimings(), finished_at=self._clock())
        return FinishedJob(admitted.claimed, Disposition.FAILURE, result, text)

    # finish ─────────────────────────────────────────────────────────────────────────────────────────

    def _finish_loop(self) -> None:
        while not (self._claims_ended.is_set() and self.idle):
            self.supervisor.heartbeat("finish")
            batch = self._next_finished()
            if batch:
                self._finish(batch)
        self.ended.set()

    def _next_finished(self) -> list[FinishedJob]:
        """The jobs that wait to be finished, at most FINISH_MAX and a batch; empty if there are none for a while."""
        batch: list[FinishedJob] = []
        with contextlib.suppress(queue.Empty):
            batch += self._finished.get(timeout=IDLE_WAIT_S)
            while len(batch) < FINISH_MAX:
                batch += self._finished.get_nowait()
        return batch

    def _finish(self, batch: Sequence[FinishedJob]) -> None:
        leases = [finished.claimed.lease for finished in batch]
        self._components.inflight.finishing(leases)
        started = time.perf_counter()
        while True:
            try:
                with self.supervisor.calling_redis("finish"):
                    held = self._components.finisher.finish(batch)
                break
            except redis.exceptions.RedisError as error:
                self.supervisor.redis_unavailable("finish", error)
        self._components.metrics.observe_finish(time.perf_counter() - started)
        written = [job.result for job, ours in zip(batch, held, strict=True) if ours and job.result is not None]
        self._components.metrics.observe_results(written)
        for lease, ours in zip(leases, held, strict=True):
            if not ours and lease in self._components.inflight:
                self._components.metrics.leases_lost.inc()  # if it is not in flight, the lease thread has counted it
        self._components.inflight.remove(leases)

    # leases ─────────────────────────────────────────────────────────────────────────────────────────

    def _lease_loop(self) -> None:
        while not self.ended.is_set():
            self.supervisor.heartbeat("leases")
            try:
                with self.supervisor.calling_redis("leases"):
                    self._keep_leases()
            except redis.exceptions.RedisError as error:
                self.supervisor.redis_unavailable("leases", error)
            self._may_claim.set()  # also if Redis is unavailable: leases tell of a dead worker too, only later
            self.ended.wait(self._keep_interval_s)
        # Jobs that were taken back while the last job was being finished: nobody is left here to answer them.
        with contextlib.suppress(redis.exceptions.RedisError):  # then their leases expire
            self._components.keeper.release()
            self._components.keeper.unregister()

    def _keep_leases(self) -> None:
        if self.watchdog.check():
            self.drain()
            self.watchdog.give_back()
        for lease in self._components.keeper.renew():
            log.warning("lease of job %.200r was lost; another worker has the job now", lease.job_id)
            self._components.metrics.leases_lost.inc()
        if self._stop_claiming.is_set():
            return  # a job that is taken back now would wait until this worker ends
        requeued, exhausted = self._components.keeper.reap()
        self._components.metrics.redelivered.inc(requeued + len(exhausted))
        for claimed in exhausted:
            self._give_up(claimed)

    def _give_up(self, claimed: ClaimedJob) -> None:
        admitted = self._admit(claimed)
        if admitted is None:
            return
        died = EngineFailed(f"given up after {admitted.attempt} attempts: the worker died or lost its lease in each.")
        decider = self._components.active_models.current.stable.decider
        result = decider.failed(admitted, died, timings=StageTimings(), finished_at=self._clock())
        self._finished.put([FinishedJob(claimed, Disposition.FAILURE, result, str(died))])


def _size_bytes(image: bytes | None) -> int:
    return len(image or b"")


def _slot_index(item: Decoded) -> int:
    """Sorts a batch in the order of its slots, so that the engine can read it as one array."""
    index = item.slot.index
    return -1 if index is None else index
