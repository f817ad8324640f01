"""Estimates how many images per second a worker can sort, at any load, from what it has measured.

The rate at which it sorts shows this only while it is saturated: while more jobs wait than it can take. So:

1. The ceiling is what the running means promise: the model runs full batches, or all decode threads are busy.
2. While the worker is saturated, its capacity is what it sorts per second, as a mean over the last seconds.
3. Later the capacity falls with the ceiling. It rises with it only when another model serves, or slowly. For the
   ceiling also rises when the load falls: then decoding and model no longer compete for the cores.
4. If the worker sorts more than the estimate, the estimate rises to that.
5. Until it is saturated for the first time, the estimate is the ceiling.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from worker.state.batch_cost import BatchCost

# Seconds that the running means cover: some dozen batches, so that it matters little when the last one ended.
_MEAN_S = 15.0
# For how many saturated seconds the ceiling counts when a worker, or a model, is saturated for the first time.
_PRIOR_S = 2.0
# The images may have changed since the worker was saturated last: after an hour, most of a risen ceiling counts.
_FADE_S = 3600.0
# A worker that held no job for a larger part of a window was not saturated, although jobs waited at both ends of it.
_IDLE_SHARE = 0.1
# The rate of the images sorted lately is not compared with the estimate before it covers this time: a single batch
# would count too much.
_SETTLED_S = 5.0
# What was sorted before the ceiling fell below this share of it no longer shows what the worker can do.
_FALLEN = 0.8
# The estimate stays finite and above 0, whatever was measured. No worker claims and finishes more jobs than this.
_LEAST, _MOST = 0.001, 100_000.0


class _RecentMean:
    """A count per second, in which time counts less and less with its age."""

    def __init__(self) -> None:
        self.seconds = 0.0  # weighted; at most _MEAN_S
        self.rate = 0.0

    def add(self, count: float, seconds: float) -> None:
        """Add a time of `seconds`, in which `count` were counted."""
        weight_s = _MEAN_S * -math.expm1(-seconds / _MEAN_S)
        kept_s = self.seconds * math.exp(-seconds / _MEAN_S)
        self.rate = (self.rate * kept_s + count / seconds * weight_s) / (kept_s + weight_s)
        self.seconds = kept_s + weight_s

    def restart(self, rate: float) -> None:
        """Start again, as if the rate had been `rate` for _PRIOR_S."""
        self.rate, self.seconds = rate, _PRIOR_S


class CapacityEstimator:
    """Knows what one worker can do. The finish thread counts, another one observes and reads; see the module."""

    def __init__(
        self,
        *,
        queues: Sequence[str],
        max_batch: int,
        decode_threads: int,
        bulk_share: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the arguments.

        Args:
            queues: those that the worker serves, the most urgent first.
            max_batch: the most images in a batch.
            decode_threads: how many images are decoded at once.
            bulk_share: the share that the other queues get although the most urgent one has jobs.
            clock: monotonic seconds.
        """
        self._queues = list(queues)
        self._max_batch, self._decode_threads, self._bulk_share = max_batch, decode_threads, bulk_share
        self._clock = clock
        self._lock = threading.Lock()
        # Of the window since the last `observe`:
        self._since = clock()
        self._sorted: Counter[str] = Counter()  # by queue
        self._idle_s = 0.0
        self._had_backlog = False  # at its beginning
        self._urgent = _RecentMean()  # images of the most urgent queue, sorted per second
        # Images sorted per second since the worker was saturated last, and the ceiling when that time began.
        self._served, self._served_under = _RecentMean(), math.inf
        # Images sorted per second while the worker was saturated, the ceiling at that time, and the time since then.
        self._saturated, self._promised = _RecentMean(), _RecentMean()
        self._unsaturated_s = 0.0
        self._model: BatchCost | None = None
        self._measured: BatchCost | None = None  # of the last model that has run a full batch

    def count_sorted(self, queue: str, images: int) -> None:
        """Count images that went through the model, and whose results are written."""
        with self._lock:
            self._sorted[queue] += images

    def add_idle(self, seconds: float) -> None:
        """Note that the worker held no job for `seconds`."""
        with self._lock:
            self._idle_s += seconds

    def observe(self, cost: BatchCost, *, decode_s: float, has_backlog: bool) -> None:
        """End a window, about a second, and learn from it.

        Args:
            cost: of the model that serves now; another one's is another object.
            decode_s: seconds to decode one image, a running mean.
            has_backlog: whether jobs wait now that the worker could not take.
        """
        with self._lock:
            now = self._clock()
            window_s, self._since = now - self._since, now
            images, urgent = self._sorted.total(), self._sorted[self._queues[0]]
            was_idle = self._idle_s > _IDLE_SHARE * window_s
            is_saturated = self._had_backlog and has_backlog and not was_idle
            self._sorted.clear()
            self._idle_s, self._had_backlog = 0.0, has_backlog
            if window_s <= 0:
                return
            ceiling = self._ceiling(cost, decode_s)
            self._follow_model(cost, ceiling)
            self._urgent.add(urgent, window_s)
            if is_saturated:
                self._learn(images, window_s, ceiling)
            else:
                self._count_served(images, window_s, ceiling)
                self._raise(ceiling)

    def discard_window(self) -> None:
        """Start a new window without learning from the last one: the worker could not, or was not to, do its best."""
        with self._lock:
            self._since = self._clock()
            self._sorted.clear()
            self._idle_s, self._had_backlog = 0.0, False

    def images_per_s(self, cost: BatchCost, *, decode_s: float) -> float:
        """Images per second that the worker can sort; finite, and above 0. `cost`, `decode_s`: as for `observe`."""
        with self._lock:
            ceiling = self._ceiling(cost, decode_s)
            self._follow_model(cost, ceiling)
            estimate = self._estimate(ceiling)
            if self._served.seconds >= _SETTLED_S:
                estimate = max(estimate, self._served.rate)
            return min(_MOST, max(_LEAST, estimate))

    def by_queue(self, images_per_s: float) -> dict[str, float]:
        """What a worker of this capacity can do for each of its queues.

        The most urgent queue can have all of it. The others get what that queue has left lately, or else their share.
        """
        urgent, *others = self._queues
        with self._lock:
            left = max(self._bulk_share * images_per_s, images_per_s - self._urgent.rate)
        return {urgent: images_per_s} | dict.fromkeys(others, left)

    def _ceiling(self, cost: BatchCost, decode_s: float) -> float:
        decode_rate = self._decode_threads / decode_s if decode_s > 0 else math.inf
        return min(_MOST, max(_LEAST, min(self._model_rate(cost), decode_rate)))

    def _model_rate(self, cost: BatchCost) -> float:
        """Images per second in batches of the best size. For a model that has run no full batch yet, as many more than
        single images as the model before it gained from full batches."""
        size = self._max_batch
        if cost.is_measured(size):
            self._measured = cost
            size = cost.best_size(size)
        before = self._measured
        batch_s = cost.mean(size)
        if before is not None and before is not cost and (single_s := before.mean(1)) > 0:
            batch_s = cost.mean(1) * before.mean(size) / single_s
        return size / batch_s if batch_s > 0 else math.inf

    def _estimate(self, ceiling: float) -> float:
        if not self._saturated.seconds:
            return ceiling
        ratio = ceiling / self._promised.rate
        if ratio > 1:
            ratio = 1 + (ratio - 1) * -math.expm1(-self._unsaturated_s / _FADE_S)
        return self._saturated.rate * ratio

    def _follow_model(self, cost: BatchCost, ceiling: float) -> None:
        """Another model serves: what was learned about the worker is carried over by the ratio of the ceilings."""
        if self._model is not cost and self._saturated.seconds:
            self._anchor(self._saturated.rate * ceiling / self._promised.rate, ceiling)
        if self._model is not cost:
            self._served = _RecentMean()
        self._model = cost

    def _count_served(self, images: int, window_s: float, ceiling: float) -> None:
        if not self._served.seconds or ceiling < _FALLEN * self._served_under:
            self._served, self._served_under = _RecentMean(), ceiling
        self._served.add(images, window_s)
        self._unsaturated_s += window_s

    def _learn(self, images: int, window_s: float, ceiling: float) -> None:
        if not self._saturated.seconds:
            self._anchor(ceiling, ceiling)
        self._saturated.add(images, window_s)
        self._saturated.rate = max(_LEAST, self._saturated.rate)
        self._promised.add(ceiling * window_s, window_s)
        self._served = _RecentMean()
        self._unsaturated_s = 0.0

    def _raise(self, ceiling: float) -> None:
        """The worker sorts more than the estimate, e.g. as the images have become smaller: then it can do that."""
        served, estimate = self._served, self._estimate(ceiling)
        if self._saturated.seconds and served.seconds >= _SETTLED_S and served.rate > estimate:
            efficiency = self._saturated.rate / self._promised.rate
            self._anchor(served.rate, min(ceiling, served.rate / efficiency))

    def _anchor(self, rate: float, ceiling: float) -> None:
        self._saturated.restart(rate)
        self._promised.restart(ceiling)
