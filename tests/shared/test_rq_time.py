"""RQ's form of a time, beside RQ's own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from rq.utils import utcformat, utcparse

from shared.rq_time import format_rq_time, parse_rq_time


@pytest.mark.parametrize("at", [0.0, 1_000_000_000.0, 1_793_000_000.123456])
def test_written_and_read_as_by_rq(at: float) -> None:
    text = format_rq_time(at)
    assert text == utcformat(datetime.fromtimestamp(at, UTC))
    assert utcparse(text).timestamp() == pytest.approx(at, abs=1e-6)
    assert parse_rq_time(text.encode()) == pytest.approx(at, abs=1e-6)


@pytest.mark.parametrize("field", [None, b"", b"yesterday", b"\xff", b"1793000000.5"])
def test_what_is_no_time_is_none(field: bytes | None) -> None:
    assert parse_rq_time(field) is None
