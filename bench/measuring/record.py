"""What a benchmark records: medians, spreads, percentiles."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

# Called with a text that says what a benchmark is doing.
OnProgress = Callable[[str], None]
Record = dict[str, Any]


def spread(values: Sequence[float], *, digits: int = 1) -> dict[str, float]:
    """Median, minimum and maximum over the rounds."""
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in figures.items()}


def percentile(values: Sequence[float], percent: int) -> float:
    """The percentile of the values: always one of them, never interpolated between two."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def percentiles(times_ms: Sequence[float], *, digits: int = 1) -> dict[str, float]:
    """The number of times, their percentiles and the longest of them, in ms."""
    found = {f"p{percent}": round(percentile(times_ms, percent), digits) for percent in (50, 95, 99)}
    return {"images": len(times_ms), **found, "max": round(max(times_ms), digits)}
