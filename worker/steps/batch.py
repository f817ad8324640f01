"""Batch: forms batches from decoded items. In: `Decoded`, in any order. Out: `Batch`.

A batch starts when it is full, when waiting longer would miss a deadline, or when its oldest item has waited for the
linger time, whichever is first. Items leave by earliest deadline. All items of a batch are for one model.

By default no batch waits for images that may never come (`linger_ms` is 0). While the model is busy, items collect by
themselves, and the next batch is formed when the engine can accept one or the model is idle. An idle model waits a
moment for images that are being decoded.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from worker.models.model import Model
from worker.state.jobs import AdmittedJob
from worker.state.latency_estimator import FINISH_MARGIN_S
from worker.steps.work import Batch, Decoded

# An item without a deadline is ordered as if it were due after this time, so that a stream of urgent items can't keep
# it waiting forever.
NO_DEADLINE_S = 5.0
# An item from any queue but the most urgent one is ordered as if it were due this much later.
OTHERS_LATER_S = 1.0
# How long an idle model waits for images that are being decoded: one batch of them is faster than several small ones.
DECODING_WAIT_S = 0.002


class _Waiting(NamedTuple):
    due: float  # monotonic seconds
    number: int  # consecutive, so that items with the same deadline stay in order
    item: Decoded


class _Start(NamedTuple):
    """Whether a model's next batch starts now, and for which reason; else when to check again."""

    reason: str | None
    at: float


class Batcher:
    """The decode threads add items, the inference threads take batches of one model each.

    There are items for more than one model only while a canary is tried and just after a swap. Each model's batch has
    its own reasons to start. Of the batches that may start, the one with the most urgent item goes first.

    All times are monotonic: a step of the wall clock must not delay a batch.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        linger_s: float,
        urgent_queue: str = "",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_batch = max_batch
        self._urgent_queue = urgent_queue
        self._linger_s = linger_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._changed = threading.Condition()
        self._heaps: dict[Model, list[_Waiting]] = {}  # by model; no list is empty
        self._order = itertools.count()
        self._draining = False
        self._decoding_count = 0  # items that were reserved and are being decoded
        # Ids of the batches that were taken and have not ended: in `_running` until the engine can accept the next
        # batch, then in `_finishing`.
        self._running: set[int] = set()
        self._finishing: set[int] = set()
        self._wakes_at: dict[int, float] = {}  # when the threads that wait in `take` wake up by themselves

    def reserve(self, count: int) -> None:
        """Announce `count` items that are about to be decoded. Each must be added or cancelled."""
        with self._changed:
            self._decoding_count += count

    def cancel(self) -> None:
        """A reserved item won't come."""
        with self._changed:
            self._decoding_count -= 1
            if not self._decoding_count:
                self._changed.notify()

    def add(self, item: Decoded) -> None:
        """Add a reserved item to those that wait for a batch of its model."""
        due = self._due(item.admitted)
        with self._changed:
            self._decoding_count -= 1
            heap = self._heaps.setdefault(item.model, [])
            heapq.heappush(heap, _Waiting(due, next(self._order), item))
            if self._wakes_at and (self._draining or self._should_wake(item, heap)):
                self._changed.notify()

    def on_ready_for_next(self, batch: Batch) -> None:
        """The engine can accept its next batch. Release one only if it is full; else collect until this batch ends."""
        with self._changed:
            if id(batch) in self._running:
                self._running.remove(id(batch))
                self._finishing.add(id(batch))
                self._changed.notify()

    def mark_done(self, batch: Batch) -> None:
        """The model has finished this batch. Calling it again changes nothing."""
        with self._changed:
            self._running.discard(id(batch))
            self._finishing.discard(id(batch))
            self._changed.notify()

    def drain(self) -> None:
        """No more items will come: from now on batches start without waiting for more."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Batch | None:
        """The next batch; None if none may start within `timeout_s`."""
        give_up_at = self._clock() + timeout_s
        with self._changed:
            while True:
                starts = {model: self._start(model, heap) for model, heap in self._heaps.items()}
                ready = [model for model, start in starts.items() if start.reason is not None]
                if ready:
                    model = min(ready, key=lambda model: self._heaps[model][0].due)
                    batch = self._pop(model, starts[model].reason or "")
                    self._running.add(id(batch))
                    return batch
                now = self._clock()
                if now >= give_up_at and (self.is_busy or not starts):
                    return None
                wake_at = min((start.at for start in starts.values()), default=give_up_at)
                if self.is_busy:
                    wake_at = give_up_at
                self._wakes_at[threading.get_ident()] = wake_at
                self._changed.wait(max(0.0, wake_at - now))
                del self._wakes_at[threading.get_ident()]

    def count_ahead_of(self, admitted: AdmittedJob) -> int:
        """How many of the waiting items would go before this one."""
        due = self._due(admitted)
        with self._changed:
            return sum(waiting.due <= due for heap in self._heaps.values() for waiting in heap)

    def spare_s(self) -> float:
        """For how many seconds the inference thread could do other work before a waiting item would miss its deadline.

        0 while a batch runs, and while a full batch with a deadline waits: more items are likely to follow it.
        """
        with self._changed:
            heaps = self._heaps.values()
            if self.is_busy or any(len(heap) >= self._max_batch and _has_deadline(heap[0].item) for heap in heaps):
                return 0.0
            cost_s = sum(model.cost.estimate(len(heap)) for model, heap in self._heaps.items()) + FINISH_MARGIN_S
            return min((heap[0].due for heap in heaps), default=float("inf")) - cost_s - self._clock()

    @property
    def is_busy(self) -> bool:
        """Whether a batch that was taken has not ended yet."""
        return bool(self._running or self._finishing)

    @property
    def is_empty(self) -> bool:
        """Whether no item waits and none is being decoded."""
        return not self._decoding_count and not self._heaps

    def __len__(self) -> int:
        return sum(map(len, self._heaps.values()))

    def _due(self, admitted: AdmittedJob) -> float:
        """The monotonic time by which the item should start. Items leave in this order."""
        now, deadline_at = self._clock(), admitted.deadline_at
        longest_s = NO_DEADLINE_S
        if self._urgent_queue and admitted.claimed.lease.queue != self._urgent_queue:
            longest_s += OTHERS_LATER_S
        return now + (longest_s if deadline_at is None else min(longest_s, deadline_at - self._wall_clock()))

    def _start(self, model: Model, heap: list[_Waiting]) -> _Start:
        if self._running:
            # A batch that starts now would only wait in the engine. Meanwhile it could take in no more items, and
            # those that miss their deadlines there would still be run.
            return _Start(None, float("inf"))
        if len(heap) >= self._max_batch:
            return _Start("full", 0.0)
        if self._draining:
            return _Start("drain", 0.0)
        if self._finishing:
            return _Start(None, float("inf"))
        now = self._clock()
        linger_until = min(waiting.item.ready_at for waiting in heap) + self._lingers_s()
        start_by = self._start_by(model, heap)
        if now >= linger_until:
            return _Start("linger", 0.0)
        if now >= start_by:
            return _Start("deadline", 0.0)
        return _Start(None, min(linger_until, start_by))

    def _should_wake(self, item: Decoded, heap: list[_Waiting]) -> bool:
        """Whether a batch may start before the first waiting thread wakes up by itself.

        Waking a thread for each item would cost more than everything else that is done for the item here.
        """
        if self._running:
            return False
        if len(heap) >= self._max_batch:
            return True
        if self._finishing:
            return False
        if self._decoding_count <= 0:
            return True
        starts_at = min(item.ready_at + self._lingers_s(), self._start_by(item.model, heap))
        return starts_at < min(self._wakes_at.values())

    def _lingers_s(self) -> float:
        return max(self._linger_s, DECODING_WAIT_S) if self._decoding_count > 0 else self._linger_s

    def _start_by(self, model: Model, heap: list[_Waiting]) -> float:
        return heap[0].due - model.cost.estimate(len(heap)) - FINISH_MARGIN_S

    def _pop(self, model: Model, reason: str) -> Batch:
        heap = self._heaps[model]
        count = min(len(heap), self._max_batch)
        items = tuple(heapq.heappop(heap).item for _ in range(count))
        if not heap:
            del self._heaps[model]  # a model that was replaced must be freed
        return Batch(items, reason)


def _has_deadline(item: Decoded) -> bool:
    return item.admitted.job.deadline_at is not None
