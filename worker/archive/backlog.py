"""The backlog: images of jobs that have ended, which wait on the server until an archive reads them.

A slow disk must not fill the server's memory. So the backlog is bounded, and it is given up when the server is nearly
full: cameras need that memory for their next images.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import redis

from worker.observe.supervisor import StageThread
from worker.rq.kept_images import KeptImages
from worker.state.byte_budget import ByteBudget

# How many bytes of images may wait on the server. While as many wait, further images are not archived. The images of
# one batch may exceed it: they have been on the server until now anyway.
MAX_WAITING_BYTES = 64_000_000
# How many bytes of images are read at a time; the last image of a group may exceed it.
READ_BYTES = 1_000_000
# Results wait in the worker's memory, and take at most a quarter of the limit: their bytes count four times. The
# objects that hold a result take another 270 bytes (measured with tracemalloc), rounded up.
RESULT_WEIGHT = 4
RECORD_BYTES = 512
# The backlog is given up when more than this share of the server's maxmemory is in use.
MAX_SERVER_SHARE = 0.9
# How often the server is asked, while images wait.
SERVER_CHECK_S = 1.0


@dataclass(frozen=True, slots=True)
class WaitingImage:
    """An image that is to be archived, and its result."""

    result_json: bytes
    key: str
    size_bytes: int
    is_kept_for_us: bool  # False for a failed job: its image stays on the server so that `rq requeue` has one

    @property
    def counted_bytes(self) -> int:
        """What it takes of the backlog's limit."""
        return self.size_bytes + RESULT_WEIGHT * (len(self.result_json) + RECORD_BYTES)


class Backlog:
    """Images that wait. The properties and `add` are for any thread, the rest is for the archive's."""

    def __init__(
        self,
        images: KeptImages,
        *,
        max_bytes: int = MAX_WAITING_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`images`: not used by anybody else."""
        self._images = images
        self._budget = ByteBudget(max_bytes)
        self._monotonic = monotonic
        self._waiting: queue.SimpleQueue[WaitingImage] = queue.SimpleQueue()
        self._in_hand: list[WaitingImage] = []  # taken and not read yet: kept while Redis is unavailable
        self._check_at = 0.0
        self.is_server_full = False  # more than MAX_SERVER_SHARE is in use

    @property
    def count(self) -> int:
        """About how many images wait."""
        return self._waiting.qsize()

    @property
    def is_full(self) -> bool:
        """Whether no further image may wait."""
        return self._budget.wait_for_capacity(0.0) == 0

    def add(self, image: WaitingImage) -> None:
        """Have an image wait."""
        self._budget.take(image.counted_bytes)
        self._waiting.put(image)

    def read(self, thread: StageThread, *, timeout_s: float) -> list[tuple[WaitingImage, bytes | None]]:
        """Take a few images off the server, in order; None for one that is gone. Waits for the first one.

        Raises:
            redis.exceptions.RedisError: they wait on.
        """
        self._in_hand = self._in_hand or self._next(timeout_s)
        if not self._in_hand:
            return []
        with thread.calling_redis():
            files = self._images.read([image.key for image in self._in_hand])
            read = self._drop_in_hand()
            self._delete(read)
        thread.wait_for_work()
        return list(zip(read, files, strict=True))

    def check_server(self, thread: StageThread) -> None:
        """Update `is_server_full`: once a second, if images wait or if it was full before.

        Raises:
            redis.exceptions.RedisError: it can't be asked.
        """
        if (self.count or self.is_server_full) and self._monotonic() >= self._check_at:
            self._check_at = self._monotonic() + SERVER_CHECK_S
            with thread.calling_redis():
                self.is_server_full = self._images.memory_share() > MAX_SERVER_SHARE
            thread.wait_for_work()

    def give_up(self) -> int:
        """Delete all that wait. Returns how many."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._in_hand.append(self._waiting.get_nowait())
        given_up = self._drop_in_hand()
        self._delete(given_up)
        return len(given_up)

    def _next(self, timeout_s: float) -> list[WaitingImage]:
        images: list[WaitingImage] = []
        with contextlib.suppress(queue.Empty):
            images.append(self._waiting.get(timeout=timeout_s))
            while sum(image.size_bytes for image in images) < READ_BYTES:
                images.append(self._waiting.get_nowait())
        return images

    def _delete(self, images: Sequence[WaitingImage]) -> None:
        """Delete what the server keeps for us. If it can't be reached, they expire."""
        with contextlib.suppress(redis.exceptions.RedisError):
            self._images.delete([image.key for image in images if image.is_kept_for_us])

    def _drop_in_hand(self) -> list[WaitingImage]:
        dropped, self._in_hand = self._in_hand, []
        self._budget.give_back(sum(image.counted_bytes for image in dropped))
        return dropped
