"""Estimates how many seconds a job still needs, from what the steps took lately: can it be answered in time?

Jobs leave a queue oldest first, so under overload the jobs at its head are always about to expire. If the worker ran
each of them until its deadline, nearly all would be late. Giving some up a little earlier leaves time for those behind.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.state.batch_cost import BatchCost

# Time reserved for deciding and finishing when a batch starts at the last moment for its deadline.
FINISH_MARGIN_S = 0.005
# Weight of a new decoding time in the running mean: a few dozen images, so that one odd frame changes little.
_WEIGHT = 0.05


class LatencyEstimator:
    """Knows how long decoding and batches take on one worker, and which batches run now. For any thread.

    When the worker is idle the estimates are 0, so that a worker that was slow keeps trying and notices that it has
    recovered.
    """

    def __init__(self, *, max_batch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_batch = max_batch
        self._clock = clock
        self.decode_s = 0.0  # of one image: a running mean
        self._ends_at: dict[int, float] = {}  # when each running batch ends, by thread; they run one after the other
        self._last_started_at = self._last_ended_at = float("-inf")  # of the batch that ended last
        self._lock = threading.Lock()

    def observe_decode(self, seconds: float) -> None:
        """Add a measurement: an image took this long to decode."""
        with self._lock:
            self.decode_s += (seconds - self.decode_s) * (_WEIGHT if self.decode_s else 1.0)

    @contextmanager
    def running(self, cost: BatchCost, *, images: int) -> Iterator[None]:
        """A batch of `images` runs inside the block. Its cost counts from the end of the batch before it."""
        thread = threading.get_ident()
        with self._lock:
            started = self._clock()
            self._ends_at[thread] = started + self._busy_s(started) + cost.estimate(images)
        try:
            yield
        finally:
            with self._lock:
                del self._ends_at[thread]
                ended = self._clock()
                began, ended_before = self._last_started_at, self._last_ended_at
                self._last_started_at, self._last_ended_at = started, ended
            if began <= started:  # else a later batch has overtaken this one, and the times don't show its cost
                cost.observe(images, ended - max(started, ended_before))

    def estimate_from_decode(self, cost: BatchCost, *, waiting: int) -> float:
        """Seconds to the result of an image that isn't decoded yet, behind `waiting` decoded images."""
        with self._lock:
            if not waiting and not self._ends_at:
                return 0.0
            busy_s = self._busy_s(self._clock())
        full, rest = divmod(waiting, self._max_batch)
        batches_s = full * cost.estimate(self._max_batch) + cost.estimate(rest + 1)
        return max(self.decode_s, busy_s) + batches_s + FINISH_MARGIN_S

    def busy_s(self, cost: BatchCost) -> float:
        """Seconds from the claim to the result on a busy worker: behind one full batch, and in another."""
        return self.decode_s + 2 * cost.estimate(self._max_batch) + FINISH_MARGIN_S

    def estimate_from_batch(self, cost: BatchCost, *, images: int, others_wait: bool) -> float:
        """Seconds to the results of a batch of `images` that could start now."""
        with self._lock:
            if images == 1 and not others_wait and not self._ends_at:
                return 0.0
            busy_s = self._busy_s(self._clock())
        return busy_s + cost.estimate(images) + FINISH_MARGIN_S

    def _busy_s(self, now: float) -> float:
        """Seconds until the model has finished all running batches."""
        return max(0.0, max(self._ends_at.values(), default=now) - now)
