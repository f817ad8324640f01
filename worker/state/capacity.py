"""Estimates how many images per second a worker can sort, at any load, from what it has measured.

The rate at which it sorts shows this only while it is saturated: while more jobs wait than it can take. So:

1. The ceiling is what the running means promise: the model runs batches of its best size, or all decode threads are
   busy.
2. While the worker is saturated, its capacity is what it sorts per second, as a mean over the last seconds.
3. Later the capacity falls with the ceiling. It rises with it only when another model serves, or slowly. For the
   ceiling also rises when the load falls: then decoding and model no longer compete for the cores.
4. If the worker sorts more than the estimate, the estimate rises to that.
5. Until it is saturated for the first time, the estimate is the ceiling.

Answers from the result cache don't need the model. They are left out of all this, or a folder that is uploaded again
and again would show a model as fast as the cache. What the worker can do for a queue is its estimate divided by the
share of the queue's images that need the model, within limits (`by_queue`).
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
# What a queue gains by its cached answers is at most this factor: they too cost the worker and the server something,
# and the next upload may be a new one.
_MOST_GAIN = 4.0
# Images per second that count as new in the share of cached answers. So the share fades once no more come.
_FEW = 0.1
# The estimate stays finite and above 0, whatever was measured. No worker claims and finishes more jobs than this.
_LEAST, _MOST = 0.001, 100_000.0


def has_backlog(*, waiting: int, taken: int, places: int, max_batch: int, is_shedding: bool) -> bool:
    """Whether more images have come than the worker can take, as it stands at this moment.

    Args:
        waiting: jobs on the queue.
        taken: places that jobs take in the worker; a job whose result is only to be written takes none.
        places: how many jobs it takes, enough to keep it busy (`LatencyEstimator.enough_held`).
        max_batch: if as many jobs wait, something else than decoding and model limits the worker: it need not be full.
        is_shedding: whether images expire in the worker, or more arrive than all workers can sort. Deadlines then keep
            the queue short: often no job waits on it.
    """
    is_full = taken >= places - 1  # the last place may be free between two claims
    return waiting >= max_batch or (is_full and (waiting > 0 or is_shedding))


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
        self._cached: Counter[str] = Counter()
        self._expired = 0
        self._idle_s = 0.0
        self._had_backlog = False  # at its beginning
        # Images per second of each queue, sorted by the model, and answered from the result cache.
        self._sorted_rates = {queue: _RecentMean() for queue in self._queues}
        self._cached_rates = {queue: _RecentMean() for queue in self._queues}
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

    def count_cached(self, queue: str, images: int) -> None:
        """Count images that were answered from the result cache, and whose results are written."""
        with self._lock:
            self._cached[queue] += images

    def count_expired(self, images: int) -> None:
        """Count images that the worker could not answer in time."""
        with self._lock:
            self._expired += images

    @property
    def has_expired(self) -> bool:
        """Whether images have expired since the last `observe`."""
        with self._lock:
            return self._expired > 0

    def add_idle(self, seconds: float) -> None:
        """Note that the worker held no job for `seconds`."""
        with self._lock:
            self._idle_s += seconds

    def observe(self, cost: BatchCost, *, decode_s: float, has_backlog: bool) -> None:
        """End a window, about a second, and learn from it.

        Args:
            cost: of the model that serves now; another one's is another object.
            decode_s: seconds to decode one image, a running mean.
            has_backlog: whether more images have come than the worker can take now; see the function of this name.
        """
        with self._lock:
            now = self._clock()
            window_s, self._since = now - self._since, now
            images, by_queue, cached = self._sorted.total(), self._sorted.copy(), self._cached.copy()
            was_idle = self._idle_s > _IDLE_SHARE * window_s
            is_saturated = self._had_backlog and has_backlog and not was_idle
            self._start_window(has_backlog=has_backlog)
            if window_s <= 0:
                return
            ceiling = self._ceiling(cost, decode_s)
            self._follow_model(cost, ceiling)
            for queue in self._queues:
                self._sorted_rates[queue].add(by_queue[queue], window_s)
                self._cached_rates[queue].add(cached[queue], window_s)
            if is_saturated:
                self._learn(images, window_s, ceiling)
            else:
                self._count_served(images, window_s, ceiling)
                self._raise(ceiling)

    def discard_window(self) -> None:
        """Start a new window without learning from the last one: the worker could not, or was not to, do its best."""
        with self._lock:
            self._since = self._clock()
            self._start_window(has_backlog=False)

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
        A queue gains by those of its images that are answered from the result cache: they are counted when they arrive,
        like all others, but need no model.
        """
        urgent, *others = self._queues
        with self._lock:
            left = max(self._bulk_share * images_per_s, images_per_s - self._sorted_rates[urgent].rate)
            rates = {urgent: images_per_s} | dict.fromkeys(others, left)
            return {queue: min(_MOST, rate * self._gain(queue)) for queue, rate in rates.items()}

    def _gain(self, queue: str) -> float:
        """By which factor cached answers raise what can be done for this queue."""
        needs_model, cached = self._sorted_rates[queue].rate + _FEW, self._cached_rates[queue].rate
        return min(_MOST_GAIN, (needs_model + cached) / needs_model)

    def _start_window(self, *, has_backlog: bool) -> None:
        self._sorted.clear()
        self._cached.clear()
        self._expired, self._idle_s, self._had_backlog = 0, 0.0, has_backlog

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
