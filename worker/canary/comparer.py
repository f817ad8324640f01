"""Compare: while a canary is tried, also runs answered images through a second model.

In: predictions whose results are on their way. Out: `Comparison`s. It observes the pipeline (`steps.observer`) and runs
on its inference threads, in slices of a few milliseconds, only if no deadline can be missed because of it:
  - after the results of the batch were passed on;
  - while no full batch with a deadline waits, and the waiting items can wait for this slice (`Batcher.spare_s`);
  - while the results of the last seconds had more than twice the slice's time left before their deadlines.
An image that gets no slice is skipped and counted. Without deadlines a busy worker still runs one slice per batch.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from shared.errors import EngineFailed
from shared.images.arrays import Pixels
from worker.canary.tally import Comparison, ModelAnswer, agree
from worker.models.model import Model, Probabilities
from worker.models.routing import ActiveCanary, ActiveModels, Route
from worker.observe.metrics import Metrics
from worker.steps.infer import infer
from worker.steps.work import Decoded, Prediction

log = logging.getLogger("sortline.compare")

# How long one slice may take. A single image is a slice, however long it takes.
SLICE_S = 0.010
# A deadline that was nearly missed prevents comparisons for up to this long, and for at least half of it.
HEADROOM_WINDOW_S = 10.0
# Larger files are not kept to be decoded for a comparison: a batch of them would take too much memory. Costly images
# are not kept either: the threads that decode for a comparison are those that run the batches.
MAX_KEPT_BYTES = 1_000_000


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


@dataclass(frozen=True, slots=True)
class ComparisonInput:
    """The note on an image that `model`, a second one, is to see. `pixels` are for it; None if not decoded (yet)."""

    canary: ActiveCanary
    model: Model
    pixels: Pixels | None = None
    image: bytes | None = None  # decoded when its turn comes


@dataclass(frozen=True, slots=True)
class _Waiting:
    item: Decoded
    output: Probabilities
    comparison: ComparisonInput


class Comparer:
    """Compares for one worker, as the observer of its pipeline. The inference threads run the slices, one at a time."""

    def __init__(
        self,
        active_models: ActiveModels,
        *,
        sink: Comparisons,
        max_waiting: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """At most `max_waiting` images wait to be compared. `clock` tells the server's time."""
        self._active_models = active_models
        self._sink = sink
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._slicing = threading.Lock()  # held by the thread that takes from `_waiting`
        self._turns = threading.Lock()
        self._decode_s = 0.0  # of the last image that was decoded for a comparison
        self.headroom = DeadlineHeadroom()

    def after_decode(self, item: Decoded, image: bytes, route: Route) -> Decoded:
        """Note which other model is to see the image, with the pixels or the file that it needs.

        If a canary sorts the image and its decoder differs, the stable model's pixels are decoded at once: if the
        canary's engine fails, the image runs on the stable model.
        """
        other, canary = route.other, route.canary
        camera = item.admitted.job.camera
        if other is None or canary is None:
            return item
        if other.decoder == item.model.decoder:
            return replace(item, note=ComparisonInput(canary, other))
        if canary.spec.shadow:
            kept = image if len(image) <= MAX_KEPT_BYTES and not other.decoder.is_costly(image, camera) else None
            return replace(item, note=ComparisonInput(canary, other, image=kept))
        pixels = self._decoded(other, image, camera=camera)
        return replace(item, note=ComparisonInput(canary, other, pixels=pixels))

    def after_failures(self, predictions: list[Prediction]) -> list[Prediction]:
        """Give each image on which the canary's engine failed to the stable model.

        If the stable model can run one of them, the failure is the canary's fault, and ends the canary. If neither
        model can run an image, the canary isn't to blame.
        """
        after: list[Prediction] = []
        fault: tuple[ActiveCanary, EngineFailed] | None = None
        for item, output in predictions:
            note = item.note
            if not isinstance(output, EngineFailed) or not isinstance(note, ComparisonInput) or not _by_canary(item):
                after.append(Prediction(item, output))
                continue
            pixels = _pixels_of(item, note)
            if pixels is None:
                after.append(Prediction(item, output))
                continue
            (again,) = infer(pixels[np.newaxis], note.model.engine)
            if not isinstance(again, EngineFailed):
                fault = note.canary, output
            after.append(Prediction(replace(item, model=note.model, note=None), again))
        if fault is not None:
            self._sink.failed(*fault)
        return after

    def after_batch(self, predictions: Sequence[Prediction]) -> None:
        """Take the predictions that need a comparison, to compare them when there is time."""
        now = self._clock()
        for item, output in predictions:
            deadline_at = item.admitted.deadline_at
            if deadline_at is not None:
                self.headroom.observe(deadline_at - now)
            note = item.note
            if not isinstance(note, ComparisonInput) or output is None or isinstance(output, EngineFailed):
                continue
            if note.pixels is None and note.image is None and note.model.decoder == item.model.decoder:
                note = replace(note, pixels=item.slot.pixels.copy())  # the slot is given back after this
            if (note.pixels is None and note.image is None) or len(self._waiting) >= self._max_waiting:
                self._metrics.canary_skipped.inc()
            else:
                self._waiting.append(_Waiting(item, output, note))

    def turn(self) -> AbstractContextManager[object]:
        """While a canary is tried, one thread at a time uses the engines: a batch run beside a slice could be late."""
        return self._turns if self._active_models.current.canary is not None else contextlib.nullcontext()

    @property
    def wants_time(self) -> bool:
        """Whether a slice could run now if there were nothing else to do."""
        return bool(self._waiting) and not self._slicing.locked() and self._has_headroom()

    def between_batches(self, spare_s: Callable[[], float]) -> None:
        """Run one slice, if there is one that takes less than `spare_s()`."""
        if not self._waiting or not self._slicing.acquire(blocking=False):
            return
        try:
            self._drop_stale()
            if self._waiting and self._has_headroom() and self._cost_s(1) < (limit_s := spare_s()):
                self._run(self._next_slice(min(SLICE_S, limit_s)))
        finally:
            self._slicing.release()

    def skip_waiting(self) -> None:
        """Skip all images that still wait: the worker ends, or must not run them beside a suspect."""
        with self._slicing:
            self._metrics.canary_skipped.inc(len(self._waiting))
            self._waiting.clear()

    def _has_headroom(self) -> bool:
        try:
            return self.headroom.has(self._cost_s(1))
        except IndexError:  # another thread took the last one
            return False

    def _cost_s(self, images: int) -> float:
        comparison = self._waiting[0].comparison
        decode_s = 0.0 if comparison.image is None else images * self._decode_s
        return comparison.model.cost.estimate(images) + decode_s

    def _drop_stale(self) -> None:
        """Drop the images of a canary that has ended: they would keep its model in memory."""
        while self._waiting and not self._active_models.is_active(self._waiting[0].comparison.canary):
            self._waiting.popleft()

    def _next_slice(self, limit_s: float) -> list[_Waiting]:
        """Images for one model: one, and as many more as fit into `limit_s`."""
        chosen = [self._waiting.popleft()]
        model = chosen[0].comparison.model
        while self._waiting and self._cost_s(len(chosen) + 1) <= limit_s:
            if self._waiting[0].comparison.model is not model:
                break
            chosen.append(self._waiting.popleft())
        return chosen

    def _run(self, chosen: list[_Waiting]) -> None:
        model = chosen[0].comparison.model
        ready: list[_Waiting] = []
        images: list[Pixels] = []
        for waiting in chosen:
            comparison = waiting.comparison
            pixels = comparison.pixels
            if pixels is None and comparison.image is not None:
                pixels = self._decoded(model, comparison.image, camera=waiting.item.admitted.job.camera)
            if pixels is None:
                self._metrics.canary_skipped.inc()
            else:
                ready.append(waiting)
                images.append(pixels)
        if not images:
            return
        started = time.monotonic()
        outputs = infer(images, model.engine)
        model.cost.observe(len(images), time.monotonic() - started)
        for waiting, output in zip(ready, outputs, strict=True):
            if not isinstance(output, EngineFailed):
                self._sink.compared(waiting.comparison.canary, _compare(waiting, output))
                continue
            self._metrics.canary_skipped.inc()
            if not _by_canary(waiting.item):
                self._sink.failed(waiting.comparison.canary, output)

    def _decoded(self, model: Model, image: bytes, *, camera: str) -> Pixels | None:
        """Decode for a comparison; None if that fails: an error costs the comparison, not the job."""
        started = time.monotonic()
        try:
            return model.decoder(image, camera)
        except Exception as error:  # nothing here may affect the job
            log.warning("an image can't be decoded for the comparison with %s: %s", str(model), error)
            return None
        finally:
            self._decode_s = time.monotonic() - started


def _by_canary(item: Decoded) -> bool:
    """Whether the canary's answer sorts the image."""
    return isinstance(item.note, ComparisonInput) and item.note.canary.model is item.model


def _pixels_of(item: Decoded, comparison: ComparisonInput) -> Pixels | None:
    """The pixels for the other model."""
    if comparison.pixels is None and comparison.model.decoder == item.model.decoder:
        return item.slot.pixels
    return comparison.pixels


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
