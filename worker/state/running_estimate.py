"""A running estimate of a duration, a bit pessimistic: its mean and a multiple of how far measurements exceed it."""

from __future__ import annotations

# How many mean excesses the estimate lies above the mean. A job that is only just in time by the mean would be late
# half of the time, and a late result has wasted the engine. The excess is about 0.4 standard deviations of an even
# noise, so about one measurement in twenty is longer than the estimate.
EXCESSES = 4.0
# A measurement counts as at most this many times the mean: one stall of the machine says little about the next time.
# What really has become slower is believed after a few measurements.
MOST = 2.0
# So many first measurements count by their median: the first one may be of a cold start, or of a stall, which says
# little about the time that follows.
_FIRST = 5


class RunningEstimate:
    """Mean and mean excess of the measurements, the latest ones with most weight. All are 0 until the first one.

    Of the first few measurements the median is the mean; of two, the shorter one. Short measurements don't add to the
    excess, so that an estimate falls as soon as things get faster.
    """

    __slots__ = ("_excess", "_first", "_weight", "mean")

    def __init__(self, *, weight: float) -> None:
        """`weight` is that of a new measurement."""
        self._weight = weight
        self.mean = 0.0
        self._excess = 0.0
        self._first: list[float] = []  # the first measurements, sorted

    def observe(self, seconds: float) -> None:
        """Add a measurement."""
        if len(self._first) < _FIRST:
            self._begin(seconds)
            return
        error = min(seconds, MOST * self.mean) - self.mean
        self.mean += self._weight * error
        self._excess += self._weight * (max(0.0, error) - self._excess)

    def _begin(self, seconds: float) -> None:
        first = self._first = sorted([*self._first, seconds])
        self.mean = first[(len(first) - 1) // 2]
        above = (min(each, MOST * self.mean) - self.mean for each in first if each > self.mean)
        self._excess = sum(above) / len(first)

    def scale(self, factor: float) -> None:
        """Multiply the estimate."""
        self.mean *= factor
        self._excess *= factor
        self._first = [each * factor for each in self._first]

    @property
    def high(self) -> float:
        """The estimate: most measurements are shorter."""
        return self.mean + EXCESSES * self._excess
