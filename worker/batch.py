"""Batch: forms batches from decoded items. In: `Decoded`, in any order. Out: `Batch`.

A batch starts when it is full, when waiting longer would cost a deadline, or when its oldest item has
lingered long enough, whichever is first. Items leave by earliest deadline.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from worker.items import Batch, Decoded

# An item without a deadline is placed as if it had this one, so that a stream of urgent items can't
# keep it waiting for ever.
NO_DEADLINE_S = 5.0
# Left over for deciding and finishing when a batch starts at the last moment for its deadline.
FINISH_MARGIN_S = 0.005


class BatchCost:
    """How long the model takes per batch size, learnt as it runs.

    Sizes share an estimate per power of two; an unseen size takes that of the nearest seen one below,
    scaled up, so that a first large batch is not believed to be free, or else that of the nearest above.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def observe(self, size: int, seconds: float) -> None:
        """Learn that a batch of `size` took `seconds`."""
        bucket = _bucket(size)
        before = self._seconds.get(bucket, seconds)
        self._seconds[bucket] = before + 0.2 * (seconds - before)

    def estimate(self, size: int) -> float:
        """Seconds that a batch of `size` will take; 0 while nothing is known."""
        bucket = _bucket(size)
        known = sorted(self._seconds.copy())
        for seen in reversed(known):
            if seen <= bucket:
                return self._seconds[seen] * (bucket / seen)
        return self._seconds[known[0]] if known else 0.0


def _bucket(size: int) -> int:
    return 1 << (size - 1).bit_length()


class Batcher:
    """Where decode threads leave items and the inference thread takes batches.

    All times in here are monotonic: a step of the wall clock must not hold a batch back.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        linger_s: float,
        cost: BatchCost,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_batch = max_batch
        self._linger_s = linger_s
        self._cost = cost
        self._clock = clock
        self._wall_clock = wall_clock
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Decoded]] = []  # (due, running number, item)
        self._order = itertools.count()
        self._draining = False

    def put(self, item: Decoded) -> None:
        """Leave an item for the next batches."""
        now = self._clock()
        deadline_at = item.ticket.job.deadline_at
        due = now + (NO_DEADLINE_S if deadline_at is None else deadline_at - self._wall_clock())
        with self._changed:
            heapq.heappush(self._heap, (due, next(self._order), item))
            self._changed.notify()

    def drain(self) -> None:
        """No more items come soon: hand out what is there without waiting for more."""
        with self._changed:
            self._draining = True
            self._changed.notify()

    def take(self, timeout_s: float) -> Batch | None:
        """The next batch, or None when there is nothing within `timeout_s`."""
        give_up_at = self._clock() + timeout_s
        with self._changed:
            while True:
                reason, start_at = self._why_now()
                if reason is not None:
                    return self._pop(reason)
                now = self._clock()
                if not self._heap and now >= give_up_at:
                    return None
                self._changed.wait(max(0.0, min(start_at, give_up_at if not self._heap else start_at) - now))

    def __len__(self) -> int:
        return len(self._heap)

    def _why_now(self) -> tuple[str | None, float]:
        """The reason to start a batch now, or None and when to look again."""
        count = len(self._heap)
        if count == 0:
            return None, float("inf")
        if count >= self._max_batch:
            return "full", 0.0
        if self._draining:
            return "drain", 0.0
        now = self._clock()
        oldest_ready_at = min(item.ready_at for _, _, item in self._heap)
        linger_until = oldest_ready_at + self._linger_s
        start_by = self._heap[0][0] - self._cost.estimate(count) - FINISH_MARGIN_S
        if now >= linger_until:
            return "linger", 0.0
        if now >= start_by:
            return "deadline", 0.0
        return None, min(linger_until, start_by)

    def _pop(self, reason: str) -> Batch:
        count = min(len(self._heap), self._max_batch)
        return Batch(tuple(heapq.heappop(self._heap)[2] for _ in range(count)), reason)
