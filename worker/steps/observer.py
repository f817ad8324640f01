"""Observers: see images and jobs without any step knowing why. A canary's comparison is one, the archive another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from worker.models.routing import Route
from worker.state.jobs import FinishedJob
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


class JobObserver(Protocol):
    """Sees each job before and after its result is written. The finish thread calls it; no call may raise."""

    def before_finish(self, jobs: list[FinishedJob]) -> list[FinishedJob]:
        """Called before the results of these jobs are written. The returned jobs go on instead.

        A job with `keeps_image` leaves its image on the server for `keys.KEPT_IMAGE_S`, so that the observer can read
        it once the result is written.
        """

    def after_finish(self, finished: Sequence[FinishedJob]) -> None:
        """Called when these jobs' results are written. No other worker will write any for them.

        They are among the jobs of the last `before_finish`. Jobs whose leases were lost are not among them.
        """


class NoJobObserver:
    """Watches nothing."""

    def before_finish(self, jobs: list[FinishedJob]) -> list[FinishedJob]:
        """No image is kept."""
        return jobs

    def after_finish(self, finished: Sequence[FinishedJob]) -> None:
        """Nothing."""
