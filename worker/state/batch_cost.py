"""How long a model takes for a batch of each size, measured while it runs."""

from __future__ import annotations

import math

# Weight of a new measurement in the running mean of its size.
_WEIGHT = 0.2
# Weight of a measurement of another size against an estimate that it shows to be too high: some dozens halve an excess.
_DOUBT_WEIGHT = 0.05


class BatchCost:
    """A running mean of the seconds per batch, for each batch size.

    An estimate that is too high would stay for ever where it makes images expire, since then no batch of that size runs
    and is measured. So it also falls with the measurements of other sizes: a batch costs at most as much as a larger
    one, and at most as much as the smaller ones that its images would fill.

    Sizes share an estimate per power of two. An unseen size gets the estimate of the nearest smaller size that was
    seen, scaled up, so that a first large batch does not count as free. Without a smaller one it gets the estimate of
    the nearest larger size.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def observe(self, size: int, seconds: float) -> None:
        """Add a measurement: a batch of `size` took `seconds`."""
        bucket = _bucket(size)
        before = self._seconds.get(bucket, seconds)
        mean = self._seconds[bucket] = before + _WEIGHT * (seconds - before)
        for other, estimate in list(self._seconds.items()):
            excess = estimate - max(mean, seconds) * math.ceil(other / size)
            if excess > 0 and other != bucket:
                self._seconds[other] = estimate - _DOUBT_WEIGHT * excess

    def is_measured(self, size: int) -> bool:
        """Whether a batch of about `size` was measured."""
        return _bucket(size) in self._seconds

    def estimate(self, size: int) -> float:
        """Seconds that a batch of `size` will take; 0 while nothing is known."""
        bucket = _bucket(size)
        seconds = self._seconds.get(bucket)
        if seconds is not None:
            return seconds
        known = sorted(self._seconds.copy())
        for seen in reversed(known):
            if seen < bucket:
                return self._seconds[seen] * (bucket / seen)
        return self._seconds[known[0]] if known else 0.0


def _bucket(size: int) -> int:
    return 1 << (size - 1).bit_length()
