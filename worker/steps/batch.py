"""Batch: forms batches from decoded items. In: `Decoded`, in any order. Out: `Batch`.

A batch starts when it is full, when waiting longer would cost a deadline, or when its oldest item has
lingered long enough, whichever is first. Items leave by earliest deadline. A batch is of one model.

By default nothing lingers for images that may or may not come: while the model is busy, batches form by
themselves, and the next is made up when the model is hungry again, or done. For images that are just being decoded an
idle model waits a little.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from worker.models.model import Model
from worker.state.latency_estimator import FINISH_MARGIN_S
from worker.steps.work import Batch, Decoded

# An item without a deadline is placed as if it had this one, so that a stream of urgent items can't
# keep it waiting for ever.
NO_DEADLINE_S = 5.0
# How long an idle model waits for images that are being decoded: in pieces, they'd take it longer than together.
DECODING_WAIT_S = 0.002


class _Waiting(NamedTuple):
    due: float  # monotonic seconds
    number: int  # running: items of one deadline stay in order
    item: Decoded


class _Start(NamedTuple):
    """When a model's next batch starts: now, for a reason, or at a time to look again."""

    reason: str | None
    at: float


class Batcher:
    """Where decode threads leave items and the inference threads take batches, each of one model.

    More than one model is in here only while a canary is tried, or just after a swap. Each has its own reasons to
    start; of those that have one, that with the most urgent item goes first.

    All times in here are monotonic: a step of the wall clock must not hold a batch back.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        linger_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_batch = max_batch
        self._linger_s = linger_s
        self._clock = clock
        self._wall_clock = wall_clock
        self._changed = threading.Condition()
        self._heaps: dict[Model, list[_Waiting]] = {}  # none is empty
        self._order = itertools.count()
        self._draining = False
        self._coming = 0  # items that are being decoded
        # Identities of batches that were taken: those that keep the model busy, and those whose last image is in it.
        self._out: set[int] = set()
        self._ending: set[int] = set()
        self._wakes_at: dict[int, float] = {}  # when the threads that wait in `take` look again by themselves

    def expect(self, count: int) -> None:
        """So many items are on their way; each will be put or missed."""
        with self._changed:
            self._coming += count

    def miss(self) -> None:
        """One that was expected won't come."""
        with self._changed:
            self._coming -= 1
            if not self._coming:
                self._changed.notify()

    def put(self, item: Decoded) -> None:
        """Leave an item that was expected for the next batches of its model."""
        now = self._clock()
        deadline_at = item.ticket.job.deadline_at
        due = now + (NO_DEADLINE_S if deadline_at is None else deadline_at - self._wall_clock())
        with self._changed:
            self._coming -= 1
            heap = self._heaps.setdefault(item.model, [])
            heapq.heappush(heap, _Waiting(due, next(self._order), item))
            if self._wakes_at and (self._draining or self._is_sooner(item, heap)):
                self._changed.notify()

    def hungry(self, batch: Batch) -> None:
        """The model would begin with another batch: a full one, as more may come until this one's end."""
        with self._changed:
            if id(batch) in self._out:
                self._out.remove(id(batch))
                self._ending.add(id(batch))
                self._changed.notify()

    def ended(self, batch: Batch) -> None:
        """The model is done with this one; may be said again."""
        with self._changed:
            self._out.discard(id(batch))
            self._ending.discard(id(batch))
            self._changed.notify()

    def drain(self) -> None:
        """No more items come soon: hand out what is there without waiting for more."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> Batch | None:
        """The next batch, or None when there is nothing within `timeout_s`."""
        give_up_at = self._clock() + timeout_s
        with self._changed:
            while True:
                starts = {model: self._start(model, heap) for model, heap in self._heaps.items()}
                ready = [model for model, start in starts.items() if start.reason is not None]
                if ready:
                    model = min(ready, key=lambda model: self._heaps[model][0].due)
                    batch = self._pop(model, starts[model].reason or "")
                    self._out.add(id(batch))
                    return batch
                now = self._clock()
                if now >= give_up_at and (self.is_busy or not starts):
                    return None
                look_again_at = min((start.at for start in starts.values()), default=give_up_at)
                if self.is_busy:
                    look_again_at = give_up_at
                self._wakes_at[threading.get_ident()] = look_again_at
                self._changed.wait(max(0.0, look_again_at - now))
                del self._wakes_at[threading.get_ident()]

    def spare_s(self) -> float:
        """For how long the inference thread could do something else without costing what waits here its deadline.

        Nothing, while another batch is in the model, or a full one with a deadline waits: more of the kind will stand
        behind it.
        """
        with self._changed:
            heaps = self._heaps.values()
            if self.is_busy or any(len(heap) >= self._max_batch and _has_deadline(heap[0].item) for heap in heaps):
                return 0.0
            cost_s = sum(model.cost.estimate(len(heap)) for model, heap in self._heaps.items()) + FINISH_MARGIN_S
            return min((heap[0].due for heap in heaps), default=float("inf")) - cost_s - self._clock()

    @property
    def is_busy(self) -> bool:
        """A batch that was taken has not ended yet."""
        return bool(self._out or self._ending)

    @property
    def is_empty(self) -> bool:
        """Nothing is here, nor on its way."""
        return not self._coming and not self._heaps

    def __len__(self) -> int:
        return sum(map(len, self._heaps.values()))

    def _start(self, model: Model, heap: list[_Waiting]) -> _Start:
        if self._out:  # there it would only wait, take in no more, and what became hopeless would be run all the same
            return _Start(None, float("inf"))
        if len(heap) >= self._max_batch:
            return _Start("full", 0.0)
        if self._draining:
            return _Start("drain", 0.0)
        if self._ending:
            return _Start(None, float("inf"))
        now = self._clock()
        linger_until = min(waiting.item.ready_at for waiting in heap) + self._lingers_s()
        start_by = self._start_by(model, heap)
        if now >= linger_until:
            return _Start("linger", 0.0)
        if now >= start_by:
            return _Start("deadline", 0.0)
        return _Start(None, min(linger_until, start_by))

    def _is_sooner(self, item: Decoded, heap: list[_Waiting]) -> bool:
        """Whether a batch starts sooner than any thread that waits would look.

        Waking one for each item would cost more than all else that is done for the item here.
        """
        if self._out:
            return False
        if len(heap) >= self._max_batch:
            return True
        if self._ending:
            return False
        if self._coming <= 0:
            return True
        starts_at = min(item.ready_at + self._lingers_s(), self._start_by(item.model, heap))
        return starts_at < min(self._wakes_at.values())

    def _lingers_s(self) -> float:
        return max(self._linger_s, DECODING_WAIT_S) if self._coming > 0 else self._linger_s

    def _start_by(self, model: Model, heap: list[_Waiting]) -> float:
        return heap[0].due - model.cost.estimate(len(heap)) - FINISH_MARGIN_S

    def _pop(self, model: Model, reason: str) -> Batch:
        heap = self._heaps[model]
        count = min(len(heap), self._max_batch)
        items = tuple(heapq.heappop(heap).item for _ in range(count))
        if not heap:
            del self._heaps[model]  # a model that was replaced must not be held on to
        return Batch(items, reason)


def _has_deadline(item: Decoded) -> bool:
    return item.ticket.job.deadline_at is not None
