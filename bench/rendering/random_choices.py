"""Random choices that can be repeated one by one.

Each property of a frame (its bottle, cap, strip, belt, …) draws from a stream of its own, so that a frame with a cap
and the same frame without one differ in nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Range = tuple[float, float]


class Choices:
    """One stream of random choices."""

    def __init__(self, key: Sequence[int]) -> None:
        self._key = tuple(key)
        self.generator = np.random.default_rng(self._key)

    def stream(self, name: str) -> Choices:
        """A stream of its own for a property. It depends on the name, and not on what was drawn before."""
        return Choices([*self._key, digest(name)])

    def between(self, bounds: Range) -> float:
        """A number between two bounds, all equally likely."""
        return float(self.generator.uniform(*bounds))

    def whole(self, low: int, high: int) -> int:
        """A whole number, both bounds included."""
        return int(self.generator.integers(low, high + 1))

    def one_of(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.generator.integers(len(options)))]

    def happens(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.generator.random() < probability)


def digest(name: str) -> int:
    """A number for a name, the same in each process."""
    return zlib.crc32(name.encode())
