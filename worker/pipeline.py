"""The way of a job through the worker: claim, decode, batch, infer, decide, finish. Long, to be read on one page.

    claim thread ──▶ decode threads ──▶ batcher ──▶ inference thread(s) ──▶ finish thread
         ▲                                                                       │
         └──────────── room again (`Inflight`) ◀─────────────────────────────────┘
    lease thread: keeps alive what is held, takes back what dead workers held, gives up what hangs (`watchdog`)
    beside it: the follower swaps models (`follow`), the recorder keeps a canary's books (`record`), and upkeep finds
    lost jobs and measures the clock (`upkeep`)

The steps overlap: while one batch is in the model, the next is being decoded, the one after that
claimed, and the results of the one before written. What is held at once is bounded, so that nothing is
claimed that can't start soon. A job belongs to one model from its decoding on (`serving`).

Where it can go wrong, and what becomes of the job:
    claim    not ours, or not JSON      failed, never retried (BadJob)
             impossible times           rejected (BadJob of `ServerClock`)
             deadline out of reach      expired (Outlook)
    decode   not a usable image         rejected (BadImage)
    batch    deadline out of reach now  expired
    infer    engine failed on the item  retried, then failed (EngineFailed); a canary's: answered by the other model
    finish   lease lost                 nothing is written: the job is another worker's
    server away, in any step            wait and go on
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
from worker.models.routing import Slot
from worker.observe.metrics import EngineClock, Metrics
from worker.observe.supervisor import Loops
from worker.observe.watchdog import Watchdog
from worker.rq.leases import REAP_INTERVAL_S, Inflight, LeaseKeeper
from worker.state.byte_budget import Budget
from worker.state.jobs import Batch, Claimed, Decoded, Done, Ending, Ticket
from worker.state.latency_estimator import Outlook
from worker.state.pixel_buffer import BATCHES_HELD
from worker.state.result_cache import ResultCache
from worker.steps.admit import admit
from worker.steps.batch import Batcher
from worker.steps.claim import MAX_ENCODED_BYTES, Claimer
from worker.steps.decide import Decider, Spent
from worker.steps.decode import decode_for_peer, decode_ticket
from worker.steps.finish import Finisher
from worker.steps.infer import Answered, infer, rescue

log = logging.getLogger("sortline.pipeline")

# How long an idle step sleeps before it looks around (for shutdown, and for pushes that don't ring).
IDLE_WAIT_S = 0.5
# Most jobs in one finish step: a bound on how long the server is held.
FINISH_MAX = 64


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pipeline is made of; each part is one step's own."""

    claimer: Claimer
    slot: Slot
    comparisons: Comparisons
    cache: ResultCache
    finisher: Finisher
    keeper: LeaseKeeper
    server_clock: ServerClock
    inflight: Inflight
    metrics: Metrics


class Pipeline:
    """Runs the steps on threads of their own until drained."""

    def __init__(
        self,
        parts: Parts,
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

        `stuck_after_s`, by the clock `monotonic`, is the longest that a thread may be at one image or one batch.
        """
        self._parts = parts
        self._max_batch = max_batch
        self._capacity = BATCHES_HELD * max_batch
        self._max_attempts = max_attempts
        self._keep_interval_s = min(REAP_INTERVAL_S, lease_s / 3)
        self._burst = burst
        self._clock = clock
        self._batcher = Batcher(max_batch=max_batch, linger_s=linger_s)
        self._outlook = Outlook(max_batch=max_batch)
        self._comparer = Comparer(parts.slot, sink=parts.comparisons, max_waiting=self._capacity, metrics=parts.metrics)
        self._engine_clock = EngineClock(parts.metrics.engine_seconds)
        self._encoded = Budget(MAX_ENCODED_BYTES)
        self._decode_threads = decode_threads
        # Not a ThreadPoolExecutor: the interpreter waits for its threads at exit, and one may hang in native code.
        self._hands: queue.SimpleQueue[deque[tuple[Claimed, bytes | None]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[list[Done]] = queue.SimpleQueue()
        self._stop_claiming = threading.Event()
        self._claims_ended = threading.Event()
        self._may_claim = threading.Event()  # not before the other workers on this host know of this one
        self._suspended: bool | None = None  # None until the first claim is answered
        self.ended = threading.Event()
        self.loops = Loops(parts.metrics, clock=monotonic)
        self.watchdog = Watchdog(
            self.loops, inflight=parts.inflight, keeper=parts.keeper, stuck_after_s=stuck_after_s, clock=monotonic
        )

    def start(self) -> None:
        """Start the threads and return."""
        self.loops.start("leases", self._lease_loop)
        self.loops.start("claim", self._claim_loop)
        for number in range(self._decode_threads):
            name = f"decode-{number}"
            self.loops.start(name, functools.partial(self._decode_loop, name))
        # As many as the engine wants: on a GPU one's pixels travel while the other's batch is computed, on a CPU one's
        # results are made meanwhile. A model that is swapped in wants as many, as it runs on the same kind of engine.
        for number in range(self._parts.slot.now.acting.engine.max_concurrency):
            name = f"infer-{number}" if number else "infer"
            self.loops.start(name, functools.partial(self._infer_loop, name))
        self.loops.start("finish", self._finish_loop)

    def drain(self) -> None:
        """Claim nothing more; finish what is held, then end."""
        self._stop_claiming.set()
        self._may_claim.set()

    def abandon(self) -> int:
        """Give back what is held, now; how many jobs that was.

        The threads may go on for a while, to no effect: without its lease a job can't be finished.
        """
        self.drain()
        # A claim under way would bring jobs that are not given back; it takes no longer than this.
        self._claims_ended.wait(2 * IDLE_WAIT_S)
        return self._parts.keeper.release()

    @property
    def idle(self) -> bool:
        """True while no job is held."""
        return len(self._parts.inflight) == 0

    @property
    def suspended(self) -> bool:
        """True while an operator holds the workers with `rq suspend`."""
        return bool(self._suspended)

    def ready_problem(self) -> str | None:
        """None while jobs are claimed and their results can be written, else why not."""
        problem = self.watchdog.ready_problem() or self.loops.server_problem()
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
        inflight = self._parts.inflight
        while not self._stop_claiming.is_set():
            self.loops.beat("claim")
            room = self._capacity - inflight.wait_below(self._capacity, IDLE_WAIT_S)
            room_bytes = self._encoded.wait_for_room(IDLE_WAIT_S)
            if room <= 0 or room_bytes <= 0 or self._stop_claiming.is_set():  # told to stop while it waited
                continue
            try:
                self._claim_once(min(room, self._max_batch), max_bytes=room_bytes)
            except redis.exceptions.RedisError as error:
                self.loops.server_away("claim", error)
        self._claims_ended.set()
        self._batcher.drain()
        for _ in range(self._decode_threads):
            self._hands.put(None)

    def _claim_once(self, limit: int, *, max_bytes: int) -> None:
        idle = self.idle  # asked before the claim: what is put back after it must not be overlooked
        with self.loops.asking("claim"):
            claim = self._parts.claimer.claim(limit, max_bytes=max_bytes)
        if claim.suspended != self.suspended:
            log.warning("workers are suspended: rq resume" if claim.suspended else "workers are resumed")
        self._suspended = claim.suspended
        self._parts.inflight.add([job.lease for job in claim.jobs])
        images = self._images(claim.jobs)
        self._encoded.take(sum(map(_size_bytes, images)))
        jobs = list(zip(claim.jobs, images, strict=True))
        # Dealt out like cards, one hand per thread: handing over single jobs costs more than a small decode.
        if jobs:
            self._batcher.expect(len(jobs))
            self._engine_clock.look(is_idle=False)
        for hand in range(min(self._decode_threads, len(jobs))):
            self._hands.put(deque(jobs[hand :: self._decode_threads]))
        if claim.jobs or claim.cut_short:
            return
        if self._burst and idle:
            self.drain()
        elif claim.suspended or self._burst:
            self._stop_claiming.wait(0.05 if self._burst else IDLE_WAIT_S)
        else:
            with self.loops.asking("claim"):
                self._parts.claimer.wait(IDLE_WAIT_S)

    def _images(self, jobs: Sequence[Claimed]) -> list[bytes | None]:
        """However long it takes: they are held by now, and nobody else would answer them."""
        while True:
            try:
                with self.loops.asking("claim"):
                    return self._parts.claimer.images(jobs)
            except redis.exceptions.RedisError as error:
                self.loops.server_away("claim", error)

    # decode ─────────────────────────────────────────────────────────────────────────────────────────

    def _decode_loop(self, name: str) -> None:
        while True:
            self.loops.rest(name)
            hand = self._hands.get()
            if hand is None:
                return
            self._decode_hand(hand, name)

    def _decode_hand(self, hand: deque[tuple[Claimed, bytes | None]], name: str) -> None:
        while hand:
            claimed, image = hand.popleft()  # so that its bytes go when it is decoded, not with the last of the hand
            self.watchdog.working_on(name, (claimed.lease,))
            try:
                ticket = self._admit(claimed)
                item = None if ticket is None else self._decoded(ticket, image)
            finally:
                self._encoded.give_back(_size_bytes(image))
            if item is None:
                self._batcher.miss()
                self._engine_clock.look(is_idle=self._batcher.is_empty)
                continue
            peer = item.peer
            if peer is None or peer.pixels is not None or image is None or hand:  # nothing to do, or no time for it
                self._batcher.put(item)
                continue
            peer.coming = True
            self._batcher.put(item)
            decode_for_peer(peer, image, camera=item.ticket.job.camera)

    def _admit(self, claimed: Claimed) -> Ticket | None:
        """What is ours and possible; None where the job has its answer."""
        try:
            ticket = admit(claimed, max_attempts=self._max_attempts)
        except Exception as error:  # BadJob, or a bug: those beside it must not be lost with it
            self._refuse(claimed, error)
            return None
        try:
            self._parts.server_clock.check(ticket.job.captured_at, ticket.job.deadline_at)
        except BadJob as error:
            result = self._parts.slot.now.acting.decider.impossible(ticket, error, finished_at=self._clock())
            self._done.put([Done(claimed, Ending.SUCCESS, result)])
            return None
        return ticket

    def _decoded(self, ticket: Ticket, image: bytes | None) -> Decoded | None:
        """What goes to the model; None where the job has its answer without it."""
        route = self._parts.slot.now.route(ticket.job)
        try:
            if self._hopeless(ticket, self._outlook.before_decoding(route.model, waiting=len(self._batcher))):
                self._done.put([self._expired(ticket, route.model.decider)])
                return None
            key = self._parts.cache.key(ticket.job, image, route)
            if key is not None and (row := self._parts.cache.get(key)) is not None:
                result = route.model.decider.classified(ticket, row, spent=Spent(), finished_at=self._clock())
                self._done.put([Done(ticket.claimed, Ending.SUCCESS, result)])
                return None
            item = decode_ticket(ticket, image, route, key=key)
        except BadImage as error:
            result = route.model.decider.rejected(ticket, error, spent=Spent(), finished_at=self._clock())
            self._done.put([Done(ticket.claimed, Ending.SUCCESS, result)])
        except Exception as error:  # a bug or no memory: this job's alone, and it may go well next time
            log.exception("decoding job %.200r failed", ticket.job.job_id)
            self._done.put([self._retry_or_fail(ticket, error, route.model.decider)])
        else:
            self._outlook.decoded(item.decode_ms / 1000)
            return item
        return None

    def _refuse(self, claimed: Claimed, error: Exception) -> None:
        trace = None if isinstance(error, BadJob) else error
        log.error("job %.200r is failed unread: %s", claimed.lease.job_id, error, exc_info=trace)
        self._parts.metrics.refused.inc()
        self._done.put([Done(claimed, Ending.FAILURE, None, f"{type(error).__name__}: {error}")])

    # batch, infer, decide ───────────────────────────────────────────────────────────────────────────

    def _infer_loop(self, name: str) -> None:
        compares = name == "infer"  # the first one alone
        while not (self._claims_ended.is_set() and self.idle):
            self.loops.beat(name)
            if not compares and self._parts.slot.now.trial is not None:
                # What compares versions has their engines to itself: beside a batch it would cost that its deadlines.
                self.ended.wait(IDLE_WAIT_S)
                continue
            compares_now = compares and self._comparer.ready and not self._batcher.is_busy
            batch = self._next_batch(0.0 if compares_now else IDLE_WAIT_S)
            if batch is not None:
                self.watchdog.working_on(name, [item.ticket.claimed.lease for item in batch.items])
                self._run(batch)
                self._batcher.ended(batch)  # also when nothing of it went to the model
            if compares:
                self._comparer.step(spare_s=self._batcher.spare_s())
        if compares:
            self._comparer.drop()

    def _next_batch(self, timeout_s: float) -> Batch | None:
        self._engine_clock.look(is_idle=self._batcher.is_empty)
        return self._batcher.take(timeout_s)

    def _run(self, batch: Batch) -> None:
        items: list[Decoded] = []
        done: list[Done] = []
        model = batch.items[0].model  # a batch is of one model
        needs_s = self._outlook.before_model(model, images=len(batch.items), others_wait=len(self._batcher) > 0)
        for item in sorted(batch.items, key=_where):
            if item.ticket.claimed.lease not in self._parts.inflight:
                continue  # lost while it waited, and counted there: another worker has it
            if self._hopeless(item.ticket, needs_s):
                done.append(self._expired(item.ticket, item.model.decider, decode_ms=item.decode_ms))
            else:
                items.append(item)
        answered: list[Answered] = []
        if items:
            decided, answered = self._run_items(items, batch)
            done += decided
        model.buffer.give_back(item.place for item in batch.items)
        self._observe_margins(done)
        self._done.put(done)
        self._comparer.offer(answered)

    def _run_items(self, items: Sequence[Decoded], batch: Batch) -> tuple[list[Done], list[Answered]]:
        """Where the engine wants two callers, the other brings the next batch while this one's results are made."""
        self._engine_clock.entered()
        started_at = time.monotonic()
        with self._outlook.running(items[0].model, images=len(items)):
            answered = self._answer(items, hungry=functools.partial(self._batcher.hungry, batch))
        self._engine_clock.left()
        self._batcher.ended(batch)
        infer_s, finished_at = time.monotonic() - started_at, self._clock()
        self._parts.metrics.batch_size.observe(len(items))
        self._parts.metrics.batches.labels(batch.reason).inc()
        times: dict[str, float] = {"started_at": started_at, "infer_s": infer_s, "finished_at": finished_at}
        return [self._decide(each, **times) for each in answered], answered

    def _answer(self, items: Sequence[Decoded], *, hungry: Callable[[], None]) -> list[Answered]:
        model = items[0].model
        rows = infer(model.buffer.together([item.place for item in items]), model.engine, hungry=hungry)
        answered, fault = rescue(map(Answered, items, rows))
        if fault is not None:
            self._parts.comparisons.failed(fault.trial, fault.error)
        return answered

    def _decide(self, answered: Answered, *, started_at: float, infer_s: float, finished_at: float) -> Done:
        item, row = answered
        ticket, decider = item.ticket, item.model.decider
        if isinstance(row, EngineFailed):
            return self._retry_or_fail(ticket, row, decider)
        if item.key is not None and item.peer is None:
            self._parts.cache.put(item.key, row)
        spent = Spent(item.decode_ms, (started_at - item.ready_at) * 1000, infer_s * 1000)
        result = decider.classified(ticket, row, spent=spent, finished_at=finished_at)
        return Done(ticket.claimed, Ending.SUCCESS, result)

    def _observe_margins(self, done: Sequence[Done]) -> None:
        for each in done:
            if each.result is not None and each.result.deadline_margin_ms is not None:
                self._comparer.room.observe(each.result.deadline_margin_ms / 1000)

    def _hopeless(self, ticket: Ticket, needs_s: float) -> bool:
        return ticket.job.deadline_at is not None and self._clock() + needs_s > ticket.job.deadline_at

    def _expired(self, ticket: Ticket, decider: Decider, decode_ms: float | None = None) -> Done:
        result = decider.expired(ticket, spent=Spent(decode_ms), finished_at=self._clock())
        return Done(ticket.claimed, Ending.SUCCESS, result)

    def _retry_or_fail(self, ticket: Ticket, error: Exception, decider: Decider) -> Done:
        text = "".join(traceback.format_exception(error))
        if ticket.claimed.retries_left > 0:
            self._parts.metrics.retried.inc()
            return Done(ticket.claimed, Ending.RETRY, None, text)
        result = decider.failed(ticket, error, spent=Spent(), finished_at=self._clock())
        return Done(ticket.claimed, Ending.FAILURE, result, text)

    # finish ─────────────────────────────────────────────────────────────────────────────────────────

    def _finish_loop(self) -> None:
        while not (self._claims_ended.is_set() and self.idle):
            self.loops.beat("finish")
            batch = self._next_done()
            if batch:
                self._finish(batch)
        self.ended.set()

    def _next_done(self) -> list[Done]:
        """What has ended by now, at most FINISH_MAX and a batch; empty when nothing ends for a while."""
        batch: list[Done] = []
        with contextlib.suppress(queue.Empty):
            batch += self._done.get(timeout=IDLE_WAIT_S)
            while len(batch) < FINISH_MAX:
                batch += self._done.get_nowait()
        return batch

    def _finish(self, batch: Sequence[Done]) -> None:
        leases = [done.claimed.lease for done in batch]
        self._parts.inflight.finishing(leases)
        started = time.perf_counter()
        while True:
            try:
                with self.loops.asking("finish"):
                    held = self._parts.finisher.finish(batch)
                break
            except redis.exceptions.RedisError as error:
                self.loops.server_away("finish", error)
        self._parts.metrics.observe_finish(time.perf_counter() - started)
        self._parts.metrics.observe_results(
            [done.result for done, ours in zip(batch, held, strict=True) if ours and done.result is not None]
        )
        for lease, ours in zip(leases, held, strict=True):
            if not ours and lease in self._parts.inflight:
                self._parts.metrics.leases_lost.inc()  # not in flight: the lease thread has counted it
        self._parts.inflight.remove(leases)

    # leases ─────────────────────────────────────────────────────────────────────────────────────────

    def _lease_loop(self) -> None:
        while not self.ended.is_set():
            self.loops.beat("leases")
            try:
                with self.loops.asking("leases"):
                    self._keep_leases()
            except redis.exceptions.RedisError as error:
                self.loops.server_away("leases", error)
            self._may_claim.set()  # also where the server is away: leases tell of a death as well, though later
            self.ended.wait(self._keep_interval_s)
        # What was taken back while the last job was being finished: here is nobody left to answer it.
        with contextlib.suppress(redis.exceptions.RedisError):  # then its lease runs out
            self._parts.keeper.release()
            self._parts.keeper.unregister()

    def _keep_leases(self) -> None:
        if self.watchdog.check():
            self.drain()
            self.watchdog.give_back()
        for lease in self._parts.keeper.renew():
            log.warning("lease of job %.200r was lost; another worker has the job now", lease.job_id)
            self._parts.metrics.leases_lost.inc()
        if self._stop_claiming.is_set():
            return  # a job taken back now would wait for this worker's end
        requeued, exhausted = self._parts.keeper.reap()
        self._parts.metrics.redelivered.inc(requeued + len(exhausted))
        for claimed in exhausted:
            self._give_up(claimed)

    def _give_up(self, claimed: Claimed) -> None:
        ticket = self._admit(claimed)
        if ticket is None:
            return
        died = EngineFailed(f"given up after {ticket.attempt} attempts: the worker died or lost its lease in each.")
        decider = self._parts.slot.now.acting.decider
        result = decider.failed(ticket, died, spent=Spent(), finished_at=self._clock())
        self._done.put([Done(claimed, Ending.FAILURE, result, str(died))])


def _size_bytes(image: bytes | None) -> int:
    return len(image or b"")


def _where(item: Decoded) -> int:
    """Sorts a batch as its pixels lie, so that the engine can take them from there."""
    at = item.place.at
    return -1 if at is None else at
