"""A worker in virtual time: real batcher, estimator, decode queue and claim share; no threads, no server, no images.

Engine, decoding and claims take the time that a test gives them. Jobs leave the queue in the order in which they came;
as the server does, the claim sets those apart that can't be answered in time.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tests.worker import kit, step_inputs
from tests.worker.steps.kit import WALL
from worker.models.model import Model
from worker.state.claim_share import ClaimShare
from worker.state.decode_queue import DecodeQueue, EncodedJob
from worker.state.jobs import AdmittedJob, Lease
from worker.state.latency_estimator import LatencyEstimator
from worker.state.pixel_buffer import PixelSlot
from worker.steps.batch import Batcher
from worker.steps.claim_limits import claim_bounds, claim_limits
from worker.steps.work import Batch, Decoded

NO_PIXELS = PixelSlot(np.empty((1, 1, 3), np.uint8))


@dataclass(eq=False)
class SimulatedJob:
    """A job, and what became of it."""

    number: int
    queue: str
    arrives_at: float
    deadline: float  # virtual seconds; infinite if there is none
    decoded_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    outcome: str = ""  # sorted, late, expired

    def admitted(self) -> AdmittedJob:
        """As the worker's steps take it."""
        admitted = step_inputs.admitted(str(self.number))
        lease = Lease(self.queue, str(self.number), f"x{self.number}", WALL)
        deadline_at = None if math.isinf(self.deadline) else WALL + self.deadline
        job = admitted.job.model_copy(update={"deadline_at": deadline_at})
        return replace(admitted, claimed=replace(admitted.claimed, lease=lease), job=job)


@dataclass
class Timing:
    """How long everything takes, in seconds."""

    batch_s: Callable[[int], float]  # by its size
    decode_s: float = 0.002
    decode_bulk_s: float | None = None  # as `decode_s` unless given
    claim_s: float = 0.0015  # with the images of the most urgent queue
    fetch_bulk_s: float = 0.0  # the images of the others, after those
    copy_s: float = 0.0  # before a batch can be computed; an engine that takes two calls copies while it computes
    between_s: float = 0.0003  # what the worker does between two batches
    finish_s: float = 0.002


@dataclass
class Simulation:
    """One worker. `run` returns when all jobs are answered.

    What it may claim, batch and give up is decided by the worker's own functions.
    """

    timing: Timing
    max_batch: int = 16
    others_share: float = 0.05
    decode_threads: int = 2
    engine_calls: int = 1
    now: float = 0.0
    batches: list[tuple[float, Batch]] = field(default_factory=list)
    busy: list[tuple[float, float]] = field(default_factory=list)  # from the start of each batch to its end

    def __post_init__(self) -> None:
        def clock() -> float:
            return self.now

        self.model: Model = kit.model()
        self.model.cost.observe(1, self.timing.batch_s(1))  # as `worker.models.loading.measure` does
        self.latency = LatencyEstimator(max_batch=self.max_batch, decode_threads=self.decode_threads, clock=clock)
        self.batcher = Batcher(
            max_batch=self.max_batch,
            linger_s=0.0,
            urgent_queue="live",
            others_share=self.others_share,
            latency=self.latency,
            clock=clock,
            wall_clock=lambda: WALL + self.now,
        )
        self.encoded = DecodeQueue(["live", "bulk"], others_share=self.others_share)
        self.share = ClaimShare(self.others_share, most=self.max_batch)
        self.queues: dict[str, deque[SimulatedJob]] = {"live": deque(), "bulk": deque()}
        self.held: set[int] = set()
        self.jobs: dict[int, SimulatedJob] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._is_claiming = False
        self._decoding = self._running = 0
        self._computes_until = 0.0
        self._polls_at = math.inf

    def run(self, jobs: Sequence[SimulatedJob], *, until: float = math.inf) -> None:
        """Let these jobs arrive, and run until `until` or until nothing happens any more."""
        for job in jobs:
            self.jobs[job.number] = job
            self._at(job.arrives_at, lambda job=job: self.queues[job.queue].append(job))  # type: ignore[misc]
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
            self._go_on()

    def _at(self, at: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(at, self.now), next(self._order), event))

    def _go_on(self) -> None:
        self._claim()
        self._decode()
        self._infer()

    # claim ──────────────────────────────────────────────────────────────────────────────────────────

    def _claim(self) -> None:
        bounds = claim_bounds(
            enough=self.latency.enough_held(self.model.cost, engine_calls=self.engine_calls),
            max_batch=self.max_batch,
            has_others=True,
        )
        live_held = sum(self.jobs[number].queue == "live" for number in self.held)
        limits = claim_limits(bounds, held=len(self.held), urgent_held=live_held, max_batch=self.max_batch)
        limit, max_others = limits
        waits = self.queues["live"] or (self.queues["bulk"] and max_others)
        if self._is_claiming or limit <= 0 or not waits:
            return
        ahead = min(live_held, self.batcher.expected_count)
        undecoded = min(ahead, self.batcher.decoding_count)
        needs_s = self.latency.estimate_from_claim(self.model.cost, undecoded=undecoded, decoded=ahead - undecoded)
        first = self._take("bulk", min(self.share.due(limit), max_others), needs_s)
        live = self._take("live", limit - len(first), needs_s)
        bulk = first + self._take("bulk", min(limit - len(live) - len(first), max_others - len(first)), needs_s)
        self.share.count(
            urgent=len(live), others=len(bulk), ran_empty=len(live) + len(bulk) < limit, others_allowed=max_others > 0
        )
        self.held.update(job.number for job in live + bulk)
        self._is_claiming = True
        self._at(self.now + self.timing.claim_s, lambda: self._claimed(live, bulk))

    def _take(self, queue: str, limit: int, needs_s: float) -> list[SimulatedJob]:
        taken: list[SimulatedJob] = []
        while self.queues[queue] and len(taken) < limit:
            job = self.queues[queue].popleft()
            if job.deadline < self.now + needs_s:
                self.latency.observe_budget(job.deadline - job.arrives_at)
                self._answer(job, "expired")
            else:
                taken.append(job)
        return taken

    def _claimed(self, live: list[SimulatedJob], bulk: list[SimulatedJob]) -> None:
        if live:
            self._hand_on(live, self.timing.claim_s, urgent=True)
        if not bulk:
            self._is_claiming = False
            return

        def fetched() -> None:
            self._is_claiming = False
            self._hand_on(bulk, self.timing.claim_s + self.timing.fetch_bulk_s, urgent=False)

        self._at(self.now + self.timing.fetch_bulk_s, fetched)

    def _hand_on(self, jobs: list[SimulatedJob], took_s: float, *, urgent: bool) -> None:
        self.latency.observe_claim(took_s, urgent=urgent)
        self.batcher.reserve(len(jobs))
        self.encoded.put([EncodedJob(job.admitted().claimed, None) for job in jobs])

    # decode ─────────────────────────────────────────────────────────────────────────────────────────

    def _decode(self) -> None:
        while self._decoding < self.decode_threads and len(self.encoded):
            claimed = self.encoded.take(0.0)
            assert claimed is not None
            job = self.jobs[int(claimed.claimed.lease.job_id)]
            admitted = job.admitted()
            if not math.isinf(job.deadline):
                self.latency.observe_budget(job.deadline - job.arrives_at)
            waiting = self.batcher.count_ahead_of(admitted)
            is_live = job.queue == "live"
            needs_s = self.latency.estimate_from_decode(self.model.cost, waiting=waiting, urgent=is_live)
            if job.deadline < self.now + needs_s:
                self.batcher.cancel()
                self._end(job, "expired")
                continue
            self._decoding += 1
            bulk_s = self.timing.decode_bulk_s
            seconds = self.timing.decode_s if is_live or bulk_s is None else bulk_s
            self._at(self.now + seconds, functools.partial(self._decoded, job, admitted, seconds))

    def _decoded(self, job: SimulatedJob, admitted: AdmittedJob, seconds: float) -> None:
        self._decoding -= 1
        job.decoded_at = self.now
        self.latency.observe_decode(seconds, urgent=job.queue == "live")
        self.encoded.observe(admitted.claimed, seconds)
        self.batcher.add(Decoded(admitted, NO_PIXELS, 1.0, ready_at=self.now, model=self.model))

    # infer ──────────────────────────────────────────────────────────────────────────────────────────

    def _infer(self) -> None:
        while self._running < self.engine_calls:
            batch, check_at = self.batcher.poll()
            if batch is None:
                if self.now < check_at < self._polls_at:
                    self._polls_at = check_at
                    self._at(check_at, self._forget_poll)
                return
            for item in batch.expired:
                self._end(self._job_of(item), "expired")
            if batch.items:
                self._start(batch)

    def _forget_poll(self) -> None:
        self._polls_at = math.inf

    def _start(self, batch: Batch) -> None:
        self._running += 1
        self.batches.append((self.now, batch))
        for item in batch.items:
            self._job_of(item).started_at = self.now
        running = self.latency.running(self.model.cost, images=len(batch.items), since=batch.since)
        running.__enter__()
        computes_at = max(self.now + self.timing.copy_s, self._computes_until)
        self._computes_until = computes_at + self.timing.batch_s(len(batch.items))
        self.busy.append((self.now, self._computes_until))
        if self.engine_calls > 1:
            self._at(computes_at, lambda: self.batcher.on_ready_for_next(batch))
        self._at(self._computes_until, lambda: self._ended(batch, running.__exit__))

    def _ended(self, batch: Batch, leave: Callable[..., object]) -> None:
        leave(None, None, None)
        self.batcher.mark_done(batch)
        for item in batch.items:
            job = self._job_of(item)
            self._end(job, "sorted" if self.now <= job.deadline else "late")
        self._at(self.now + self.timing.between_s, self._free)

    def _free(self) -> None:
        self._running -= 1

    def _job_of(self, item: Decoded) -> SimulatedJob:
        return self.jobs[int(item.admitted.job.job_id)]

    def _end(self, job: SimulatedJob, outcome: str) -> None:
        self.held.discard(job.number)
        self._answer(job, outcome)

    def _answer(self, job: SimulatedJob, outcome: str) -> None:
        assert not job.outcome, f"job {job.number} is answered twice"
        job.outcome, job.finished_at = outcome, self.now


def arrivals(
    rate_hz: float, seconds: float, *, deadline_s: float, queue: str = "live", gaps: Callable[[], float] = lambda: 1.0
) -> list[SimulatedJob]:
    """Jobs at this rate on average; `gaps` gives the distance to the next one, 1 on average."""
    jobs: list[SimulatedJob] = []
    at = 0.0
    offset = 0 if queue == "live" else 10_000_000
    while at < seconds:
        jobs.append(SimulatedJob(offset + len(jobs), queue, at, at + deadline_s))
        at += gaps() / rate_hz
    return jobs
