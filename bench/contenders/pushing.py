"""Producers that push images as fast as the server takes them, and count what became of each. For `bench memory`."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event

from PIL import Image

from shared.errors import QueueFull, Transient
from shared.settings import Settings

# Images in one call, but no more bytes than this (or a single image): as a camera that has to catch up does.
_CALL_IMAGES = 16
CALL_BYTES = 4_000_000

_stop: Event


@dataclass(slots=True)
class Pushed:
    """What became of a producer's images."""

    pushed: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def image_of(size_bytes: int) -> bytes:
    """A valid JPEG file of this length: a small picture, and zeros behind its end, which every decoder ignores."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48)).save(out, "JPEG")
    return out.getvalue().ljust(size_bytes, b"\0")


@dataclass(frozen=True, slots=True)
class Pushing:
    """Producers that are pushing."""

    _running: list[Future[Pushed]]
    _stop: Event

    @property
    def is_over(self) -> bool:
        """Whether all of them have stopped."""
        return all(each.done() for each in self._running)

    def stop(self) -> None:
        """Tell them to stop."""
        self._stop.set()

    def result(self) -> Pushed:
        """What all of them have pushed, once they have stopped.

        Raises:
            Transient: a producer's process died.
            Whatever the first of them raised.
        """
        total = Pushed()
        for each in self._running:
            try:
                found = each.result()
            except BrokenProcessPool as error:
                raise Transient("a producer's process died: see its log above.") from error
            total.pushed += found.pushed
            total.accepted += found.accepted
            total.refused += found.refused
        return total


@contextlib.contextmanager
def pushing(
    settings: Settings, *, producers: int, size_bytes: int, seconds: float, max_images: int
) -> Iterator[Pushing]:
    """Start producers, each on a line of its own, for `seconds` or until each has pushed its part of `max_images`."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(producers, mp_context=context, initializer=_set_stop, initargs=(stop,)) as pool:
        try:
            yield Pushing(
                [
                    pool.submit(_push, settings, f"line-{number}", size_bytes, seconds, max_images // producers)
                    for number in range(1, producers + 1)
                ],
                stop,
            )
        finally:
            stop.set()


def _set_stop(stop: Event) -> None:
    global _stop
    _stop = stop


def _push(settings: Settings, line: str, size_bytes: int, seconds: float, max_images: int) -> Pushed:
    from producer.frames import Frame
    from producer.submit import LineProducer

    producer = LineProducer(settings, on_unserved=lambda text: None)
    frame = Frame(data=image_of(size_bytes), line=line, camera="camera-1")
    at_once = max(1, min(_CALL_IMAGES, CALL_BYTES // size_bytes))
    total, until = Pushed(), time.monotonic() + seconds
    while not _stop.is_set() and time.monotonic() < until and total.pushed < max_images:
        jobs = [producer.prepare(frame) for _ in range(min(at_once, max_images - total.pushed))]
        accepted = len(jobs)
        try:
            producer.send(jobs, partial=True)
        except QueueFull as error:
            accepted = len(error.accepted)
            # An error that does not say which images were refused refused all but the accepted ones for one reason.
            reasons = error.refused or {job.job_id: error.bound for job in jobs if job.job_id not in error.accepted}
            total.refused.update(bound.value for bound in reasons.values())
        total.pushed += len(jobs)
        total.accepted += accepted
    return total
