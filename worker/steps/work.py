"""The records of a job that has its model: decoded items, batches of them, and the model's answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from shared.errors import EngineFailed
from worker.models.model import Model, Probabilities
from worker.models.result_cache import CacheKey
from worker.state.jobs import AdmittedJob
from worker.state.pixel_buffer import PixelSlot


@dataclass(frozen=True, slots=True)
class Decoded:
    """An admitted job with its pixels, which lie in a slot of its model's buffer."""

    admitted: AdmittedJob
    slot: PixelSlot
    decode_ms: float
    ready_at: float  # monotonic seconds
    model: Model
    cache_key: CacheKey | None = None  # None: the answer is not cached
    note: object = None  # the observer's own (`worker.steps.observer`)


@dataclass(frozen=True, slots=True)
class Batch:
    """Items for one call of one model, earliest deadline first, and why it started when it did."""

    items: tuple[Decoded, ...]
    reason: str  # full, deadline, linger, drain
    expired: tuple[Decoded, ...] = ()  # of the same model: they could not be in time any more, and must not run
    since: float | None = None  # monotonic seconds: from then on nothing but the worker kept the engine from running it
    needs_s: float = 0.0  # the least seconds that one of `expired` would still have taken by the plan


class Prediction(NamedTuple):
    """An item and the output of its model; None for an item that would have missed its deadline and was left out."""

    item: Decoded
    output: Probabilities | EngineFailed | None
