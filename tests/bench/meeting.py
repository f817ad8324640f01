"""Models with which all workers of a group certainly work at the same time, however late one of them begins.

The first two batches of each worker wait in the engine for those of all other workers. When the second batches leave
the engine, every worker has finished one batch and will finish another. The models are made by functions of a module,
so that the group's processes can import them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.contenders.worker_processes import meet_group
from bench.engines.null import NullEngine, null_model
from bench.engines.simulated import SimulatedEngine
from shared.settings import Settings
from tests.worker import kit
from worker.models.loading import LoadedModel

MEETINGS = 2


class _Meeting(NullEngine):
    """A group needs more images than one worker holds at once, or the other workers wait for nothing."""

    _met = 0

    def predict(self, batch: kit.Pixels, *, on_ready_for_next: Callable[[], None] | None = None) -> Any:
        if self._met < MEETINGS:
            self._met += 1
            meet_group(kit.PATIENCE_S)
        return super().predict(batch, on_ready_for_next=on_ready_for_next)


class _MeetingSimulated(_Meeting, SimulatedEngine):
    """Like `_Meeting`, but then takes as long as a GPU."""


def meeting_null_model(settings: Settings) -> LoadedModel:
    """Like `null_model`, but its engine first waits for those of the other workers."""
    return replace(null_model(settings), engine=_Meeting())


def meeting_simulated_model(settings: Settings) -> LoadedModel:
    """In place of `gpu_like_model`."""
    return replace(null_model(settings), engine=_MeetingSimulated())
