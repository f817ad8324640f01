"""Which times of capture are refused, by whose clock, and what is logged about an offset. The clocks are made up."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import cast

import pytest
import redis

from shared.clock import EARLIEST_AT, MAX_DEADLINE_S, NOTABLE_OFFSET_S, ServerClock, check_times
from shared.errors import BadJob

NOW = 1_800_000_000.0
DAY_S = 86_400.0


@dataclass
class Machines:
    """A server and this machine, whose clocks a test sets; `away` while the server does not answer."""

    server_now: float = NOW
    now: float = NOW
    monotonic: float = 0.0
    round_trip_s: float = 0.0
    asked: int = 0
    away: bool = False

    def time(self) -> tuple[int, int]:
        """Like `redis.Redis.time`."""
        self.asked += 1
        if self.away:
            raise redis.exceptions.ConnectionError("away")
        self.monotonic += self.round_trip_s
        self.now += self.round_trip_s
        return int(self.server_now), int(self.server_now % 1 * 1e6)

    def pass_by(self, seconds: float) -> None:
        self.monotonic += seconds
        self.now += seconds
        self.server_now += seconds

    def clock(self, offsets: list[float] | None = None) -> ServerClock:
        return ServerClock(
            cast(redis.Redis, self),
            tolerance_s=5.0,
            on_offset=(offsets if offsets is not None else []).append,
            clock=lambda: self.now,
            monotonic=lambda: self.monotonic,
        )


@pytest.mark.parametrize("captured_at", [NOW, NOW - DAY_S, NOW - 10 * 365 * DAY_S, EARLIEST_AT, NOW + 4.9])
def test_possible_captures(captured_at: float) -> None:
    Machines().clock().check(captured_at, None)


@pytest.mark.parametrize(
    ("captured_at", "says"),
    [
        (float("nan"), "captured_at = nan"),
        (float("inf"), "captured_at = inf"),
        (float("-inf"), "captured_at = -inf"),
        (1e300, "years 2000 to 2100"),
        (-1.0, "captured_at = -1.0"),
        (0.0, "check that the clock is set"),
        (EARLIEST_AT - 1, "years 2000 to 2100"),
        (NOW * 1e3, "looks like milliseconds: divide by 1,000"),
        (NOW * 1e6, "looks like microseconds: divide by 1,000,000"),
        (NOW * 1e9, "looks like nanoseconds: divide by 1,000,000,000"),
        (NOW + 5.5, r"is 5\.5 s in the future, more than the 5 s of clock_tolerance_s"),
        (NOW + 3600, r"is 3,600\.0 s in the future"),
    ],
)
def test_impossible_captures(captured_at: float, says: str) -> None:
    with pytest.raises(BadJob, match=says):
        Machines().clock().check(captured_at, None)


@pytest.mark.parametrize("after_s", [0.0, 0.3, DAY_S, MAX_DEADLINE_S])
def test_possible_deadlines(after_s: float) -> None:
    check_times(NOW, NOW + after_s)


@pytest.mark.parametrize("deadline_at", [NOW - 1, 0.0, NOW + 2 * MAX_DEADLINE_S, NOW * 1e3, 1e308, -1e308])
def test_impossible_deadlines(deadline_at: float) -> None:
    with pytest.raises(BadJob, match=r"deadline_at = .* from captured_at = "):
        check_times(NOW, deadline_at)


# whose clock ────────────────────────────────────────────────────────────────────────────────────────


def test_a_machine_whose_clock_is_behind_refuses_no_good_job() -> None:
    machines = Machines(now=NOW - 3600)
    clock = machines.clock()
    clock.check(NOW, None)
    with pytest.raises(BadJob, match=r"is 3,600\.0 s in the future"):
        clock.check(NOW + 3600, None)


def test_a_server_whose_clock_is_behind_has_no_good_job_refused() -> None:
    clock = Machines(server_now=NOW - 3600).clock()
    clock.measure()
    clock.check(NOW, None)


def test_what_looks_right_costs_no_round_trip_and_what_looks_wrong_one_a_second() -> None:
    machines = Machines()
    clock = machines.clock()
    for _ in range(10):
        clock.check(NOW, None)
    assert machines.asked == 0
    for _ in range(10):
        with pytest.raises(BadJob):
            clock.check(NOW + 100, None)
    assert machines.asked == 1
    machines.pass_by(1.0)
    with pytest.raises(BadJob):
        clock.check(NOW + 100, None)
    assert machines.asked == 2


def test_with_the_server_away_this_machines_clock_decides() -> None:
    clock = Machines(away=True).clock()
    clock.check(NOW, None)
    with pytest.raises(BadJob):
        clock.check(NOW + 100, None)


# the offset ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_round_trip_is_halved() -> None:
    """The server answers half-way, so it is 1 s behind what this machine's clock says then."""
    offsets: list[float] = []
    Machines(now=NOW, server_now=NOW - 0.75, round_trip_s=0.5).clock(offsets).measure()
    assert offsets == pytest.approx([1.0])


def test_it_is_measured_now_and_then() -> None:
    machines, offsets = Machines(), list[float]()
    clock = machines.clock(offsets)
    for _ in range(10):
        clock.measure()
    assert machines.asked == 1
    machines.pass_by(60)
    machines.now += 7
    clock.measure()
    assert offsets == pytest.approx([0.0, 7.0])


def test_an_offset_is_reported_once_per_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sortline.clock")
    machines = Machines()
    clock = machines.clock()

    def logged(offset_s: float) -> list[str]:
        caplog.clear()
        for _ in range(3):
            machines.pass_by(60)
            machines.now = machines.server_now + offset_s
            clock.measure()
        return [record.getMessage() for record in caplog.records]

    assert logged(NOTABLE_OFFSET_S / 2) == []
    (ahead,) = logged(3600.0)
    assert "3600.00 s ahead of the Redis server's" in ahead and "NTP" in ahead
    assert logged(3600.1) == []
    (behind,) = logged(-60.0)
    assert "60.00 s behind" in behind
    assert logged(NOTABLE_OFFSET_S * 0.9) == []
    (agree,) = logged(0.01)
    assert "agree again" in agree
    assert logged(0.0) == []


def test_a_slow_answer_is_no_offset(caplog: pytest.LogCaptureFixture) -> None:
    """A server that stalled for ten seconds may have read its clock at any moment of them."""
    machines = Machines(server_now=NOW, round_trip_s=10.0)
    machines.clock().measure()
    assert caplog.records == []
