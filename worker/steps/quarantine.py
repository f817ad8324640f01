"""Quarantine: says why a job is not tried again. In: a job that reap.lua has given up. Out: the error of its result."""

from __future__ import annotations

from shared.errors import Quarantined
from shared.jobs import MAX_CRASHES
from worker.state.jobs import Deaths


def quarantined(deaths: Deaths, *, max_losses: int) -> Quarantined:
    """The error of a job that is given up because its workers died, or because it was lost."""
    if deaths.crashes >= MAX_CRASHES:
        return Quarantined(
            f"crashed or hung the worker {deaths.crashes} times while nothing else was in hand: {deaths.suspicion}"
        )
    if deaths.losses >= max_losses:
        return Quarantined(
            f"lost {deaths.losses} times with its worker, for reasons unknown (max_losses): the worker was killed, its "
            "host failed, or its lease ran out."
        )
    return Quarantined("found abandoned by RQ's clean-up, or lost a second time: in no queue and held by no worker.")
