"""How exactly the server's time is known, in a made-up network: any delays, any offset, any drift."""

from __future__ import annotations

import random
from typing import cast

import pytest
import redis

from shared.clock import DRIFT, FIRST_PROBES, MEASURE_INTERVAL_S, READING_S, ServerClock

START_AT = 1_800_000_000.0
# Epoch seconds are floats with steps of 0.24 us, and a comparison adds and subtracts a few of them.
ROUNDING_S = 2e-6


class Network:
    """A server and a machine with a clock of its own. Time passes only while a call is under way, or by `pass_by`."""

    def __init__(self, chance: random.Random, *, offset_s: float, drift: float, least_trip_s: float) -> None:
        self._chance = chance
        self._elapsed_s = 0.0
        self._own_s = offset_s
        self._server_s = 0.0
        self._drift = drift
        self.least_trip_s = least_trip_s
        self.best_trip_s = float("inf")  # of the calls so far

    def time(self) -> tuple[int, int]:
        """Like `redis.Redis.time`. Out and back take differently long, by far in some calls."""
        jitter = self._chance.choice([0.1, 1.0, 100.0])
        out_s, back_s = (self.least_trip_s * (0.5 + self._chance.expovariate(1 / jitter)) for _ in range(2))
        out_s, back_s = (out_s, back_s) if self._chance.random() < 0.5 else (self.least_trip_s / 2, back_s)
        self._elapsed_s += out_s
        microseconds = int((START_AT + self._elapsed_s + self._server_s) * 1e6)
        self._elapsed_s += back_s
        self.best_trip_s = min(self.best_trip_s, out_s + back_s)
        return divmod(microseconds, 1_000_000)

    def pass_by(self, seconds: float) -> None:
        self._elapsed_s += seconds

    def set_clock(self, by_s: float, *, whose: str) -> None:
        """Set the machine's own clock, or the server's."""
        if whose == "own":
            self._own_s += by_s
        else:
            self._server_s += by_s

    @property
    def offset_s(self) -> float:
        """The truth."""
        return self._own_s - self._server_s + self._drift * self._elapsed_s

    def clock(self) -> ServerClock:
        return ServerClock(
            cast(redis.Redis, self),
            tolerance_s=5.0,
            clock=lambda: START_AT + self._elapsed_s + self._server_s + self.offset_s,
            monotonic=lambda: self._elapsed_s,
        )


def network(seed: int) -> Network:
    chance = random.Random(seed)
    return Network(
        chance,
        offset_s=chance.choice([0.0, 0.0001, 0.01, 0.3, 30.0, 3600.0]) * chance.choice([-1, 1]),
        drift=chance.uniform(-DRIFT, DRIFT) * 0.8,
        least_trip_s=chance.choice([30e-6, 300e-6, 0.01, 0.2]),
    )


def is_within_bound(plant: Network, clock: ServerClock) -> bool:
    best = clock._best
    assert best is not None
    error_s = best.error_s + DRIFT * (plant._elapsed_s - best.at) + ROUNDING_S
    # The offset that is counted with is 0 where 0 is possible: then it may be wrong by the bound once more.
    counted_s = error_s if clock.offset_s else error_s + best.error_s
    return abs(best.estimate_s - plant.offset_s) <= error_s and abs(clock.offset_s - plant.offset_s) <= counted_s


@pytest.mark.parametrize("seed", range(60))
def test_the_error_never_exceeds_the_bound(seed: int) -> None:
    plant = network(seed)
    clock = plant.clock()
    for _ in range(200):
        clock.measure()
        assert is_within_bound(plant, clock)
        plant.pass_by(MEASURE_INTERVAL_S)
        assert is_within_bound(plant, clock)


@pytest.mark.parametrize("seed", range(60))
def test_slow_answers_do_not_spoil_what_a_fast_one_has_shown(seed: int) -> None:
    """After an hour it is known about as exactly as the best round trip of the last minutes allows."""
    plant = network(seed)
    clock = plant.clock()
    for _ in range(360):
        clock.measure()
        plant.pass_by(MEASURE_INTERVAL_S)
    allowed_s = 2 * plant.least_trip_s + 6 * MEASURE_INTERVAL_S * DRIFT
    assert abs(clock._best.estimate_s - plant.offset_s) <= allowed_s if clock._best else False


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("by_s", [-30.0, -2.0, 2.0, 30.0])
@pytest.mark.parametrize("whose", ["own", "server"])
def test_a_clock_that_was_set_is_noticed_at_the_next_measurement(seed: int, by_s: float, whose: str) -> None:
    plant = network(seed)
    plant.least_trip_s = min(plant.least_trip_s, 0.001)  # so that no answer takes longer than the step
    clock = plant.clock()
    for _ in range(20):
        clock.measure()
        plant.pass_by(MEASURE_INTERVAL_S)
    plant.set_clock(by_s, whose=whose)
    clock.measure()
    assert is_within_bound(plant, clock)


def test_clocks_that_may_agree_are_taken_to_agree() -> None:
    """All processes of one machine then count with the same time: no jitter is added to what one of them measured."""
    plant = Network(random.Random(1), offset_s=0.0, drift=0.0, least_trip_s=0.001)
    clock = plant.clock()
    for _ in range(100):
        clock.measure()
        assert clock.offset_s == 0.0
        plant.pass_by(MEASURE_INTERVAL_S)
    assert clock._best is not None and clock._best.estimate_s != 0.0


def test_the_first_measurement_uses_the_best_of_its_probes() -> None:
    for seed in range(50):
        plant = network(seed)
        clock = plant.clock()
        clock.measure()
        assert clock._best is not None
        assert clock._best.error_s == pytest.approx(plant.best_trip_s / 2 + READING_S)
    assert FIRST_PROBES == 3
