"""Models for groups whose workers work at the same time for certain, however late one of them begins.

Each worker's first two batches wait in the engine for all the others' of that group: when the second ones come out,
every worker has finished a batch, and will finish another. Functions of a module, so that
a group's processes find them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.contenders import worker_processes
from bench.engines.null import NullEngine, null_model
from bench.engines.simulated import SimulatedEngine
from shared.settings import Settings
from tests.worker import kit
from worker.models.loading import LoadedModel

MEETINGS = 2


class _Meeting(NullEngine):
    """Every group needs more images than one worker holds at once, or the others come in vain."""

    _met = 0

    def predict(self, batch: kit.Pixels, *, on_ready_for_next: Callable[[], None] | None = None) -> Any:
        if self._met < MEETINGS:
            self._met += 1
            worker_processes._start_barrier.wait(
                kit.PATIENCE_S
            )  # the group's own: it has as many places as the group has workers
        return super().predict(batch, on_ready_for_next=on_ready_for_next)


class _MeetingSimulated(_Meeting, SimulatedEngine):
    """The same, and then takes a GPU's time."""


def meeting_null_model(settings: Settings) -> LoadedModel:
    """In place of `null_model`."""
    return replace(null_model(settings), engine=_Meeting())


def meeting_simulated_model(settings: Settings) -> LoadedModel:
    """In place of `simulated_model`."""
    return replace(null_model(settings), engine=_MeetingSimulated())
