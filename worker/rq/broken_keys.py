"""Logs and counts Redis keys that don't hold what they should, as the scripts report them.

In: the `problems` of a script's answer (common.lua). Called by everything that runs scripts: claim, finish, leases.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

log = logging.getLogger("sortline.keys")

# A queue that can't be used is reported by every claim, twice a second. A job is refused only once.
REPEAT_INTERVAL_S = 60.0
MAX_LOGGED_KEYS = 1000

_WHAT_IS_DONE = {
    "refused": "it does not hold a job, so the job's id was taken off its queue, and the key is left alone: delete it, "
    "or enqueue with LineProducer, which makes its own ids",
    "removed": "it is too large for a job: the job was taken off its queue without an answer, and the key was deleted",
    "replaced": "it was deleted and written again",
    "moved": "it was renamed, with 'sortline:broken:' before its name, and is kept for a day; a new key was begun",
    "left": "its queue is left alone, and its jobs wait, until you delete or rename that key",
    "unwritten": "the data that belongs there could not be written, and is missing",
}


class BrokenKeys:
    """Logs and counts broken keys. For any thread."""

    def __init__(
        self, on_refused: Callable[[], object] = lambda: None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`on_refused` is called for each job that was refused, or removed."""
        self._on_refused = on_refused
        self._clock = clock
        self._logged_at: dict[int, float] = {}  # by the hash: a key may be megabytes long

    def report(self, problems: Sequence[Sequence[bytes]]) -> None:
        """Log each problem: { action, key, the key's type, the server's words }. A repeated one once a minute."""
        for action, key, kind, message in problems:
            if action in (b"refused", b"removed"):
                self._on_refused()
            elif self._was_logged(action + key):
                continue
            # Anybody may have chosen the name: log its repr, so that it can't forge a log line.
            log.error(
                "Redis key %.200r is unusable (type %s: %s): %s",
                key.decode(errors="surrogateescape"),
                kind.decode(),
                message.decode(errors="replace"),
                _WHAT_IS_DONE[action.decode()],
            )

    def _was_logged(self, text: bytes) -> bool:
        now, what = self._clock(), hash(text)
        if now - self._logged_at.get(what, float("-inf")) < REPEAT_INTERVAL_S:
            return True
        if len(self._logged_at) >= MAX_LOGGED_KEYS:
            self._logged_at.clear()
        self._logged_at[what] = now
        return False
