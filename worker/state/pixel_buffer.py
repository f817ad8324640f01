"""Where decoded pixels lie: the places of one array, which the decoder writes and the engine reads, again and again.

Fresh memory for each image and each batch would cost more than the decoding of a small one: the system has to clear
every page of it. Places are handed out in turn, so those of a batch mostly lie side by side, and nothing is copied.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from shared.images.arrays import Images, Pixels

# Batches that a worker holds at once: one in the model, one decoded, one claimed.
BATCHES_HELD = 3


class Place(NamedTuple):
    """Room for one image, uint8 [S, S, 3]. `at` is None for one of its own, outside the array."""

    pixels: Pixels
    at: int | None = None


class BatchBuffer:
    """The places of one model. Taken by the decode threads, given back by the inference thread."""

    def __init__(self, count: int, *, size_px: int) -> None:
        """`count` places for images of `size_px`; their memory is claimed when they are first written to."""
        self._array = np.empty((count, size_px, size_px, 3), np.uint8)
        self._is_taken = [False] * count
        self._next = 0
        self._taking = threading.Lock()

    def take(self) -> Place:
        """The next free place; one of its own when all are taken, so that nobody waits for one."""
        with self._taking:
            count = len(self._is_taken)
            for turn in range(self._next, self._next + count):
                index = turn % count
                if not self._is_taken[index]:
                    self._is_taken[index] = True
                    self._next = index + 1
                    return Place(self._array[index], index)
        return self.apart()

    def apart(self) -> Place:
        """A place of its own, for pixels that will be looked at after their batch."""
        return Place(np.empty(self._array.shape[1:], np.uint8))

    def give_back(self, places: Iterable[Place]) -> None:
        """These are read no more."""
        with self._taking:
            for place in places:
                if place.at is not None:
                    self._is_taken[place.at] = False

    def together(self, places: Sequence[Place]) -> Images:
        """The pixels of these places, in order: [N, S, S, 3] where they lie side by side, else one by one."""
        first = places[0].at
        if first is not None and all(place.at == at for at, place in enumerate(places, first)):
            return self._array[first : first + len(places)]
        return [place.pixels for place in places]
