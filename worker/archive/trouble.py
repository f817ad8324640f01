"""Logs once that images are not archived, and once that they are again, however many are lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger("sortline.archive")

# An archive works again when nothing was lost for this long: a disk that is nearly full still takes the small images.
QUIET_S = 60.0


class Trouble:
    """The state of one archive. For any thread."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`name` names the archive in the log."""
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._last_at: float | None = None  # None: all is well
        self._lost = 0

    def report(self, reason: str, *, lost: int, bug: Exception | None = None) -> None:
        """Note that `lost` images are not archived, and why. If it is because of a `bug`, log its traceback."""
        with self._lock:
            is_new, self._last_at = self._last_at is None, self._clock()
            self._lost += lost
        if is_new:
            log.error("%s. Sorting goes on; images are not archived while this lasts.", reason, exc_info=bug)

    def observe_written(self) -> None:
        """Note that an image was archived: the trouble may be over."""
        with self._lock:
            if self._last_at is None or self._clock() - self._last_at < QUIET_S:
                return
            self._last_at, lost, self._lost = None, self._lost, 0
        log.info("%s works again; %d images were not archived", self._name, lost)
