"""Estimates how many seconds a job still needs, from what the steps took lately: can it be answered in time?

Jobs leave a queue oldest first, so under overload the jobs at its head are always about to expire. If the worker ran
each of them until its deadline, nearly all would be late. Giving some up a little earlier leaves time for those behind.

All estimates are a bit pessimistic (`RunningEstimate`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.state.batch_cost import BatchCost, CostTable, sizes_up_to
from worker.state.running_estimate import RunningEstimate
from worker.state.shortest_budget import ShortestBudget

# Time reserved for deciding and finishing when a batch starts at the last moment for its deadline.
FINISH_MARGIN_S = 0.005
# A worker that has run no batch for so long tries whatever comes, whatever the estimates say: that costs nothing, and
# a worker that was slow notices that it has recovered.
TRY_AFTER_S = 0.1
# Weight of a new time in the running estimates: a few dozen images, so that one odd frame changes little.
_WEIGHT = 0.05
# A worker holds as many images as its engine can run in this time, beside those of the batches and of the decoding:
# claims, threads and results take time too.
_AROUND_S = 0.010


class _StepTime:
    """How long a step takes: for images of the most urgent queue, for those of the others, and for all of them.

    Each has its own estimate: large bulk images must not let the small ones of a line seem hopeless. 0 until the first
    measurement of its kind.
    """

    def __init__(self) -> None:
        self.all = RunningEstimate(weight=_WEIGHT)
        self.urgent = RunningEstimate(weight=_WEIGHT)
        self.others = RunningEstimate(weight=_WEIGHT)

    def of(self, *, urgent: bool) -> RunningEstimate:
        return self.urgent if urgent else self.others

    def observe(self, seconds: float, *, urgent: bool) -> None:
        self.all.observe(seconds)
        self.of(urgent=urgent).observe(seconds)

    @property
    def high(self) -> float:
        """An image of any queue hardly ever takes longer."""
        return max(self.urgent.high, self.others.high)


class LatencyEstimator:
    """Knows how long claims, decoding and batches take on one worker, and which batches run now. For any thread.

    `urgent` says whether an image is of the most urgent queue.
    """

    def __init__(self, *, max_batch: int, decode_threads: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_batch = max_batch
        self._decode_threads = decode_threads
        self._clock = clock
        self._decode = _StepTime()  # of one image
        self._claim = _StepTime()  # of one claim, until its images are there
        self._budget = ShortestBudget()
        self._least_s = 0.0  # what a job needs on an idle worker, as far as that is known
        self._ends_at: dict[object, float] = {}  # when each running batch ends; they run one after the other
        self._last_started_at = self._last_ended_at = float("-inf")  # of the batch that ended last
        self._lock = threading.Lock()

    @property
    def decode_s(self) -> float:
        """Seconds that decoding an image of any queue takes on average; 0 while nothing is known."""
        with self._lock:
            return self._decode.all.mean

    def observe_decode(self, seconds: float, *, urgent: bool = True) -> None:
        """Add a measurement: an image took this long to decode."""
        with self._lock:
            self._decode.observe(seconds, urgent=urgent)

    def observe_claim(self, seconds: float, *, urgent: bool = True) -> None:
        """Add a measurement: it took this long to claim jobs and to fetch the images of such a queue."""
        with self._lock:
            self._claim.observe(seconds, urgent=urgent)

    def observe_budget(self, seconds: float) -> None:
        """Note a job's time from its capture to its deadline, also of a job that expires.

        One that even an idle worker could not keep is ignored: no batch should be smaller because of it.
        """
        with self._lock:
            if seconds >= self._least_s:
                self._budget.observe(seconds, now=self._clock())

    @contextmanager
    def running(self, cost: BatchCost, *, images: int, since: float | None = None) -> Iterator[None]:
        """A batch of `images` runs inside the block. Its cost counts from the end of the batch before it.

        `since` is the monotonic time from which the engine could have run it; now unless given. What the worker does
        between two batches is thus a part of their cost.
        """
        key = object()
        with self._lock:
            now = self._clock()
            started = now if since is None else min(now, since)
            self._ends_at[key] = now + self._free_in_s(now) + cost.estimate(images)
        try:
            yield
        finally:
            with self._lock:
                del self._ends_at[key]
                ended = self._clock()
                began, ended_before = self._last_started_at, self._last_ended_at
                self._last_started_at, self._last_ended_at = started, ended
            if began <= started:  # else a later batch has overtaken this one, and the times don't show its cost
                cost.observe(images, ended - max(started, ended_before))

    def free_in_s(self) -> float:
        """Seconds until the model has finished all running batches."""
        with self._lock:
            return self._free_in_s(self._clock())

    @property
    def tries(self) -> bool:
        """Whether the model has been idle for so long that any image is tried, whatever the estimates say."""
        with self._lock:
            return self._tries(self._clock())

    def estimate_from_claim(self, cost: BatchCost, *, undecoded: int, decoded: int) -> float:
        """Seconds to the result of an urgent job that is claimed now, if these urgent images go before it."""
        table = cost.table
        held = undecoded + decoded
        with self._lock:
            now = self._clock()
            if not held and self._tries(now):
                return 0.0
            free_s = self._free_in_s(now)
            ready_s = self._ready_s() + undecoded * self._decode.urgent.mean / self._decode_threads
            self._least_s = self._ready_s() + table.estimate(1) + FINISH_MARGIN_S
        if not held and not free_s:
            return ready_s + table.estimate(1) + FINISH_MARGIN_S
        ahead_s, rest = self._batches_s(table, held)
        own_s = max(table.estimate(rest + 1), self._own_batch_s(table, ready_s=ready_s))
        wait_s = free_s + ahead_s
        if ready_s > wait_s:  # decoding takes longer than what goes before it: another batch runs when it is decoded
            wait_s = ready_s + table.mean(min(held, table.best_size(self._max_batch)) or 1)
        return wait_s + own_s + FINISH_MARGIN_S

    def estimate_from_decode(self, cost: BatchCost, *, waiting: int, urgent: bool = True) -> float:
        """Seconds to the result of an image that isn't decoded yet, behind `waiting` decoded images."""
        table = cost.table
        with self._lock:
            now = self._clock()
            if not waiting and self._tries(now):
                return 0.0
            free_s, decode_s = self._free_in_s(now), self._decode.of(urgent=urgent).high
        ahead_s, rest = self._batches_s(table, waiting)
        return max(decode_s, free_s + ahead_s) + table.estimate(rest + 1) + FINISH_MARGIN_S

    def estimate_from_batch(self, cost: BatchCost, *, images: int) -> float:
        """Seconds to the results of a batch of `images` that is the next to start."""
        return self.free_in_s() + cost.estimate(images) + FINISH_MARGIN_S

    def busy_s(self, cost: BatchCost) -> float:
        """Seconds from the claim of an urgent job to its result on a busy worker: another batch has just started.

        0 while nothing is known.
        """
        table = cost.table
        with self._lock:
            ready_s = self._ready_s()
        running_s = table.estimate(table.best_size(self._max_batch))
        if not running_s:
            return 0.0
        return max(ready_s, running_s) + self._own_batch_s(table, ready_s=ready_s) + FINISH_MARGIN_S

    def enough_held(self, cost: BatchCost, *, engine_calls: int = 1) -> int | None:
        """How many images keep the engine and the decode threads busy; None while nothing is known.

        They are the running batches, one for each call that the engine takes at once, the next one, and what the engine
        runs while one more image is claimed and decoded. Whatever waits beyond that ages here, where no other worker
        can take it.
        """
        table = cost.table
        best = table.best_size(self._max_batch)
        if not table.mean(best):
            return None
        to_try = table.size_to_try(self._max_batch)
        if not 0 < self._budget.seconds < table.estimate(to_try):
            best = to_try
        rate = best / table.mean(best)
        with self._lock:
            ready_s = self._claim.high + self._decode.high + _AROUND_S
            if self._decode.all.mean:
                rate = min(rate, self._decode_threads / self._decode.all.mean)
        return (engine_calls + 1) * best + math.ceil(ready_s * rate)

    def _batches_s(self, cost: CostTable, images: int) -> tuple[float, int]:
        """How long whole batches of so many images take, and how many images are left for another batch."""
        if not images:
            return 0.0, 0
        best = cost.best_size(self._max_batch)
        batches, rest = divmod(images, best)
        return batches * cost.mean(best), rest

    def _own_batch_s(self, cost: CostTable, *, ready_s: float) -> float:
        """The time of the batch in which a job runs that is claimed under load: the best one that deadlines allow.

        A job that had to run alone to be in time would take the time in which a whole batch might run.
        """
        own_s, budget_s = cost.estimate(1), self._budget.seconds
        for size in sizes_up_to(cost.size_to_try(self._max_batch)):
            batch_s = cost.estimate(size)
            if ready_s + 2 * batch_s + FINISH_MARGIN_S <= budget_s:  # another one of its size may run before it
                own_s = max(own_s, batch_s)
        return own_s

    def _ready_s(self) -> float:
        """Seconds from the claim of an urgent image until it is decoded, if no other goes before it."""
        return self._claim.urgent.high + self._decode.urgent.high

    def _tries(self, now: float) -> bool:
        return not self._ends_at and now - self._last_ended_at > TRY_AFTER_S

    def _free_in_s(self, now: float) -> float:
        return max(0.0, max(self._ends_at.values(), default=now) - now)
