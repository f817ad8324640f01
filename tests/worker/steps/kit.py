"""Shared by the batcher's tests: a clock that the test moves, and short ways to take batches and look at them."""

from __future__ import annotations

from worker.steps.batch import Batcher
from worker.steps.work import Batch

WALL = 1_700_000_000.0


class Clock:
    """Monotonic seconds that advance by `step_s` with each call."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now = 100.0
        self._step_s = step_s

    def __call__(self) -> float:
        self.now += self._step_s
        return self.now


def batcher(clock: Clock, *, max_batch: int = 4, linger_s: float = 0.010, wall: float = WALL) -> Batcher:
    return Batcher(max_batch=max_batch, linger_s=linger_s, clock=clock, wall_clock=lambda: wall)


def through(box: Batcher) -> Batch | None:
    """Take a batch and mark it done at once."""
    batch = box.take(0.0)
    if batch is not None:
        box.mark_done(batch)
    return batch


def names(batch: Batch | None) -> list[str]:
    assert batch is not None, "no batch"
    return [item.admitted.job.job_id for item in batch.items]
