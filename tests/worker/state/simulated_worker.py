"""A worker in virtual time: claims, decodes and batches as the real one does, and feeds a CapacityEstimator."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from worker.rq.capacity_report import OVERLOAD
from worker.state.batch_cost import BatchCost
from worker.state.capacity import CapacityEstimator, has_backlog
from worker.state.latency_estimator import LatencyEstimator
from worker.state.pixel_buffer import BATCHES_HELD

STEP_S = 0.001
MAX_BATCH = 16
CLAIM_S = 0.0015
# Jobs beyond this are dropped, as if their deadlines had passed.
MAX_WAITING = 60
# Seconds that the rate of arrivals covers.
ARRIVALS_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the simulated hardware does: seconds by batch size, and seconds per image, each alone on the machine."""

    batch_s: Callable[[int], float]
    decode_s: float = 0.002
    decode_threads: int = 2
    between_s: float = 0.0  # bookkeeping between two batches, which no running mean contains
    cores: int = 64  # that decoding and model compete for
    model_cores: int = 1  # that the model keeps busy


class SimulatedWorker:
    """Runs in steps of a millisecond. Times are virtual; `served` counts the images that were sorted."""

    def __init__(self, machine: Machine, *, max_waiting: int = MAX_WAITING, are_refused: bool = False) -> None:
        """At most `max_waiting` jobs wait. The others expire, or `are_refused` at the door: no worker sees them."""
        self.machine = machine
        self.now = 0.0
        self.cost = BatchCost()
        self.latency = LatencyEstimator(
            max_batch=MAX_BATCH, decode_threads=machine.decode_threads, clock=lambda: self.now
        )
        self.latency.observe_claim(CLAIM_S)
        self.backlogs: list[bool] = []  # at each report
        self._max_waiting, self._are_refused = max_waiting, are_refused
        self._arrival_rate = 0.0
        self._measure()
        self.served = 0
        self.estimator = CapacityEstimator(
            queues=["live", "bulk"],
            max_batch=MAX_BATCH,
            decode_threads=machine.decode_threads,
            bulk_share=0.05,
            clock=lambda: self.now,
        )
        self._random = random.Random(15)  # reports in step with the batches would see one phase only
        self._due = 0.0  # images that are to arrive
        self._queue = self._encoded = self._decoded = 0
        self._decoding: deque[list[float]] = deque()  # [seconds left, when it began] of each
        self._batch = 0
        self._batch_cost = self.cost  # of the model that the batch is in
        self._batch_left_s = self._batch_began = self._between_s = 0.0
        self._next_report = 1.0
        self._idle_since: float | None = 0.0

    def swap(self, machine: Machine) -> None:
        """Another model serves; of it, only a single image was measured."""
        self.machine, self.cost = machine, BatchCost()
        self.cost.observe(1, machine.batch_s(1))

    def run(self, seconds: float, *, images_per_s: float, burst: int = 1) -> float:
        """Let images arrive for some time, `burst` at once. Returns the estimate at the end of it."""
        end = self.now + seconds
        while self.now < end:
            self.now += STEP_S
            self._due += images_per_s * STEP_S * self._random.uniform(0, 2)
            if self._due >= burst:
                arrived, self._due = int(self._due), self._due % 1
                self._arrive(arrived, most=self._max_waiting + burst - 1)
            self._step()
        return self.estimate

    def _arrive(self, images: int, *, most: int) -> None:
        self._arrival_rate += images / ARRIVALS_S
        taken = max(0, min(images, most - self._queue))
        self._queue += taken
        if taken < images and not self._are_refused:
            self.estimator.count_expired(images - taken)

    def rest(self, seconds: int) -> float:
        """Let time pass without images. Returns the estimate at the end of it."""
        for _ in range(seconds):
            self.now += 1.0
            self.estimator.add_idle(1.0)
            self.estimator.observe(self.cost, decode_s=self.decode_s, has_backlog=False)
        self._next_report = self.now + 1.0
        return self.estimate

    @property
    def estimate(self) -> float:
        return self.estimator.images_per_s(self.cost, decode_s=self.decode_s)

    @property
    def decode_s(self) -> float:
        return self.latency.decode_s

    @property
    def held(self) -> int:
        return self._encoded + len(self._decoding) + self._decoded + self._batch

    def _measure(self) -> None:
        for size in (1, MAX_BATCH):
            self.cost.observe(size, self.machine.batch_s(size))

    @property
    def places(self) -> int:
        """How many jobs it takes, as the claim step has it."""
        enough = self.latency.enough_held(self.cost)
        most = BATCHES_HELD * MAX_BATCH
        return most if enough is None else min(enough, most)

    def _step(self) -> None:
        machine = self.machine
        self._arrival_rate *= 1 - STEP_S / ARRIVALS_S
        claimed = min(self._queue, MAX_BATCH, max(0, self.places - self.held))
        self._queue -= claimed
        self._encoded += claimed
        while self._encoded and len(self._decoding) < machine.decode_threads:
            self._encoded -= 1
            self._decoding.append([machine.decode_s, self.now])
        if not self._batch and self._decoded and self._between_s <= 0:
            self._batch = self.cost.size_to_try(min(self._decoded, MAX_BATCH))
            self._decoded -= self._batch
            self._batch_left_s = machine.batch_s(self._batch) + min(0.0, self._between_s)  # began within the last step
            self._batch_began = self.now + min(0.0, self._between_s)
            self._batch_cost = self.cost
        if self.held and self._idle_since is not None:
            self.estimator.add_idle(self.now - self._idle_since)
            self._idle_since = None
        wanted = len(self._decoding) + (machine.model_cores if self._batch else 0)
        self._work(STEP_S * min(1.0, machine.cores / wanted) if wanted else STEP_S)
        if self.now >= self._next_report:
            self._report()

    def _work(self, work_s: float) -> None:
        # What is left of a step in which a batch ended is not lost, unless nothing waits for the engine.
        self._between_s = self._between_s - work_s if self._between_s > 0 else 0.0
        for image in list(self._decoding):
            image[0] -= work_s
            if image[0] <= 0:
                self._decoding.remove(image)
                self._decoded += 1
                took_s = self.now - image[1] + STEP_S + image[0]  # without the rest of the last step
                self.latency.observe_decode(took_s)
        if self._batch:
            self._batch_left_s -= work_s
            if self._batch_left_s <= 0:
                self._end_batch()

    def _end_batch(self) -> None:
        self._batch_cost.observe(self._batch, self.now - self._batch_began + STEP_S + self._batch_left_s)
        self.estimator.count_sorted("live", self._batch)
        self.served += self._batch
        self._batch, self._between_s = 0, self.machine.between_s + self._batch_left_s
        if not self.held:
            self._idle_since = self.now

    def _report(self) -> None:
        self._next_report += self._random.uniform(0.98, 1.02)
        if self._idle_since is not None and self.now - self._idle_since >= 0.5:  # the finish step waits no longer
            self.estimator.add_idle(self.now - self._idle_since)
            self._idle_since = self.now
        is_overloaded = self._arrival_rate > OVERLOAD * self.estimate
        self.backlogs.append(
            has_backlog(
                waiting=self._queue,
                taken=self.held,
                places=self.places,
                max_batch=MAX_BATCH,
                is_shedding=is_overloaded or self.estimator.has_expired,
            )
        )
        self.estimator.observe(self.cost, decode_s=self.decode_s, has_backlog=self.backlogs[-1])


def true_capacity(machine: Machine) -> float:
    """Images per second that the simulated worker sorts when far more arrive."""
    worker = SimulatedWorker(machine)
    worker.run(5, images_per_s=10_000)
    before = worker.served
    worker.run(30, images_per_s=10_000)
    return (worker.served - before) / 30
