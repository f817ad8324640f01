"""Reads a SortResult that somebody may have forged: anyone who can write to the server can add one.

A SortResult that passes can be shown, written and compared without a further check.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from shared.schemas import SortResult


def parse_result(text: bytes) -> SortResult:
    """The result in this JSON.

    Raises:
        ValueError: it is none. pydantic's ValidationError is one too.
    """
    return _checked(SortResult.model_validate_json(text))


def validate_result(value: Any) -> SortResult:
    """The result that these fields make; raises as `parse_result`."""
    return _checked(SortResult.model_validate(value))


def _checked(result: SortResult) -> SortResult:
    for name, number in _numbers(result):
        if not math.isfinite(number):
            raise ValueError(f"{name} = {number} should be a finite number")
    try:
        datetime.fromtimestamp(result.finished_at, UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"finished_at = {result.finished_at} should be UTC epoch seconds") from None
    return result


def _numbers(result: SortResult) -> Iterator[tuple[str, float]]:
    yield from (("captured_at", result.captured_at), ("finished_at", result.finished_at))
    if result.deadline_margin_ms is not None:
        yield "deadline_margin_ms", result.deadline_margin_ms
    yield from (("labels.probability", label.probability) for label in result.labels)
    for stage, duration_ms in result.timings_ms:
        if duration_ms is not None:
            yield f"timings_ms.{stage}", duration_ms
