"""Claim: takes jobs off the queues, with a lease each, and fetches their images. Out: jobs for the decode threads."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from shared.settings import Settings
from worker.observe.supervisor import StageThread
from worker.rq.claimer import Claim, Claimer
from worker.state.claim_share import ClaimShare
from worker.state.decode_queue import EncodedJob
from worker.state.jobs import AdmittedJob, ClaimedJob, Lease
from worker.steps.admit import Admission
from worker.steps.claim_limits import ClaimBounds, claim_bounds, claim_limits, max_answered
from worker.steps.decide import Expired, Verdict
from worker.steps.flow import IDLE_WAIT_S, Flow
from worker.steps.suspects import SuspectClaims

log = logging.getLogger("sortline.claim")

# How often a worker that is full of jobs from the other queues looks for an urgent one: about as often as it finishes a
# batch of them.
FULL_WAIT_S = 0.020
# The most jobs that are handed to the finish step at once: its script blocks the server for all of them.
CONCLUDE_MAX = 64


class ClaimStep:
    """Claims as many jobs as the worker can start soon, at most a batch a round.

    The most urgent queue comes first. The other queues may fill the worker, but room for one batch of urgent jobs stays
    reserved, so that these need not wait. The other queues get a small share even if the urgent one never runs empty.

    Jobs that can't be answered in time any more come without their images and are answered here.
    """

    def __init__(
        self,
        flow: Flow,
        claimer: Claimer,
        suspects: SuspectClaims,
        admission: Admission,
        *,
        give_back: Callable[[Sequence[Lease]], int],
        settings: Settings,
        burst: bool,
        stop: threading.Event,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`give_back` gives jobs back to their queues. `burst`: sets `stop` once these are empty and no job is held."""
        self._flow = flow
        self._give_back = give_back
        self._claimer = claimer
        self._suspects = suspects
        self._admission = admission
        self._urgent = settings.queue_names[0]
        self._max_batch = settings.max_batch
        self._has_others = len(settings.queue_names) > 1
        self._share = ClaimShare(settings.bulk_share, most=settings.max_batch)
        self._burst = burst
        self._stop = stop
        self._monotonic = monotonic
        # Claimed jobs whose images are not fetched yet, the urgent ones first. They are kept while Redis is
        # unavailable: this worker holds their leases, so no other would answer them.
        self._without_images: deque[Sequence[ClaimedJob]] = deque()
        self._to_give_back: list[Lease] = []
        self.may_begin = threading.Event()  # set when the other workers on this host know of this one
        self.suspended: bool | None = None  # None until the first claim is answered

    @property
    def is_finished(self) -> bool:
        """Whether this step claims nothing more and has handed on every job that it claimed."""
        return self._stop.is_set() and not (self._without_images or self._to_give_back)

    def __call__(self, thread: StageThread) -> None:
        """Claim if there is capacity, and hand the jobs on with their images."""
        if self._to_give_back:
            self._release(thread)
        if self._without_images:
            self._hand_on(thread)
            return
        thread.wait_for_work()
        if not self.may_begin.wait(IDLE_WAIT_S):
            return
        if self._suspects.has_turn:
            self._claim_suspect(thread)
        else:
            self._claim_others(thread)

    def _claim_suspect(self, thread: StageThread) -> None:
        """Claim a suspect once the worker holds nothing. If the worker crashes then, the suspect is the cause."""
        if self._suspects.is_draining:
            self._give_back_costly(thread)
        wait_s = FULL_WAIT_S if self._suspects.is_draining else IDLE_WAIT_S
        if not self._flow.inflight.wait_empty(wait_s) or self._stop.is_set():
            return
        self._flow.observer.skip_waiting()  # it runs an engine too: a crash in it would be blamed on the suspect
        with thread.calling_redis():
            claim = self._suspects.claim()
        if claim is not None:
            self._take(claim, thread)

    def _give_back_costly(self, thread: StageThread) -> None:
        """Give the waiting costly jobs back, so that other workers can decode them meanwhile.

        Called until the worker is drained, as decode threads may find more of them.
        """
        self._to_give_back += [job.lease for job in self._flow.costly_jobs.take_all()]
        self._release(thread)

    def _release(self, thread: StageThread) -> None:
        with thread.calling_redis():
            self._give_back(self._to_give_back)
        self._to_give_back.clear()

    def _claim_others(self, thread: StageThread) -> None:
        inflight, bounds = self._flow.inflight, self._bounds()
        capacity, room = bounds.capacity, bounds.room
        held = inflight.wait_below(
            capacity + room, IDLE_WAIT_S, of_queue=self._urgent, of_queue_below=capacity, room=room
        )
        if held >= capacity:  # full of other queues' jobs: look for urgent ones only if no place becomes free soon
            held = inflight.wait_below(capacity, FULL_WAIT_S)
        free_bytes = self._flow.encoded_bytes.wait_for_capacity(IDLE_WAIT_S)
        if not inflight.wait_answered_below(max_answered(self._max_batch), IDLE_WAIT_S):
            return
        urgent_held = inflight.count_of(self._urgent)
        limits = claim_limits(bounds, held=held, urgent_held=urgent_held, max_batch=self._max_batch)
        if limits.jobs > 0 and free_bytes > 0 and not self._stop.is_set():  # it may have been told to stop meanwhile
            self._claim(thread, limits.jobs, max_others=limits.max_others, max_bytes=free_bytes)

    def _bounds(self) -> ClaimBounds:
        flow, model = self._flow, self._flow.active_models.current.stable
        return claim_bounds(
            enough=flow.latency.enough_held(model.cost, engine_calls=model.engine.max_concurrency),
            max_batch=self._max_batch,
            has_others=self._has_others,
            costly=len(flow.costly_jobs),
        )

    def _claim(self, thread: StageThread, limit: int, *, max_others: int, max_bytes: int) -> None:
        was_idle = not len(self._flow.inflight)  # read before the claim, or a job that is put back could be overlooked
        others_first = self._share.due(limit)
        needs_s = self._needs_s()
        began = self._monotonic()
        with thread.calling_redis():
            claim = self._claimer.claim(
                limit, max_bytes=max_bytes, max_others=max_others, others_first=others_first, needs_s=needs_s
            )
        self._count_share(claim, limit=limit, max_others=max_others)
        self._take(claim, thread, needs_s=needs_s, took_s=self._monotonic() - began)
        with thread.calling_redis():
            self._suspects.observe(claim, is_idle=was_idle and not claim.expired)
        if not (claim.jobs or claim.expired or claim.cut_short or self._suspects.has_turn):
            self._wait(thread, was_idle=was_idle, is_full=not max_others)

    def _needs_s(self) -> float:
        """Seconds to the result of an urgent job that is claimed now. Of the other queues', only a share goes first."""
        flow = self._flow
        ahead = min(flow.inflight.count_of(self._urgent), flow.batcher.expected_count)
        undecoded = min(ahead, flow.batcher.decoding_count)
        cost = flow.active_models.current.stable.cost
        return flow.latency.estimate_from_claim(cost, undecoded=undecoded, decoded=ahead - undecoded)

    def _take(self, claim: Claim, thread: StageThread, *, needs_s: float = 0.0, took_s: float | None = None) -> None:
        """Hand the urgent jobs on, then answer those that were set apart, then hand the others on.

        In this order, as each step may take long: images of the others may be many megabytes. What an urgent job waits
        for here is what is measured. `took_s`: the seconds that the claim took so far, if they are to be measured.
        """
        if claim.suspended != bool(self.suspended):
            log.warning("workers are suspended: `rq resume` resumes them" if claim.suspended else "workers are resumed")
        self.suspended = claim.suspended
        flow = self._flow
        flow.inflight.add([job.lease for job in (*claim.jobs, *claim.expired)])
        jobs = claim.jobs if self._suspects.has_turn else self._without_suspects(claim.jobs)
        urgent = [job for job in jobs if job.lease.queue == self._urgent]
        others = [job for job in jobs if job.lease.queue != self._urgent]
        self._without_images.extend(group for group in (urgent, others) if group)
        try:
            if urgent:
                self._hand_on_first(thread, took_s, urgent=True)
        finally:  # the server may have gone away meanwhile; these need nothing more of it
            if claim.expired:
                self._expire(claim.expired, needs_s=needs_s)
        if others:
            self._hand_on_first(thread, took_s, urgent=False)

    def _expire(self, jobs: Sequence[ClaimedJob], *, needs_s: float) -> None:
        """Answer jobs that can't be answered in time. They are held until their results are written."""
        flow = self._flow
        flow.server_clock.ensure_measured()
        model, at = flow.active_models.current.stable, flow.clock()
        verdicts: list[Verdict] = []
        for job in jobs:
            admitted = self._admission.check(job)
            if isinstance(admitted, AdmittedJob):
                if admitted.deadline_at is not None:  # a line none of whose images is in time must be known too
                    flow.latency.observe_budget(admitted.deadline_at - admitted.captured_at)
                verdicts.append(Expired(admitted=admitted, model=model, at=at, needs_s=needs_s))
            else:
                verdicts.append(admitted)
        for start in range(0, len(verdicts), CONCLUDE_MAX):
            flow.conclude(verdicts[start : start + CONCLUDE_MAX])

    def _without_suspects(self, jobs: Sequence[ClaimedJob]) -> Sequence[ClaimedJob]:
        """Leave out the suspects among these jobs: they go back to the list of suspects, to be claimed alone.

        Such a suspect was claimed by an earlier call whose answer was lost, or a worker of the previous release has put
        it back on its queue.
        """
        suspects = [job.lease for job in jobs if job.deaths.suspicion is not None]
        if not suspects:
            return jobs
        self._to_give_back += suspects
        return [job for job in jobs if job.deaths.suspicion is None]

    def _count_share(self, claim: Claim, *, limit: int, max_others: int) -> None:
        others = sum(job.lease.queue != self._urgent for job in claim.jobs)
        self._share.count(
            urgent=len(claim.jobs) - others,
            others=others,
            ran_empty=len(claim.jobs) < limit and not claim.expired,
            others_allowed=max_others > 0,
        )

    def _hand_on(self, thread: StageThread) -> None:
        while self._without_images:
            self._hand_on_first(thread, None, urgent=False)

    def _hand_on_first(self, thread: StageThread, took_s: float | None, *, urgent: bool) -> None:
        """Fetch the images of the first group and hand it on. `took_s`: as `_take`; `urgent`: as the group is."""
        flow, jobs, began = self._flow, self._without_images[0], self._monotonic()
        with thread.calling_redis():
            images = self._claimer.images(jobs)
        self._without_images.popleft()
        flow.encoded_bytes.take(sum(len(image or b"") for image in images))
        flow.batcher.reserve(len(jobs))
        flow.engine_clock.observe_queue(is_idle=False)
        flow.encoded_jobs.put([EncodedJob(job, image) for job, image in zip(jobs, images, strict=True)])
        if took_s is not None:
            flow.latency.observe_claim(took_s + self._monotonic() - began, urgent=urgent)

    def _wait(self, thread: StageThread, *, was_idle: bool, is_full: bool) -> None:
        """Wait: the queues are empty, the workers are suspended, or this one is full of jobs that are not urgent."""
        if is_full:  # a place may become free sooner than an urgent job comes
            with thread.calling_redis():
                self._claimer.wait(FULL_WAIT_S, urgent_only=True)
        elif self._burst and was_idle and (self.suspended or not self._suspects.may_wait):
            self._stop.set()
        elif self.suspended or self._burst:
            self._stop.wait(0.05 if self._burst else IDLE_WAIT_S)
        else:
            with thread.calling_redis():
                self._claimer.wait(self._suspects.idle_wait_s(IDLE_WAIT_S))
