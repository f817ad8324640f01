"""The policies that `bench policies` compares, beside each other in virtual time: which images run when.

A policy is told of each image when it arrives, and is asked for a batch whenever the engine is free. It names the batch
that starts now, and the images that it gives up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Arrival(NamedTuple):
    """One image: when it was captured, which is when it arrives, and when its result is needed. Virtual seconds."""

    number: int
    at: float
    deadline_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The batch that starts now, if any, the images that are given up, and when to ask again if nothing happens."""

    batch: Sequence[Arrival] = ()
    given_up: Sequence[Arrival] = ()
    ask_at: float = math.inf


class Policy(Protocol):
    """Decides which images run when. Times are virtual seconds; `now` never falls."""

    def arrive(self, image: Arrival, *, now: float) -> None:
        """An image has arrived."""

    def decide(self, *, now: float) -> Decision:
        """The engine is free: what now?"""

    def end(self, *, now: float) -> None:
        """The batch of the last decision has ended."""


class Fifo:
    """Runs what waits, oldest first, up to `max_batch`, as soon as the engine is free. Gives nothing up."""

    def __init__(self, *, max_batch: int) -> None:
        self._max_batch = max_batch
        self._waiting: deque[Arrival] = deque()

    def arrive(self, image: Arrival, *, now: float) -> None:
        """It waits."""
        self._waiting.append(image)

    def decide(self, *, now: float) -> Decision:
        """The oldest images."""
        return Decision(batch=self._take())

    def end(self, *, now: float) -> None:
        """Nothing to note."""

    def _take(self) -> list[Arrival]:
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_batch))]


class FixedBatch(Fifo):
    """Waits for a full batch, but no longer than a fixed time after the oldest image's arrival. Gives nothing up.

    So TensorFlow Serving batches (`max_batch_size`, `batch_timeout_micros`), Triton's dynamic batcher
    (`preferred_batch_size`, `max_queue_delay_microseconds`), and celery-batches (`flush_every`, `flush_interval`, whose
    timer, unlike the others', also runs while nothing waits).
    """

    def __init__(self, *, max_batch: int, linger_s: float) -> None:
        super().__init__(max_batch=max_batch)
        self._linger_s = linger_s

    def decide(self, *, now: float) -> Decision:
        """The oldest images, if they are a full batch or the oldest has waited for long enough."""
        if not self._waiting:
            return Decision()
        starts_at = self._waiting[0].at + self._linger_s
        if len(self._waiting) < self._max_batch and now < starts_at:
            return Decision(ask_at=starts_at)
        return Decision(batch=self._take())
