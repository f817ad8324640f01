"""What a benchmark puts on the queue before each run of a contender."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.contenders.sortline_worker import fill
from shared.settings import Settings


@dataclass(frozen=True, slots=True)
class Filling:
    """Frames of one size for the queue `live`; remembers how large the files were."""

    settings: Settings
    size: str
    quality: int = 85
    _image_bytes: list[int] = field(default_factory=list)

    def images(self, count: int) -> list[bytes]:
        """Empty the server and fill the queue; the image files."""
        images = fill(self.settings, count=count, size=self.size, quality=self.quality)
        self._image_bytes.extend(map(len, images))
        return images

    def then(self, rate: Callable[..., float], *, count: int) -> Callable[[], float]:
        """A run of a contender that empties the filled queue: `rate(count=…)`."""

        def run() -> float:
            self.images(count)
            return rate(count=count)

        return run

    def given(self, rate: Callable[[list[bytes]], float], *, count: int) -> Callable[[], float]:
        """A run of a contender that takes the images themselves: `rate(images)`."""
        return lambda: rate(self.images(count))

    @property
    def image_bytes_mean(self) -> int:
        """Of all images so far."""
        return round(statistics.mean(self._image_bytes))
