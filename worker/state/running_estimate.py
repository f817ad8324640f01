"""A running estimate of a duration, a bit pessimistic: its mean and a multiple of how far measurements exceed it."""

from __future__ import annotations

# How many mean excesses the estimate lies above the mean. A job that is only just in time by the mean would be late
# half of the time, and a late result has wasted the engine. The excess is about 0.4 standard deviations of an even
# noise, so about one measurement in twenty is longer than the estimate.
EXCESSES = 4.0
# A measurement counts as at most this many times the mean: one stall of the machine says little about the next time.
# What really has become slower is believed after a few measurements.
MOST = 2.0


class RunningEstimate:
    """Mean and mean excess of the measurements, the latest ones with most weight. All are 0 until the first one.

    Short measurements don't add to the excess, so that an estimate falls as soon as things get faster.
    """

    __slots__ = ("_excess", "_weight", "mean")

    def __init__(self, *, weight: float) -> None:
        """`weight` is that of a new measurement."""
        self._weight = weight
        self.mean = 0.0
        self._excess = 0.0

    def observe(self, seconds: float) -> None:
        """Add a measurement."""
        if not self.mean:
            self.mean = seconds
            return
        error = min(seconds, MOST * self.mean) - self.mean
        self.mean += self._weight * error
        self._excess += self._weight * (max(0.0, error) - self._excess)

    def scale(self, factor: float) -> None:
        """Multiply the estimate."""
        self.mean *= factor
        self._excess *= factor

    @property
    def high(self) -> float:
        """The estimate: most measurements are shorter."""
        return self.mean + EXCESSES * self._excess
