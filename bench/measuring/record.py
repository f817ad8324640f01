"""What a benchmark records: medians, spreads, percentiles."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

# Is told what a benchmark is doing, in words.
OnProgress = Callable[[str], None]
Record = dict[str, Any]


def spread(values: Sequence[float], *, digits: int = 1) -> dict[str, float]:
    """Median, minimum and maximum over the rounds."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in figures.items()}


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` % of the values don't exceed: one of them, never one in between."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def percentiles(times_ms: Sequence[float], *, digits: int = 1) -> dict[str, float]:
    """How many times there are, their percentiles and the longest, in ms."""
    found = {f"p{percent}": round(percentile(times_ms, percent), digits) for percent in (50, 95, 99)}
    return {"images": len(times_ms), **found, "max": round(max(times_ms), digits)}
