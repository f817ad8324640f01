"""Images that outlive their decoding because they may be archived, and the bound on their bytes."""

from __future__ import annotations

from worker.state.byte_budget import ByteBudget

# The most bytes that a worker holds for its archive, from an image's decoding until it is written; at most one image is
# held above it. While they are used up, further images are not archived: a slow disk must cost neither memory nor time.
MAX_HELD_BYTES = 24_000_000
# What an image's job and result add to its own bytes: very many small images must not fill the memory either.
RECORD_BYTES = 4096


class HeldImage:
    """An image file whose bytes count as held for as long as this object lives.

    A job leaves a worker in many ways: finished, put back for another attempt, given back, its lease lost. The image's
    bytes are given back with the last reference to it, so none of these ways can be forgotten.
    """

    __slots__ = ("_budget", "data")

    def __init__(self, data: bytes, budget: ByteBudget) -> None:
        """Its bytes must have been taken from the budget; call `hold`."""
        self.data = data
        self._budget = budget

    def __del__(self) -> None:
        self._budget.give_back(_held_bytes(self.data))


def hold(image: bytes, budget: ByteBudget) -> HeldImage | None:
    """Hold the image; None if the budget is used up."""
    return HeldImage(image, budget) if budget.take_unless_full(_held_bytes(image)) else None


def _held_bytes(image: bytes) -> int:
    return len(image) + RECORD_BYTES
