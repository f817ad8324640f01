"""Which times of capture are refused, by whose clock, and what is logged about an offset. The clocks are made up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import pytest
import redis

from shared.clock import (
    EARLIEST_AT,
    FIRST_PROBES,
    MAX_DEADLINE_S,
    MEASURE_AGAIN_S,
    MEASURE_INTERVAL_S,
    NOTABLE_OFFSET_S,
    ServerClock,
    check_times,
)
from shared.errors import BadJob
from tests.kit import PATIENCE_S

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
    before_answer: Callable[[], object] = lambda: None

    def time(self) -> tuple[int, int]:
        """Like `redis.Redis.time`."""
        self.asked += 1
        if self.away:
            raise redis.exceptions.ConnectionError("away")
        self.before_answer()
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


@pytest.mark.parametrize("own_s", [-3600.0, 0.0, 3600.0])
def test_a_producer_whose_clock_is_known_to_be_wrong_has_no_good_job_refused(own_s: float) -> None:
    machines = Machines(now=NOW + own_s)
    clock = machines.clock()
    clock.check(NOW + 1800, NOW + 1801, clock_offset_s=1800.0)
    with pytest.raises(BadJob, match=rf"captured_at = {NOW + 9000} is "):
        clock.check(NOW + 9000, None, clock_offset_s=1800.0)


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
    assert machines.asked == FIRST_PROBES
    machines.pass_by(1.0)
    with pytest.raises(BadJob):
        clock.check(NOW + 100, None)
    assert machines.asked == FIRST_PROBES + 1


def test_with_the_server_away_this_machines_clock_decides() -> None:
    clock = Machines(away=True).clock()
    clock.check(NOW, None)
    with pytest.raises(BadJob):
        clock.check(NOW + 100, None)


# the offset ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_round_trip_is_halved() -> None:
    """The server answers half-way, so it is 1 s behind what this machine's clock says then."""
    offsets: list[float] = []
    machines = Machines(now=NOW, server_now=NOW - 0.75, round_trip_s=0.5)
    clock = machines.clock(offsets)
    machines.before_answer = lambda: setattr(machines, "server_now", machines.now - 0.75)
    clock.measure()
    assert offsets == pytest.approx([1.0])
    assert clock.offset_s == pytest.approx(1.0)


def test_it_is_measured_now_and_then() -> None:
    machines, offsets = Machines(), list[float]()
    clock = machines.clock(offsets)
    for _ in range(10):
        clock.measure()
    assert machines.asked == FIRST_PROBES
    machines.pass_by(MEASURE_INTERVAL_S)
    machines.server_now -= 7
    for _ in range(10):
        clock.measure()
    assert machines.asked == FIRST_PROBES + 1
    assert offsets == pytest.approx([0.0, 7.0])


def test_of_the_first_measurement_the_shortest_round_trip_counts() -> None:
    """The first call opens a connection."""
    machines = Machines(server_now=NOW - 7)
    trips_s = iter([0.5, 0.002, 0.3])
    machines.before_answer = lambda: setattr(machines, "round_trip_s", next(trips_s))
    clock = machines.clock()
    clock.measure()
    assert next(trips_s, None) is None
    assert clock.offset_s == pytest.approx(0.5 + 7 + 0.001)  # the server's clock stands still meanwhile


def test_until_it_is_measured_it_is_zero_and_soon_tried_again() -> None:
    machines = Machines(now=NOW + 30, away=True)
    clock = machines.clock()
    for _ in range(10):
        clock.ensure_measured()
        clock.measure()
    assert (machines.asked, clock.offset_s, clock.now()) == (1, 0.0, NOW + 30)
    machines.away = False
    machines.pass_by(MEASURE_AGAIN_S)
    clock.ensure_measured()
    assert (clock.offset_s, clock.now()) == (30.0, machines.server_now)
    asked = machines.asked
    clock.ensure_measured()
    assert machines.asked == asked


def test_an_outage_keeps_what_was_measured() -> None:
    machines = Machines(now=NOW + 30)
    clock = machines.clock()
    clock.measure()
    machines.away = True
    machines.pass_by(DAY_S)
    clock.measure()
    assert clock.offset_s == 30.0


def test_an_answer_that_is_no_time_changes_nothing() -> None:
    machines = Machines(now=NOW + 30)
    clock = machines.clock()
    machines.before_answer = lambda: int("what?")
    clock.measure()
    clock.check(NOW, None)
    assert clock.offset_s == 0.0


def test_it_is_measured_anew_soon_after_this_machines_clock_was_set() -> None:
    machines = Machines(now=NOW + 30)
    clock = machines.clock()
    clock.measure()
    machines.pass_by(MEASURE_AGAIN_S)
    machines.now -= 30
    clock.measure()
    assert clock.offset_s == 0.0
    machines.pass_by(MEASURE_AGAIN_S)
    asked = machines.asked
    clock.measure()
    assert machines.asked == asked


def test_what_was_measured_before_the_clock_was_set_is_not_trusted_however_exact_it_was() -> None:
    machines = Machines(now=NOW + 30, round_trip_s=0.2)
    clock = machines.clock()
    clock.measure()
    machines.pass_by(MEASURE_AGAIN_S)
    machines.round_trip_s = 0.4
    exact_s = clock.offset_s
    machines.now -= 0.2  # so little that a slow answer alone does not show it
    clock.measure()
    assert clock.offset_s != exact_s


def test_threads_that_need_it_wait_for_the_one_that_measures() -> None:
    machines = Machines(now=NOW + 30)
    clock = machines.clock()
    measuring, answer = threading.Event(), threading.Event()

    def answer_late() -> None:
        measuring.set()
        assert answer.wait(PATIENCE_S)

    machines.before_answer = answer_late
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(clock.ensure_measured)
        assert measuring.wait(PATIENCE_S)
        others = [pool.submit(lambda: (clock.ensure_measured(), clock.offset_s)[1]) for _ in range(3)]
        assert not any(other.done() for other in others)
        answer.set()
        first.result(PATIENCE_S)
        assert [other.result(PATIENCE_S) for other in others] == [30.0] * 3
    assert machines.asked == FIRST_PROBES


def test_an_offset_is_reported_once_per_change(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sortline.clock")
    machines = Machines()
    clock = machines.clock()

    def logged(offset_s: float) -> list[str]:
        caplog.clear()
        for _ in range(3):
            machines.pass_by(60)
            machines.now = machines.server_now + offset_s  # set by hand: measured anew, however small the change
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
