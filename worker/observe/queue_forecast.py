"""What a queue's rates mean: how long it takes to empty, and how much of the workers' capacity what arrives takes.

Producers and workers write the rates into the hash `shared.keys.flow`. Anybody who may write to the server could have
written anything there: whatever is no usable number counts as missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from shared.arrivals import arrival_rate

# Fields of the hash.
ARRIVALS = ("arrived", "arrived_for", "arrived_at")
CAPACITY, CAPACITY_AT = "capacity", "capacity_at"

# A capacity that is older was written by workers that are gone. worker/rq/scripts/report_capacity.lua has the same
# number.
FRESH_S = 10.0
# The figures stay finite, also while no worker serves the queue: these are the most that they show.
MAX_DRAIN_S = 3600.0
MAX_LOAD_RATIO = 100.0
# The count of arrivals decays, but never becomes 0. A lower rate, in frames per second, counts as 0.
_LEAST_RATE = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Of one queue, over all workers. All figures are finite, and none is negative."""

    capacity: float  # images per second that the workers can sort for the queue; 0 without workers
    drain_s: float  # until the jobs that wait now are sorted
    load_ratio: float  # what arrives over what the workers can do


def forecast(flow: Mapping[str, bytes | None], *, depth: int, now: float) -> Forecast:
    """The forecast of a queue.

    Args:
        flow: the fields of its hash; None for one that is not there.
        depth: how many jobs wait.
        now: the server's time, epoch seconds.
    """
    capacity = _capacity(flow, now=now)
    rate = _arrival_rate(flow, now=now)
    return Forecast(
        capacity=capacity,
        drain_s=_ratio(depth, capacity, most=MAX_DRAIN_S),
        load_ratio=_ratio(rate, capacity, most=MAX_LOAD_RATIO),
    )


def _capacity(flow: Mapping[str, bytes | None], *, now: float) -> float:
    capacity, at = _number(flow[CAPACITY]), _number(flow[CAPACITY_AT])
    if capacity is None or at is None or abs(now - at) > FRESH_S:
        return 0.0
    return capacity


def _arrival_rate(flow: Mapping[str, bytes | None], *, now: float) -> float:
    arrived, arrived_for, arrived_at = (_number(flow[name]) for name in ARRIVALS)
    if arrived is None or arrived_for is None or arrived_at is None:
        return 0.0
    rate = arrival_rate(arrived=arrived, arrived_for=arrived_for, arrived_at=arrived_at, now=now)
    return rate if rate >= _LEAST_RATE else 0.0


def _ratio(what: float, capacity: float, *, most: float) -> float:
    if what <= 0:
        return 0.0
    return min(most, what / capacity) if capacity > 0 else most


def _number(field: bytes | None) -> float | None:
    try:
        value = float(field or b"")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
