"""The error message of a job that is not tried again."""

from __future__ import annotations

import pytest

from shared.jobs import MAX_CRASHES
from worker.state.jobs import NO_DEATHS, Deaths
from worker.steps.quarantine import quarantined


@pytest.mark.parametrize(
    ("deaths", "says"),
    [
        (
            Deaths(crashes=MAX_CRASHES, losses=1, suspicion="SIGSEGV"),
            "crashed or hung the worker 3 times while",
        ),
        (Deaths(crashes=MAX_CRASHES, losses=30, suspicion="SIGSEGV"), "in hand: SIGSEGV"),
        (Deaths(crashes=2, losses=20, suspicion="SIGSEGV"), "lost 20 times with its worker, for reasons unknown"),
        (NO_DEATHS, "abandoned"),
    ],
)
def test_the_message_gives_the_reason_for_the_deaths(deaths: Deaths, says: str) -> None:
    assert says in str(quarantined(deaths, max_losses=20))
