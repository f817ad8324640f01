"""A running estimate lies above most measurements, survives a stall and follows a change."""

from __future__ import annotations

import random

import pytest

from worker.state.running_estimate import RunningEstimate


def test_a_steady_duration_is_estimated_as_it_is() -> None:
    estimate = RunningEstimate(weight=0.2)
    assert (estimate.mean, estimate.high) == (0.0, 0.0)
    for _ in range(5):
        estimate.observe(0.010)
    assert (estimate.mean, estimate.high) == (pytest.approx(0.010), pytest.approx(0.010))


def test_most_noisy_measurements_are_shorter_than_the_estimate() -> None:
    random_, estimate = random.Random(1), RunningEstimate(weight=0.1)
    longer = 0
    for number in range(2000):
        seconds = random_.gauss(0.010, 0.001)
        longer += number > 50 and seconds > estimate.high
        estimate.observe(seconds)
    assert longer < 0.12 * 2000
    assert estimate.high < 0.013


def test_one_stall_counts_for_little_and_a_change_is_believed() -> None:
    estimate = RunningEstimate(weight=0.2)
    for _ in range(10):
        estimate.observe(0.010)
    estimate.observe(5.0)
    assert estimate.mean == pytest.approx(0.012)
    for _ in range(30):
        estimate.observe(0.100)
    assert estimate.mean == pytest.approx(0.100, rel=0.05)


def test_short_measurements_do_not_raise_the_estimate() -> None:
    estimate = RunningEstimate(weight=0.2)
    estimate.observe(0.100)
    before_s = estimate.high
    for _ in range(20):
        estimate.observe(0.010)
        assert estimate.high < before_s
        before_s = estimate.high


@pytest.mark.parametrize("first_s", [2.0, 0.0001])
def test_an_odd_first_measurement_is_forgotten_after_a_few_others(first_s: float) -> None:
    """The first claim of a worker finds a cold server, the first image a cold decoder."""
    estimate = RunningEstimate(weight=0.05)
    estimate.observe(first_s)
    assert estimate.mean == first_s
    estimate.observe(0.010)
    assert estimate.mean == min(first_s, 0.010), "of two, the shorter one"
    estimate.observe(0.010)
    assert estimate.mean == 0.010
    for _ in range(3):
        estimate.observe(0.010)
    assert estimate.high < 0.020


def test_the_estimate_can_be_scaled_while_it_is_new() -> None:
    estimate = RunningEstimate(weight=0.2)
    estimate.observe(0.100)
    estimate.scale(0.5)
    estimate.observe(0.200)
    assert estimate.mean == pytest.approx(0.050)
