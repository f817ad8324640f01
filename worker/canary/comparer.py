"""Compare: runs images that were answered already through a second model too, while a canary is tried.

In: predictions whose results are on their way. Out: `Comparison`s. All of it runs on the first inference thread, which
has the engines to itself while a canary is tried. It runs in slices of a few milliseconds, and only where no deadline
can be missed because of it:
  - after the results of the batch were passed on;
  - while no full batch with a deadline waits, and the waiting items can wait for this slice (`Batcher.spare_s`);
  - while the results of the last seconds had more than twice the slice's time left: a job that arrives while a slice
    runs waits for the slice and then for one batch.
An image that gets no slice is skipped and counted. Without deadlines a busy worker still runs one slice per batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from shared.errors import EngineFailed
from worker.canary.tally import Comparison, ModelAnswer, agree
from worker.models.model import Probabilities
from worker.models.routing import ActiveCanary, ActiveModels
from worker.observe.metrics import Metrics
from worker.steps.infer import infer
from worker.steps.work import ComparisonInput, Decoded

log = logging.getLogger("sortline.compare")

# How long one slice may take. A single image is a slice, however long it takes.
SLICE_S = 0.010
# A deadline that was nearly missed prevents comparisons for this long, or for half of it at least.
HEADROOM_WINDOW_S = 10.0


class Comparisons(Protocol):
    """Takes the comparisons. Neither call blocks."""

    def compared(self, canary: ActiveCanary, comparison: Comparison) -> None:
        """An image was seen by both models."""

    def failed(self, canary: ActiveCanary, error: EngineFailed) -> None:
        """The canary's engine failed on an image that the other model could answer."""


class DeadlineHeadroom:
    """The least time before their deadlines that recent results had left. For any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._least = [float("inf"), float("inf")]  # in the current half of the window, and in the half before
        self._lock = threading.Lock()

    def observe(self, margin_s: float) -> None:
        """Note that a result was made this long before its deadline; negative if it was late."""
        with self._lock:
            self._advance()
            self._least[0] = min(self._least[0], margin_s)

    def has(self, cost_s: float) -> bool:
        """Whether twice `cost_s` of other work would have delayed no recent result past its deadline."""
        with self._lock:
            self._advance()
            return 2 * cost_s < min(self._least)

    def _advance(self) -> None:
        elapsed_s = self._clock() - self._since
        if elapsed_s >= HEADROOM_WINDOW_S / 2:
            before = self._least[0] if elapsed_s < HEADROOM_WINDOW_S else float("inf")
            self._least = [float("inf"), before]
            self._since = self._clock()


class _Waiting(NamedTuple):
    item: Decoded
    output: Probabilities
    comparison: ComparisonInput


class Comparer:
    """Compares for one worker. Its first inference thread runs the slices; the others only offer."""

    def __init__(self, active_models: ActiveModels, *, sink: Comparisons, max_waiting: int, metrics: Metrics) -> None:
        """At most `max_waiting` images wait to be compared."""
        self._active_models = active_models
        self._sink = sink
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self.headroom = DeadlineHeadroom()

    def offer(self, predictions: Iterable[tuple[Decoded, Probabilities | EngineFailed]]) -> None:
        """Take the predictions that need a comparison, to compare them when there is time."""
        for item, output in predictions:
            if item.comparison is None or isinstance(output, EngineFailed):
                continue
            if item.comparison.is_missing or len(self._waiting) >= self._max_waiting:
                self._metrics.canary_skipped.inc()
            else:
                self._waiting.append(_Waiting(item, output, item.comparison))

    @property
    def ready(self) -> bool:
        """Whether a slice could run now if there were nothing else to do."""
        return (
            bool(self._waiting)
            and self._waiting[0].comparison.pixels is not None
            and self.headroom.has(self._cost_s(1))
        )

    def step(self, *, spare_s: float) -> None:
        """Run one slice, if there is one that takes less than `spare_s`."""
        self._drop_stale()
        if self.ready and self._cost_s(1) < spare_s:
            self._run(self._next_slice(min(SLICE_S, spare_s)))

    def skip_all(self) -> None:
        """The worker ends: skip all images that still wait."""
        self._metrics.canary_skipped.inc(len(self._waiting))
        self._waiting.clear()

    def _cost_s(self, images: int) -> float:
        return self._waiting[0].comparison.model.cost.estimate(images)

    def _drop_stale(self) -> None:
        """Drop images without pixels, and those of a canary that has ended: they would keep its model in memory."""
        while self._waiting:
            comparison = self._waiting[0].comparison
            if self._active_models.is_active(comparison.canary):
                if not comparison.is_missing:
                    return
                self._metrics.canary_skipped.inc()
            self._waiting.popleft()

    def _next_slice(self, limit_s: float) -> list[_Waiting]:
        """Images for one model: one, and as many more as fit into `limit_s`."""
        chosen = [self._waiting.popleft()]
        model = chosen[0].comparison.model
        while self._waiting and self._cost_s(len(chosen) + 1) <= limit_s:
            comparison = self._waiting[0].comparison
            if comparison.model is not model or comparison.pixels is None:
                break
            chosen.append(self._waiting.popleft())
        return chosen

    def _run(self, chosen: list[_Waiting]) -> None:
        model = chosen[0].comparison.model
        started = time.monotonic()
        images = [each.comparison.pixels for each in chosen if each.comparison.pixels is not None]
        outputs = infer(images, model.engine)
        model.cost.observe(len(chosen), time.monotonic() - started)
        for waiting, output in zip(chosen, outputs, strict=True):
            if not isinstance(output, EngineFailed):
                self._sink.compared(waiting.comparison.canary, _compare(waiting, output))
                continue
            self._metrics.canary_skipped.inc()
            if not waiting.item.by_canary:
                self._sink.failed(waiting.comparison.canary, output)


def _compare(waiting: _Waiting, output: Probabilities) -> Comparison:
    item, other = waiting.item, waiting.comparison.model
    acted = item.model.decider.decision(item.admitted, waiting.output)
    compared = other.decider.decision(item.admitted, output)
    return Comparison(
        job_id=item.admitted.job.job_id,
        line=item.admitted.job.line,
        acting=ModelAnswer.of(item.model.decider.model, acted),
        compared=ModelAnswer.of(other.decider.model, compared),
        agree=agree(acted, compared),
    )
