"""Checks capture times, and measures the offset of this machine's clock from the Redis server's clock.

A deadline counts from `captured_at`, which is read from a producer's clock and later compared with a worker's clock.
Both machines can read the server's clock, so each process compares its own clock with the server's.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

import redis

from shared.errors import BadJob

log = logging.getLogger("sortline.clock")

# 2000-01-01 and 2100-01-01, UTC. A clock that was never set is in 1970; milliseconds mistaken for seconds give a year
# beyond 50,000.
EARLIEST_AT = 946_684_800.0
LATEST_AT = 4_102_444_800.0
# A week. A longer deadline is most likely a time that was given as a duration: epoch seconds mistaken for milliseconds
# are 20 days.
MAX_DEADLINE_S = 604_800.0
# An offset above this is logged: deadlines are a few hundred milliseconds.
NOTABLE_OFFSET_S = 0.25
MEASURE_INTERVAL_S = 30.0
# A capture time that seems to lie in the future causes a new measurement of the offset, but no more often than this.
MEASURE_AGAIN_S = 1.0

_UNITS = ((1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds"))


def check_times(captured_at: float, deadline_at: float | None) -> None:
    """Refuse times that can't be right by any clock. An old capture is accepted: a backlog may be a day old.

    Raises:
        BadJob: names the value and how to fix it.
    """
    if not EARLIEST_AT <= captured_at <= LATEST_AT:  # NaN is refused too
        raise BadJob(f"captured_at = {captured_at!r} can't be a capture time: {_advice(captured_at)}.")
    if deadline_at is not None and not 0 <= deadline_at - captured_at <= MAX_DEADLINE_S:
        raise BadJob(
            f"deadline_at = {deadline_at!r} is {deadline_at - captured_at:+,.6g} s from captured_at = {captured_at!r}: "
            f"a deadline must be 0 to {MAX_DEADLINE_S:,.0f} s after the capture, or None."
        )


def _advice(captured_at: float) -> str:
    if math.isfinite(captured_at):
        for factor, name in _UNITS:
            if EARLIEST_AT <= captured_at / factor <= LATEST_AT:
                return f"give UTC epoch seconds; this looks like {name}: divide by {factor:,.0f}"
    return "give UTC epoch seconds in the years 2000 to 2100, and check that the clock is set"


class ServerClock:
    """Checks capture times against this machine's clock and the server's. May be used by any thread."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        tolerance_s: float,
        on_offset: Callable[[float], None] = lambda offset_s: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the arguments.

        Args:
            client: used to read the server's clock.
            tolerance_s: how far in the future a capture time may lie, seconds.
            on_offset: called with each measured offset, in seconds, for a metric.
            clock: UTC epoch seconds.
            monotonic: seconds that only grow.
        """
        self._client = client
        self._tolerance_s = tolerance_s
        self._on_offset = on_offset
        self._clock = clock
        self._monotonic = monotonic
        self._measuring = threading.Lock()
        self._measured_at = float("-inf")
        self._offset_s = 0.0
        self._warned_offset_s = 0.0

    def check(self, captured_at: float, deadline_at: float | None) -> None:
        """Refuse impossible times. Asks the server only if `captured_at` is in the future by this machine's clock.

        A capture time is refused only if it is in the future by both clocks, so that one wrong clock, this machine's
        or the server's, doesn't refuse good jobs.

        Raises:
            BadJob: names the value and how to fix it.
        """
        check_times(captured_at, deadline_at)
        if captured_at <= self._clock() + self._tolerance_s:
            return
        self._measure(after_s=MEASURE_AGAIN_S)
        ahead_s = captured_at - self._clock() - max(0.0, -self._offset_s)
        if ahead_s > self._tolerance_s:
            raise BadJob(
                f"captured_at = {captured_at!r} is {ahead_s:,.1f} s in the future, more than the "
                f"{self._tolerance_s:g} s of clock_tolerance_s: use NTP to set the clock of the machine that wrote it."
            )

    @property
    def offset_s(self) -> float:
        """This machine's clock minus the server's, in seconds; 0 until it was measured."""
        return self._offset_s if abs(self._offset_s) > 0.05 else 0.0

    def measure(self) -> None:
        """Measure the offset if a measurement is due.

        Never raises. If the server is unavailable, the caller's other calls to it report that.
        """
        # Checked before taking the lock, so that no thread waits while another one measures.
        if self._monotonic() - self._measured_at >= MEASURE_INTERVAL_S:
            self._measure(after_s=MEASURE_INTERVAL_S)

    def _measure(self, *, after_s: float) -> None:
        with self._measuring:
            if self._monotonic() - self._measured_at < after_s:
                return
            self._measured_at = self._monotonic()
            sent_at = self._clock()
            try:
                seconds, microseconds = self._client.time()
            except redis.exceptions.RedisError as error:  # unavailable, or the user lacks the right to run TIME
                log.debug("the server's clock can't be read: %s", error)
                return
            round_trip_s = self._monotonic() - self._measured_at
            # Assume that the server read its clock halfway through the round trip: the error is at most half of it.
            self._offset_s = sent_at + round_trip_s / 2 - (seconds + microseconds / 1e6)
            self._on_offset(self._offset_s)
            self._log_offset(self._offset_s, error_s=round_trip_s / 2)

    def _log_offset(self, offset_s: float, *, error_s: float) -> None:
        """Warn once when the clocks differ too much, and again only after the offset has changed by that much again."""
        if abs(offset_s) - error_s > NOTABLE_OFFSET_S:
            if abs(offset_s - self._warned_offset_s) > NOTABLE_OFFSET_S:
                self._warned_offset_s = offset_s
                log.warning(
                    "this machine's clock is %.2f s %s the Redis server's: deadlines and latencies are wrong by that "
                    "much. Set both clocks with NTP.",
                    abs(offset_s),
                    "ahead of" if offset_s > 0 else "behind",
                )
        # Well below the bound, so that an offset near it is not logged again and again.
        elif self._warned_offset_s and abs(offset_s) < NOTABLE_OFFSET_S / 2:
            self._warned_offset_s = 0.0
            log.info("this machine's clock and the Redis server's agree again")
