"""What may watch the images and the jobs without any step knowing why: a comparison with another model, an archive."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from worker.models.routing import Route
from worker.state.jobs import ClaimedJob, FinishedJob
from worker.steps.work import Decoded, Prediction


class BatchObserver(Protocol):
    """Sees each image when it is decoded and when it is answered. No call may raise. Called by several threads."""

    def after_decode(self, item: Decoded, image: bytes, route: Route) -> Decoded:
        """An image was decoded; it goes on as the returned item, which may have a `note` of the observer's own."""

    def after_failures(self, predictions: list[Prediction]) -> list[Prediction]:
        """The engine failed on some of these images; the observer may know another answer for them."""

    def after_batch(self, predictions: Sequence[Prediction]) -> None:
        """The answers of a batch have gone on. The pixels of its items may be read until this returns."""

    def turn(self) -> AbstractContextManager[object]:
        """Held by an inference thread for a round. The observer may have the threads take turns."""

    @property
    def wants_time(self) -> bool:
        """Whether it has work for the time between batches."""

    def between_batches(self, spare_s: Callable[[], float]) -> None:
        """This thread runs no batch. Other work of `spare_s()` seconds would delay no image past its deadline."""

    def skip_waiting(self) -> None:
        """Let go of the images that still wait to be looked at. Returns when none is being looked at."""


class NoObserver:
    """Watches nothing."""

    wants_time = False

    def turn(self) -> AbstractContextManager[object]:
        """Threads do not take turns."""
        return contextlib.nullcontext()

    def after_decode(self, item: Decoded, image: bytes, route: Route) -> Decoded:
        """Nothing is noted."""
        return item

    def after_failures(self, predictions: list[Prediction]) -> list[Prediction]:
        """No other answer is known."""
        return predictions

    def after_batch(self, predictions: Sequence[Prediction]) -> None:
        """Nothing."""

    def between_batches(self, spare_s: Callable[[], float]) -> None:
        """Nothing."""

    def skip_waiting(self) -> None:
        """Nothing waits."""


class JobObserver(Protocol):
    """Sees each image before it is decoded, and each job when its result is written. No call may raise."""

    def before_decode(self, claimed: ClaimedJob, image: bytes | None) -> ClaimedJob:
        """The job's image is decoded next. The job goes on as the returned one, which may have a `note`.

        Called by several threads.
        """

    def after_finish(self, finished: Sequence[FinishedJob]) -> None:
        """The results of these jobs are written, and no other worker will write any. Called by the finish thread."""


class NoJobObserver:
    """Watches nothing."""

    def before_decode(self, claimed: ClaimedJob, image: bytes | None) -> ClaimedJob:
        """Nothing is noted."""
        return claimed

    def after_finish(self, finished: Sequence[FinishedJob]) -> None:
        """Nothing."""
