"""The memory for decoded pixels: the slots of one array. The decoder writes them, the engine reads them, then they are
used again.

Fresh memory for each image and each batch would cost more than decoding a small image: the system has to clear every
page of it. Slots are handed out in turn, so the images of a batch mostly lie side by side, and nothing is copied.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.images.arrays import Images, Pixels

# Batches that a worker holds at once: one in the model, one decoded, one claimed.
BATCHES_HELD = 3


@dataclass(frozen=True, slots=True, eq=False)
class PixelSlot:
    """Memory for one image, uint8 [S, S, 3]. `index` is its place in the array; None for memory outside of it."""

    pixels: Pixels
    index: int | None = None


class PixelBuffer:
    """The slots of one model. The decode threads take them, the inference thread gives them back."""

    def __init__(self, count: int, *, size_px: int) -> None:
        """`count` slots for images of `size_px`. The system provides their memory when they are first written to."""
        self._array = np.empty((count, size_px, size_px, 3), np.uint8)
        self._slots = [PixelSlot(pixels, index) for index, pixels in enumerate(self._array)]
        self._is_taken = [False] * count
        self._next = 0
        self._lock = threading.Lock()

    def take(self) -> PixelSlot:
        """The next free slot. When all are taken, memory outside the array, so that nobody waits for a slot."""
        with self._lock:
            count = len(self._slots)
            for turn in range(self._next, self._next + count):
                index = turn % count
                if not self._is_taken[index]:
                    self._is_taken[index] = True
                    self._next = index + 1
                    return self._slots[index]
        return self.allocate_unpooled()

    def allocate_unpooled(self) -> PixelSlot:
        """Memory outside the array, for pixels that are needed after their batch."""
        return PixelSlot(np.empty(self._array.shape[1:], np.uint8))

    def give_back(self, slots: Iterable[PixelSlot]) -> None:
        """Free these slots, which nobody reads any more."""
        with self._lock:
            for slot in slots:
                if slot.index is not None:
                    self._is_taken[slot.index] = False

    def as_batch(self, slots: Sequence[PixelSlot]) -> Images:
        """The images of these slots, in order: one array [N, S, S, 3] if they lie side by side, else a list."""
        first = slots[0].index
        if first is not None and all(slot.index == index for index, slot in enumerate(slots, first)):
            return self._array[first : first + len(slots)]
        return [slot.pixels for slot in slots]
