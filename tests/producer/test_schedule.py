"""When frames are due: at a rate that never drifts, without bursts, or at once."""

from __future__ import annotations

import pytest

from producer.schedule import Schedule


def test_the_schedule_is_absolute_so_that_nothing_drifts() -> None:
    """A loop that is always a little late still takes rate x time frames."""
    schedule = Schedule(10.0)
    schedule.start(100.0)
    now, taken = 100.0, 0
    while now < 200.0:
        due, wait_s = schedule.due(now)
        schedule.consumed(due)
        taken += due
        now += wait_s + 0.033
    assert taken == pytest.approx(1000, abs=1)


def test_the_schedule_gives_all_frames_that_are_due() -> None:
    schedule = Schedule(100.0)
    schedule.start(0.0)
    assert schedule.due(0.0) == (1, 0.0)
    assert schedule.due(0.055) == (6, 0.0)
    schedule.consumed(6)
    due, wait_s = schedule.due(0.055)
    assert (due, wait_s) == (0, pytest.approx(0.005))


def test_a_camera_that_was_held_up_does_not_catch_up_in_a_burst() -> None:
    schedule = Schedule(100.0)
    schedule.start(0.0)
    assert schedule.skip_missed(1.0) == 0
    assert schedule.skip_missed(60.004) == 6000
    assert schedule.skip_missed(60.004) == 0
    assert schedule.due(60.004) == (1, 0.0)
    schedule.consumed(1)
    due, wait_s = schedule.due(60.004)
    assert (due, wait_s) == (0, pytest.approx(0.006))


def test_as_fast_as_possible_misses_nothing() -> None:
    schedule = Schedule(0.0)
    schedule.start(0.0)
    assert schedule.skip_missed(60.0) == 0
