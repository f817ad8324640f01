"""Sortline's policy for `bench policies`: the worker's own batcher, estimator and rules for giving images up.

In virtual time, without Redis, threads, decoding or leases. Images wait in a queue, oldest first; the worker claims as
many as it may hold. What the steps `claim` and `decode` give up before the batcher is given up here by the same
estimates.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence

import numpy as np

from bench.contenders.batch_policies import Arrival, Decision
from bench.engines.null import null_model
from bench.engines.simulated import BatchTime
from shared.errors import Transient
from shared.schemas import ImageJob
from shared.settings import Settings
from worker.models.loading import as_model
from worker.models.model import Model
from worker.state.jobs import AdmittedJob, ClaimedJob, Lease
from worker.state.latency_estimator import LatencyEstimator
from worker.state.pixel_buffer import BATCHES_HELD, PixelSlot
from worker.steps.batch import Batcher
from worker.steps.work import Batch, Decoded

_SLOT = PixelSlot(np.zeros((1, 1, 3), np.uint8))
_QUEUE = "live"
# If the batcher lets an idle engine wait, it doesn't say for how long: it is asked again after this time.
_ASK_AGAIN_S = 0.001
# The batcher reads its clock a few times for each batch. If it reads it more often, it waits for real time to pass.
_MAX_READINGS = 10_000


class VirtualClock:
    """A clock that is set. Refuses to be read on and on: whoever does that waits for it to move."""

    def __init__(self) -> None:
        self._now = 0.0
        self._readings = 0

    def set(self, now: float) -> None:
        """It is this late now."""
        self._now, self._readings = now, 0

    def __call__(self) -> float:
        """The time that was set."""
        self._readings += 1
        if self._readings > _MAX_READINGS:
            raise Transient("the batcher waits for real time to pass, but this time is virtual: the run is void.")
        return self._now


class SortlinePolicy:
    """The worker's decisions."""

    def __init__(self, settings: Settings, engine: BatchTime) -> None:
        """`engine`: as a worker does at its start, a batch of one image is measured on it."""
        self._clock = VirtualClock()
        self._max_batch = settings.max_batch
        self._most_places = BATCHES_HELD * settings.max_batch
        self._latency = LatencyEstimator(max_batch=settings.max_batch, clock=self._clock)
        self._batcher = Batcher(
            max_batch=settings.max_batch,
            linger_s=settings.linger_ms / 1000,
            urgent_queue=_QUEUE,
            latency=self._latency,
            clock=self._clock,
            wall_clock=self._clock,
        )
        self._model: Model = as_model(null_model(settings), settings, worker="bench")
        self._model.cost.observe(1, engine.seconds(1))
        self._queued: deque[Arrival] = deque()
        self._held = 0
        self._given_up: list[Arrival] = []
        self._arrivals: dict[str, Arrival] = {}  # of the images in the batcher, by job id
        self._batch: Batch | None = None
        self._size = 0
        self._running = contextlib.ExitStack()

    def arrive(self, image: Arrival, *, now: float) -> None:
        """It waits in the queue, and is claimed if the worker may hold more."""
        self._clock.set(now)
        self._queued.append(image)
        self._claim()

    def decide(self, *, now: float) -> Decision:
        """The batcher's next batch, without the images that it would run too late."""
        self._clock.set(now)
        kept = self._start()
        self._claim()  # only now: the engine gets its next batch before the claim step learns that places are free
        if not kept:
            kept = self._start()
        ask_at = now + _ASK_AGAIN_S if len(self._batcher) and not kept else float("inf")
        return Decision(batch=kept, given_up=self._take_given_up(), ask_at=ask_at)

    def _start(self) -> list[Arrival]:
        """Start the next batch and return its images; none if no batch may start."""
        while (batch := self._batcher.take(0.0)) is not None:
            kept = self._keep(batch)
            self._batch, self._size = batch, len(kept)
            if kept:
                running = self._latency.running(self._model.cost, images=len(kept), since=batch.since)
                self._running.enter_context(running)
                return kept
            self._end_batch()
        return []

    def end(self, *, now: float) -> None:
        """The engine's time is measured."""
        self._clock.set(now)
        self._running.close()
        self._end_batch()

    def _end_batch(self) -> None:
        assert self._batch is not None
        self._batcher.mark_done(self._batch)
        self._batch, self._held = None, self._held - self._size

    def _claim(self) -> None:
        """Claim what may be held, and give up what can't be answered in time any more, as the claim and decode do."""
        while self._queued and (free := self._places() - self._held) > 0:
            needs_s = self._latency.estimate_from_claim(self._model.cost, undecoded=0, decoded=len(self._batcher))
            claimed: list[Arrival] = []
            while self._queued and len(claimed) < min(free, self._max_batch):
                image = self._queued.popleft()
                (self._given_up if self._misses(image, needs_s) else claimed).append(image)
            self._latency.observe_claim(0.0)
            for image in claimed:
                self._decode(image)

    def _decode(self, image: Arrival) -> None:
        self._latency.observe_budget(image.deadline_at - image.at)
        admitted = _admitted(image, started_at=self._clock())
        waiting = self._batcher.count_ahead_of(admitted)
        if self._misses(image, self._latency.estimate_from_decode(self._model.cost, waiting=waiting)):
            self._given_up.append(image)
            return
        self._held += 1
        self._arrivals[admitted.job.job_id] = image
        self._batcher.reserve(1)
        self._batcher.add(Decoded(admitted, _SLOT, 0.0, ready_at=self._clock(), model=self._model))

    def _places(self) -> int:
        enough = self._latency.enough_held(self._model.cost)
        return self._most_places if enough is None else min(enough, self._most_places)

    def _keep(self, batch: Batch) -> list[Arrival]:
        """The images that the batch runs. The others, which leave with it, are given up."""
        self._given_up += self._pop(batch.expired)
        self._held -= len(batch.expired)
        return self._pop(batch.items)

    def _pop(self, items: Sequence[Decoded]) -> list[Arrival]:
        return [self._arrivals.pop(item.admitted.job.job_id) for item in items]

    def _misses(self, image: Arrival, needs_s: float) -> bool:
        return self._clock() + needs_s > image.deadline_at

    def _take_given_up(self) -> list[Arrival]:
        given_up, self._given_up = self._given_up, []
        return given_up


def _admitted(image: Arrival, *, started_at: float) -> AdmittedJob:
    job_id = str(image.number)
    fields = {
        "job_id": job_id,
        "line": "bench",
        "camera": "camera-1",
        "frame_id": image.number,
        "encoder_count": None,
        "captured_at": image.at,
        "deadline_at": image.deadline_at,
        "queue": _QUEUE,
        "image_key": "",
        "sha256": "",
        "content_type": "",
        "schema_version": 1,
    }
    claimed = ClaimedJob(
        Lease(_QUEUE, job_id, job_id, started_at),
        data=None,
        enqueued_at=image.at,
        retries_left=0,
        result_ttl_s="",
        failure_ttl_s="",
        extras="",
    )
    return AdmittedJob(claimed, ImageJob.construct_unvalidated(fields), attempt=1)
