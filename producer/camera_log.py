"""Logs what went wrong with a camera's frames, and the server's outages, in few lines. Used by producer/camera.py."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from shared.errors import QueueFull, RedisUnavailable

log = logging.getLogger("producer.camera")  # its caller: one name for what a camera logs

_OUTAGE_LOG_S = 60.0
# A call that takes longer is an outage too, although it succeeds: a server may freeze, e.g. while it writes its data.
_STALL_S = 1.0
_DROP_LOG_S = 1.0
_FULL_LOG_S = 60.0
_NAMES_SHOWN = 10


class OutageLog:
    """Measures how long the server is unavailable, and logs each outage: at its start, each minute, and at its end.

    A call that is answered late counts too.
    """

    def __init__(self, line: str, *, clock: Callable[[], float], retry_s: float) -> None:
        self._line = line
        self._clock = clock
        self._retry_s = retry_s
        self._began_at: float | None = None
        self._log_at = 0.0
        self._ended_s = 0.0

    def total_s(self) -> float:
        """Seconds of all outages, including one that still lasts."""
        return self._ended_s + (0.0 if self._began_at is None else self._clock() - self._began_at)

    @property
    def lasts(self) -> bool:
        """Whether the last call failed."""
        return self._began_at is not None

    def note(self, error: RedisUnavailable, *, since: float) -> None:
        """Report a failed call. `since` is when the camera began to send the frames, on its clock."""
        now = self._clock()
        if self._began_at is None:
            self._began_at, self._log_at = since, now
        if now >= self._log_at:
            log.warning("line %s: %s Trying again every %g s.", self._line, error, self._retry_s)
            self._log_at = now + _OUTAGE_LOG_S

    def end(self, *, since: float) -> None:
        """Report a successful call. `since` is when the camera began to send the frames, on its clock."""
        now = self._clock()
        if self._began_at is not None:
            lasted_s = now - self._began_at
            log.warning("line %s: the server answers again, after %.1f s", self._line, lasted_s)
        elif now - since >= _STALL_S:
            lasted_s = now - since
            log.warning("line %s: the server took %.1f s to answer", self._line, lasted_s)
        else:
            return
        self._ended_s += lasted_s
        self._began_at = None


class FullQueueLog:
    """Measures how long a camera waits for a full queue, and logs it at most once a minute, with the queue's reason.

    Under a steady overload the camera waits before almost every frame, so the ends are not logged.
    """

    def __init__(self, line: str, *, clock: Callable[[], float]) -> None:
        self._line = line
        self._clock = clock
        self._began_at: float | None = None
        self._log_at = float("-inf")
        self._ended_s = 0.0

    def total_s(self) -> float:
        """Seconds of all waits, including one that still lasts."""
        return self._ended_s + (0.0 if self._began_at is None else self._clock() - self._began_at)

    def begin(self, error: QueueFull) -> None:
        """Report that the camera waits from now on."""
        now = self._clock()
        if now >= self._log_at:
            so_far = f" It has waited {self.total_s():,.1f} s so far." if self._ended_s else ""
            log.warning("line %s: waiting for the queue (%s): %s%s", self._line, error.bound.value, str(error), so_far)
            self._log_at = now + _FULL_LOG_S
        self._began_at = now

    def end(self) -> None:
        """Report that the camera tries again, or gives up."""
        self._ended_s, self._began_at = self.total_s(), None


class DropLog:
    """Logs dropped frames: each at debug level, and at most one warning per second for all since the last warning.

    The warning has the number of frames for each reason, if reasons are given, and the last explanation of each.
    """

    def __init__(self, line: str, verb: str, *, clock: Callable[[], float]) -> None:
        self._line = line
        self._verb = verb
        self._clock = clock
        self._names: list[str] = []
        self._reasons: Counter[str] = Counter()
        self._explanations: dict[str, str] = {}
        self._next_at = float("-inf")

    def add(self, names: Sequence[str], explanation: str, *, reason: str = "") -> None:
        """Add frames. `reason` is one word for their explanation, which is a sentence; it may be left out."""
        for name in names:
            log.debug("line %s: frame %s %s", self._line, name, self._verb)
        if names:
            self._names += names
            self._reasons[reason] += len(names)
            self._explanations[reason] = explanation

    def flush(self, *, now: bool = False) -> None:
        """Log the warning if one is due; with `now`, in any case."""
        if not self._names or (not now and self._clock() < self._next_at):
            return
        shown = ", ".join(self._names[:_NAMES_SHOWN])
        more = len(self._names) - _NAMES_SHOWN
        tail = f" and {more} more, to {self._names[-1]}" if more > 0 else ""
        count = len(self._names)
        frames = f"{count:,} frame{'s' if count > 1 else ''}"
        several = len(self._explanations) > 1
        why = " ".join(f"{reason}: {text}" if several else text for reason, text in self._explanations.items())
        log.warning(
            "line %s: %s %s%s: %s%s: %s", self._line, frames, self._verb, self._counts_by_reason(), shown, tail, why
        )
        self._names = []
        self._reasons.clear()
        self._explanations = {}
        self._next_at = self._clock() + _DROP_LOG_S

    def _counts_by_reason(self) -> str:
        match self._reasons.most_common():
            case [("", _)]:
                return ""
            case [(reason, _)]:
                return f" ({reason})"
            case several:
                return f" ({', '.join(f'{reason} {count:,}' for reason, count in several)})"


class LateFileLog:
    """Warns once if a new file comes into the folder when its picture's deadline is past already.

    The reason is often a clock or time zone. Then no picture is sorted, and nothing else in the camera shows it.
    """

    def __init__(self, line: str, *, started_at: float) -> None:
        """`started_at`: UTC epoch seconds; files that were there before are old, not late."""
        self._line = line
        self._started_at = started_at
        self._is_logged = False

    def note(self, name: str, *, captured_at: float, came_at: float, deadline_ms: float | None) -> None:
        """Report a file that was read. The times are UTC epoch seconds; the deadline counts from the capture."""
        age_s = came_at - captured_at
        if self._is_logged or deadline_ms is None or came_at < self._started_at or age_s <= deadline_ms / 1000:
            return
        log.warning(
            "line %s: %s came into the folder %s s after its time of capture, so it expires: its deadline is %g ms. "
            "Pictures that come as late as this are not sorted, and this is logged only once. If the camera's clock is "
            "wrong, use NTP; if its stamps are not in this machine's time zone, use %%z in --stamp-pattern, or TZ=UTC; "
            "or correct --capture-lag-ms.",
            self._line,
            name,
            f"{age_s:,.1f}",
            deadline_ms,
        )
        self._is_logged = True
