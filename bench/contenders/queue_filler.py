"""Fills the queue before each run of a contender."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.contenders.sortline_worker import fill_queue
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class QueueFiller:
    """Fills the queue `live` with frames of one size; remembers the mean size of their files."""

    settings: Settings
    size: str
    quality: int = 85
    _image_bytes: list[int] = field(default_factory=list)

    def fill(self, count: int) -> list[bytes]:
        """Empty the server and fill the queue; returns the image files."""
        images = fill_queue(self.settings, count=count, size=self.size, quality=self.quality)
        self._image_bytes.extend(map(len, images))
        return images

    def run_on_queue(self, rate: Callable[..., float], *, count: int) -> Callable[[], float]:
        """A contender's run that empties the filled queue: `rate(count=…)`."""

        def run() -> float:
            self.fill(count)
            return rate(count=count)

        return run

    def run_on_images(self, rate: Callable[[list[bytes]], float], *, count: int) -> Callable[[], float]:
        """A contender's run that gets the images themselves: `rate(images)`."""
        return lambda: rate(self.fill(count))

    @property
    def image_bytes_mean(self) -> int:
        """The mean size of all image files so far."""
        return round(statistics.mean(self._image_bytes))
