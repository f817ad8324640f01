"""How long a model takes for a batch of each size, measured while it runs, and which size pays best."""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Mapping, Set

from worker.state.running_estimate import RunningEstimate

# Weight of a new measurement in the running estimate of its size.
_WEIGHT = 0.2
# Weight of a measurement of another size against an estimate that it shows to be too high: some dozens halve an excess.
_DOUBT_WEIGHT = 0.05
# A larger batch must do this many times the images per second of a smaller one: otherwise its images only wait longer.
_WORTH = 1.02
# The share of the best rate that is enough for a batch that urgent images may have to wait for.
_ENOUGH = 0.9
# A size that might pay better is tried again after so many batches of other sizes: its time may have changed.
_TRY_AFTER = 2000


class CostTable:
    """What a batch of each size costs, as it was known at one moment: it never changes. `BatchCost` has the rules."""

    def __init__(self, measured: Mapping[int, tuple[float, float]], *, tried: Set[int] = frozenset()) -> None:
        """Both by the largest size that shares them: mean and estimate, and which ones were measured lately."""
        self._measured = measured
        self._tried = tried
        # What was worked out so far: a batch is planned with many lookups. Two threads may work out the same.
        self._estimates: dict[int, tuple[float, float]] = {}
        self._best: dict[int, tuple[int, int, int]] = {}

    def is_measured(self, size: int) -> bool:
        """Whether a batch of about `size` was measured."""
        return _bucket(size) in self._measured

    def estimate(self, size: int) -> float:
        """Seconds that a batch of `size` hardly ever exceeds; 0 while nothing is known."""
        return self._known(size)[1]

    def mean(self, size: int) -> float:
        """Seconds that a batch of `size` takes on average; 0 while nothing is known."""
        return self._known(size)[0]

    def best_size(self, most: int) -> int:
        """The size up to `most` with the most images per second: the smallest one that is not clearly worse.

        `most` while nothing is known.
        """
        return self._sizes(most)[0]

    def size_to_try(self, most: int) -> int:
        """As `best_size`, or a larger power of two that could be better and was not measured lately."""
        return self._sizes(most)[1]

    def short_size(self, most: int) -> int:
        """The smallest size with nearly the best rate, or a size to try: others wait for the end of this batch."""
        return self._sizes(most)[2]

    def _sizes(self, most: int) -> tuple[int, int, int]:
        sizes = self._best.get(most)
        if sizes is None:
            sizes = self._best[most] = self._find_sizes(most) if self._measured else (most, most, most)
        return sizes

    def _find_sizes(self, most: int) -> tuple[int, int, int]:
        best, best_rate = 1, 0.0
        for size in sizes_up_to(most):
            rate = size / max(self.mean(size), 1e-9)
            if rate > _WORTH * best_rate:
                best, best_rate = size, rate
        for size in sizes_up_to(most):
            least_s = max((mean for seen, (mean, _) in self._measured.items() if seen < size), default=0.0)
            is_power = not size & (size - 1)
            if is_power and size > best and _bucket(size) not in self._tried and size > _WORTH * best_rate * least_s:
                return best, size, size
        enough = _ENOUGH * best / max(self.mean(best), 1e-9)
        short = next(size for size in sizes_up_to(most) if size >= enough * self.mean(size))
        return best, best, short

    def _known(self, size: int) -> tuple[float, float]:
        known = self._estimates.get(size)
        if known is None:
            known = self._estimates[size] = self._look_up(size)
        return known

    def _look_up(self, size: int) -> tuple[float, float]:
        """Mean and estimate: measured, or else the lowest of the bounds."""
        bucket = _bucket(size)
        measured = self._measured.get(bucket)
        if measured is not None:
            return measured
        bounds: list[tuple[float, float]] = []
        smaller: list[tuple[int, float, float]] = []
        for seen, (mean, high) in sorted(self._measured.items()):
            if seen > bucket:
                bounds.append((mean, high))
                break
            smaller.append((seen, mean, high))
            batches = math.ceil(size / seen)
            bounds.append((mean * batches, high * batches))
        if len(smaller) > 1:
            slope = max(
                (mean_after - mean) / (seen_after - seen)
                for (seen, mean, _), (seen_after, mean_after, _) in itertools.pairwise(smaller)
            )
            seen, mean, high = smaller[-1]
            more_s = max(0.0, slope) * (size - seen)
            bounds.append((mean + more_s, high + more_s))
        return min(bounds, key=lambda bound: bound[1], default=(0.0, 0.0))


class BatchCost:
    """A running estimate of the seconds per batch, for each batch size.

    An estimate that is too high would stay for ever where it makes images expire, since then no batch of that size runs
    and is measured. So it also falls with the measurements of other sizes: a batch costs at most as much as a larger
    one, and at most as much as the smaller ones that its images would fill. These bounds are also the estimate of a
    size that was never measured. It is assumed too that a further image costs no more than the costliest one so far:
    otherwise large batches would seem to take so long that they are never tried.

    Large sizes share an estimate with a few neighbors. For any thread. Whoever compares several figures takes `table`
    once: another thread may add a measurement between two reads, and then the figures would contradict each other.
    """

    def __init__(self) -> None:
        self._measured: dict[int, RunningEstimate] = {}  # by the largest size that shares the estimate
        self._last: dict[int, int] = {}  # the number of the batch that measured it last
        self._count = 0
        self._lock = threading.Lock()
        self.table = CostTable({})  # what is known now; each measurement replaces it

    def observe(self, size: int, seconds: float) -> None:
        """Add a measurement: a batch of `size` took `seconds`."""
        bucket = _bucket(size)
        with self._lock:
            estimate = self._measured.setdefault(bucket, RunningEstimate(weight=_WEIGHT))
            estimate.observe(seconds)
            for other, doubted in self._measured.items():
                high, bound = doubted.high, max(estimate.high, seconds) * math.ceil(other / size)
                if high > bound and other != bucket:
                    doubted.scale(1 - _DOUBT_WEIGHT * (high - bound) / high)
            self._count += 1
            self._last[bucket] = self._count
            tried = frozenset(each for each, last in self._last.items() if self._count - last <= _TRY_AFTER)
            measured = {each: (known.mean, known.high) for each, known in self._measured.items()}
            self.table = CostTable(measured, tried=tried)

    def is_measured(self, size: int) -> bool:
        """As `CostTable.is_measured`, by what is known now."""
        return self.table.is_measured(size)

    def estimate(self, size: int) -> float:
        """As `CostTable.estimate`, by what is known now."""
        return self.table.estimate(size)

    def mean(self, size: int) -> float:
        """As `CostTable.mean`, by what is known now."""
        return self.table.mean(size)

    def best_size(self, most: int) -> int:
        """As `CostTable.best_size`, by what is known now."""
        return self.table.best_size(most)

    def size_to_try(self, most: int) -> int:
        """As `CostTable.size_to_try`, by what is known now."""
        return self.table.size_to_try(most)

    def short_size(self, most: int) -> int:
        """As `CostTable.short_size`, by what is known now."""
        return self.table.short_size(most)


@functools.cache
def sizes_up_to(most: int) -> tuple[int, ...]:
    """The sizes that are compared, smallest first: the powers of two, and `most`."""
    powers = itertools.takewhile(lambda size: size < most, (1 << bit for bit in itertools.count()))
    return (*powers, most)


def _bucket(size: int) -> int:
    """The largest of the sizes that share an estimate: all up to 8 have their own, and four for each power of two."""
    step = 1 << max(0, (size - 1).bit_length() - 3)
    return -(-size // step) * step
