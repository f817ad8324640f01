"""Observers: see images and jobs without any step knowing why. A canary's comparison is one, the archive another."""

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
        """Called when an image was decoded. The returned item goes on instead; it may carry the observer's `note`."""

    def after_failures(self, predictions: list[Prediction]) -> list[Prediction]:
        """Called when the engine failed on some of these images. Returns them, perhaps with other answers for those."""

    def after_batch(self, predictions: Sequence[Prediction]) -> None:
        """Called when the answers of a batch have gone on. The pixels of its items may be read until this returns."""

    def turn(self) -> AbstractContextManager[object]:
        """A context in which an inference thread does one round. It may make the threads take turns."""

    @property
    def wants_time(self) -> bool:
        """Whether it has work for the time between batches."""

    def between_batches(self, spare_s: Callable[[], float]) -> None:
        """Called by a thread that runs no batch. Work of up to `spare_s()` seconds makes no image miss its deadline."""

    def skip_waiting(self) -> None:
        """Drop the images that wait to be compared. Returns when none is being compared."""


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
        """Called before the job's image is decoded, by several threads.

        The returned job goes on instead; it may carry the observer's `note`.
        """

    def after_finish(self, finished: Sequence[FinishedJob]) -> None:
        """Called by the finish thread when these jobs' results are written. No other worker will write any for them."""


class NoJobObserver:
    """Watches nothing."""

    def before_decode(self, claimed: ClaimedJob, image: bytes | None) -> ClaimedJob:
        """Nothing is noted."""
        return claimed

    def after_finish(self, finished: Sequence[FinishedJob]) -> None:
        """Nothing."""
