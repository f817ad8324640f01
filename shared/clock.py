"""The server's time, by which all deadlines are compared, and checks of capture times.

A deadline counts from `captured_at`, which is read from a producer's clock, and a worker decides whether it has passed.
The two clocks may differ. Both machines can read the Redis server's clock, so each process measures how far its own
clock is from it, the producer sends its offset along with the job, and the worker compares both in the server's time.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

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
# An offset above this is logged. Sortline corrects deadlines for it, but other programs don't correct their times.
NOTABLE_OFFSET_S = 0.25
# When the server's clock is set, deadlines may be wrong for this long.
MEASURE_INTERVAL_S = 10.0
# A new measurement may be needed at once, but is not made more often than this: there is none yet, this machine's clock
# was set, or a capture time seems to lie in the future.
MEASURE_AGAIN_S = 1.0
# The first call opens a connection, which takes longer than the calls after it. The shortest of these is used.
FIRST_PROBES = 3
# By how much two clocks may move apart, in seconds per second. A quartz is off by less.
DRIFT = 50e-6
# TIME has microseconds, and the cores of one machine may read its clock a little apart: 15 us were seen.
READING_S = 50e-6
# This machine's clock was set if it has moved by this much against the monotonic clock, which nobody can set.
STEP_S = 0.010

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


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one look at the server's clock says: the offset is `estimate_s`, at most `error_s` more or less."""

    estimate_s: float
    error_s: float
    at: float  # monotonic seconds

    @property
    def offset_s(self) -> float:
        """The offset to count with: 0 if the clocks may agree, so that all processes of one machine use the same."""
        return 0.0 if abs(self.estimate_s) <= self.error_s else self.estimate_s

    def yields_to(self, newer: Measurement) -> bool:
        """Whether `newer` is more exact, as this one has aged, or shows that a clock was set: both can't be right."""
        error_s = self.error_s + DRIFT * (newer.at - self.at)
        is_excluded = abs(newer.estimate_s - self.estimate_s) > error_s + newer.error_s
        return is_excluded or newer.error_s < error_s


class ServerClock:
    """Tells the server's time, and checks capture times. May be used by any thread."""

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
            on_offset: called after each measurement with the estimated offset, in seconds, for a metric.
            clock: UTC epoch seconds.
            monotonic: seconds that only grow.
        """
        self._client = client
        self._tolerance_s = tolerance_s
        self._on_offset = on_offset
        self._clock = clock
        self._monotonic = monotonic
        self._measuring = threading.Lock()
        self._tried_at = float("-inf")
        self._ahead_s = 0.0  # this machine's clock minus the monotonic one, at the last measurement
        self._best: Measurement | None = None
        self._offset_s = 0.0
        self._warned_offset_s = 0.0

    @property
    def offset_s(self) -> float:
        """This machine's clock minus the server's, seconds; 0 until it is measured, and while they may agree."""
        return self._offset_s

    def now(self) -> float:
        """The server's time in UTC epoch seconds. Does not ask the server."""
        return self._clock() - self._offset_s

    def check(self, captured_at: float, deadline_at: float | None, *, clock_offset_s: float = 0.0) -> None:
        """Refuse impossible times. Asks the server only if `captured_at` is in the future by this machine's clock.

        A capture time is refused only if it is in the future by both clocks, so that one wrong clock, this machine's
        or the server's, doesn't refuse good jobs.

        Args:
            captured_at: time of capture, epoch seconds.
            deadline_at: the deadline by the same clock, if there is one.
            clock_offset_s: that clock minus the server's, if it is known.

        Raises:
            BadJob: names the value and how to fix it.
        """
        check_times(captured_at, deadline_at)
        corrected_at = captured_at - clock_offset_s
        if corrected_at <= self._clock() + self._tolerance_s:
            return
        self._measure(after_s=MEASURE_AGAIN_S)
        ahead_s = corrected_at - self._clock() - max(0.0, -self._offset_s)
        if ahead_s > self._tolerance_s:
            raise BadJob(
                f"captured_at = {captured_at!r} is {ahead_s:,.1f} s in the future, more than the "
                f"{self._tolerance_s:g} s of clock_tolerance_s: use NTP to set the clock of the machine that wrote it."
            )

    def ensure_measured(self) -> None:
        """Measure the offset if that has not succeeded yet. Call it before the first deadline is compared.

        Never raises. It is cheap once there is a measurement. If several threads call it, all of them wait for the
        first one's measurement.
        """
        if self._best is None:
            self._measure(after_s=MEASURE_AGAIN_S)

    def measure(self) -> None:
        """Measure the offset if a measurement is due: now and then, and soon after this machine's clock was set.

        Never raises. If the server is unavailable, the caller's other calls to it report that.
        """
        # Checked before taking the lock, so that no thread waits while another one measures.
        after_s = MEASURE_AGAIN_S if self._best is None or self._was_set() else MEASURE_INTERVAL_S
        if self._monotonic() - self._tried_at >= after_s:
            self._measure(after_s=after_s)

    def _was_set(self) -> bool:
        return abs(self._clock() - self._monotonic() - self._ahead_s) > STEP_S

    def _measure(self, *, after_s: float) -> None:
        with self._measuring:
            if self._monotonic() - self._tried_at < after_s:
                return
            self._tried_at = self._monotonic()
            best = None if self._was_set() else self._best
            ahead_s = self._clock() - self._monotonic()
            try:
                measured = min((self._probe() for _ in range(1 if best else FIRST_PROBES)), key=lambda one: one.error_s)
            except Exception as error:  # unavailable, no right to run TIME, or an answer that is no time
                log.debug("the server's clock can't be read: %s", error)
                return
            self._ahead_s = ahead_s
            if best is None or best.yields_to(measured):
                best = measured
            self._best, self._offset_s = best, best.offset_s
            self._on_offset(best.estimate_s)
            self._log_offset(best)

    def _probe(self) -> Measurement:
        started = self._monotonic()
        sent_at = self._clock()
        seconds, microseconds = self._client.time()
        ended = self._monotonic()
        # The server read its clock at some moment of the round trip. Halfway, the error is at most half of it.
        half_s = (ended - started) / 2
        return Measurement(sent_at + half_s - (seconds + microseconds / 1e6), half_s + READING_S, ended)

    def _log_offset(self, measured: Measurement) -> None:
        """Warn once when the clocks differ too much, and again only after the offset has changed by that much again."""
        offset_s = measured.estimate_s
        if abs(offset_s) - measured.error_s > NOTABLE_OFFSET_S:
            if abs(offset_s - self._warned_offset_s) > NOTABLE_OFFSET_S:
                self._warned_offset_s = offset_s
                log.warning(
                    "this machine's clock is %.2f s %s the Redis server's. Deadlines and latencies are corrected for "
                    "that; times in logs and files, and what other programs make of them, are not. Set both clocks "
                    "with NTP.",
                    abs(offset_s),
                    "ahead of" if offset_s > 0 else "behind",
                )
        # Well below the bound, so that an offset near it is not logged again and again.
        elif self._warned_offset_s and abs(offset_s) < NOTABLE_OFFSET_S / 2:
            self._warned_offset_s = 0.0
            log.info("this machine's clock and the Redis server's agree again")
