"""Limits the memory of image decoding: one budget for all threads of this process.

`decoding` reserves an image's estimated bytes (`limits`) while it decodes the image. Camera frames need so little
memory that they are not counted, so they never wait for a large image.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections import deque
from collections.abc import Iterator

from shared.native_memory import give_back_free_memory

# Default of the setting: the largest picture (`max_image_px`) at 8 bytes per pixel, plus twice the largest file.
MAX_DECODE_BYTES = 440_000_000
# An image that needs no more than this is not counted: a full HD frame of any camera, a 12-megapixel JPEG.
# Uncounted images add up to at most this much for each decode thread.
UNCOUNTED_BYTES = 16_000_000
# After an image that needed at least this much, freed memory is returned to the system. That takes about a millisecond;
# decoding such an image takes a hundred.
_TRIM_FROM_BYTES = 32_000_000


class DecodeMemory:
    """Bytes held by the images that are being decoded. May be used by any thread."""

    def __init__(self) -> None:
        self._held_bytes = 0
        self._waiting: deque[threading.Thread] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, count_bytes: int, *, limit_bytes: int) -> Iterator[None]:
        """Hold `count_bytes` during the `with` block. Waits while all images together would need over `limit_bytes`.

        Images wait in order, so that a steady flow of small ones can't keep a large one waiting. Never hold twice in
        one thread: two threads that each hold some memory and wait for more would wait forever.
        """
        if count_bytes <= UNCOUNTED_BYTES:
            yield
            return
        self._acquire(count_bytes, limit_bytes)
        try:
            yield
        finally:
            if count_bytes >= _TRIM_FROM_BYTES:
                give_back_free_memory()
            with self._changed:
                self._held_bytes -= count_bytes
                self._changed.notify_all()

    def _acquire(self, count_bytes: int, limit_bytes: int) -> None:
        me = threading.current_thread()
        with self._changed:
            self._waiting.append(me)
            try:
                self._changed.wait_for(
                    lambda: self._waiting[0] is me and self._held_bytes + count_bytes <= max(limit_bytes, count_bytes)
                )
                self._held_bytes += count_bytes
            finally:
                self._waiting.remove(me)
                self._changed.notify_all()  # the next in line may fit too

    def waiting_threads(self) -> frozenset[str]:
        """Names of the threads that are waiting for memory to decode an image."""
        with self._changed:
            return frozenset(thread.name for thread in self._waiting)

    @property
    def held_bytes(self) -> int:
        """Bytes held now."""
        return self._held_bytes


# Memory belongs to the process, so all of its decoders share one budget.
DECODE_MEMORY = DecodeMemory()


def drop_locals(error: BaseException) -> None:
    """Clear the local variables in an error's traceback, which would keep images alive until the error is handled."""
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__context__
