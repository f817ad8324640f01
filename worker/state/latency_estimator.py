"""Outlook: can a job still be answered in time? In: what the steps took lately. Out: seconds that it needs from here.

Jobs leave a queue oldest first, so under overload those at its head are always about to expire. Worked on to the last
millisecond, nearly all would be late; given up a little earlier, they leave the time to those behind them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from worker.state.batch_cost import BatchCost

# Left over for deciding and finishing when a batch starts at the last moment for its deadline.
FINISH_MARGIN_S = 0.005
# Of a new decoding time in the running mean: a few dozen images, so that one odd frame doesn't decide.
_WEIGHT = 0.05


class Outlook:
    """What one worker's decoding and model take, and what its model is at. May be asked and told by any thread.

    Where nothing waits and the model is idle it asks for no time at all: trying costs nobody anything then, and what is
    tried is how a worker learns that it has become faster again.
    """

    def __init__(self, *, max_batch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_batch = max_batch
        self._clock = clock
        self.decode_s = 0.0  # of one image, lately
        self._ends_at: dict[int, float] = {}  # of the batches in the model, by thread; each behind those before it
        self._ended_at = self._ended_began = float("-inf")  # of the last one that did
        self._changing = threading.Lock()

    def decoded(self, seconds: float) -> None:
        """An image took this long to decode."""
        self.decode_s += (seconds - self.decode_s) * (_WEIGHT if self.decode_s else 1.0)

    @contextmanager
    def running(self, cost: BatchCost, *, images: int) -> Iterator[None]:
        """A batch of `images` is in the model meanwhile, which learns what it cost: from the end of the one before."""
        thread = threading.get_ident()
        with self._changing:
            started = self._clock()
            self._ends_at[thread] = started + self._busy_s(started) + cost.estimate(images)
        try:
            yield
        finally:
            with self._changing:
                del self._ends_at[thread]
                ended = self._clock()
                began, ended_before = self._ended_began, self._ended_at
                self._ended_began, self._ended_at = started, ended
            if began <= started:  # else one that came later was out sooner, and says nothing of this one
                cost.observe(images, ended - max(started, ended_before))

    def before_decoding(self, cost: BatchCost, *, waiting: int) -> float:
        """Seconds to the result of an image that isn't decoded yet, with `waiting` decoded ones before it."""
        with self._changing:
            if not waiting and not self._ends_at:
                return 0.0
            busy_s = self._busy_s(self._clock())
        full, rest = divmod(waiting, self._max_batch)
        batches_s = full * cost.estimate(self._max_batch) + cost.estimate(rest + 1)
        return max(self.decode_s, busy_s) + batches_s + FINISH_MARGIN_S

    def before_model(self, cost: BatchCost, *, images: int, others_wait: bool) -> float:
        """Seconds to the results of a batch of `images` that could start now."""
        with self._changing:
            if images == 1 and not others_wait and not self._ends_at:
                return 0.0
            busy_s = self._busy_s(self._clock())
        return busy_s + cost.estimate(images) + FINISH_MARGIN_S

    def _busy_s(self, now: float) -> float:
        """Until the model is done with all that is in it."""
        return max(0.0, max(self._ends_at.values(), default=now) - now)
