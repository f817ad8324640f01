"""What the cameras report, and whether every frame is accounted for."""

from __future__ import annotations

import pytest

from bench.measuring.traffic import TrafficResult, TrafficSpec, check_accounted, refused_by_reason
from shared.errors import Transient
from shared.schemas import Outcome, SortResult


def test_a_line_that_lost_or_repeated_an_image_is_found_out() -> None:
    spec, sent = TrafficSpec(line="l", count=3), TrafficResult(3, 2, {"items": 1}, 0, 10.0, 0.3, 1, {})
    found = [
        SortResult(
            job_id=name,
            line="l",
            camera="c",
            captured_at=1.0,
            finished_at=2.0,
            outcome=Outcome.LATE,
            lane="x",
            worker="w",
        )
        for name in ("one", "two")
    ]
    check_accounted(found, spec, sent)
    for wrong in (found[:1], [*found, found[0]], [found[0], found[0]]):
        with pytest.raises(Transient, match=r"2 of 3 frames were accepted and 1 refused"):
            check_accounted(wrong, spec, sent)


def test_refusals_are_read_by_reason_or_as_an_earlier_release_counts_them() -> None:
    assert refused_by_reason({"refused_full": 3}) == {"full": 3}
    assert refused_by_reason({"refused_full": 0}) == {}
    assert refused_by_reason({"refused": {"items": 2, "deadline": 0, "bytes": 1}, "refused_full": 3}) == {
        "items": 2,
        "bytes": 1,
    }
