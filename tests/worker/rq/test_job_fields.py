"""Fields of a job's hash, which anybody may have written."""

from __future__ import annotations

import pytest

from worker.rq.job_fields import MAX_CLOCK_OFFSET_S, clock_offset_in


@pytest.mark.parametrize(
    ("field", "offset_s"),
    [
        (b"30.000125", 30.000125),
        (b"-30", -30.0),
        (repr(-1 / 3).encode(), -1 / 3),
        (b"0", 0.0),
        (f"{MAX_CLOCK_OFFSET_S:.0f}".encode(), MAX_CLOCK_OFFSET_S),
    ],
)
def test_a_clock_offset(field: bytes, offset_s: float) -> None:
    assert clock_offset_in(field) == offset_s


@pytest.mark.parametrize(
    "field",
    [
        *(None, b"", b"nan", b"inf", b"-inf", b"1e308", b"-1e9", b"1e999", b"thirty", b"\xff", b"\x00", b"3,5"),
        *(b"0x1p3", b"1" * 5_000_000, b"0." + b"3" * 40),
    ],
    ids=lambda field: repr(field)[:12],
)
def test_no_possible_clock_offset_counts_as_none(field: bytes | None) -> None:
    """An older producer writes none."""
    assert clock_offset_in(field) == 0.0
