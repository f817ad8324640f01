"""Writes and reads times in RQ's format. RQ's `Job.fetch` raises on any other format."""

from __future__ import annotations

from datetime import UTC, datetime

_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


def format_rq_time(at: float) -> str:
    """UTC epoch seconds as RQ writes them."""
    return datetime.fromtimestamp(at, UTC).strftime(_FORMAT)


def parse_rq_time(field: bytes | None) -> float | None:
    """A field that RQ wrote, as UTC epoch seconds; None if the field is missing or is not a time."""
    if not field:
        return None
    try:
        return datetime.fromisoformat(field.decode()).timestamp()
    except ValueError:
        return None
