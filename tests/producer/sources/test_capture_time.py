"""The time of capture: from the file's time, or from a stamp in its name."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from producer.sources.capture_time import CaptureTimes, StampPattern
from shared.errors import BadSetting

# 2026-11-26 10:15:30 UTC
AT = datetime(2026, 11, 26, 10, 15, 30, tzinfo=UTC).timestamp()


@pytest.fixture(autouse=True)
def plant_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sets a time zone that is one hour ahead of UTC in winter, and two in summer."""
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("%Y%m%d_%H%M%S", "cam1_20261126_111530.jpg", AT),
        ("%Y%m%d_%H%M%S_%f", "20261126_111530_250.jpg", AT + 0.25),
        ("%Y%m%d_%H%M%S_%f", "20261126_111530_000250.jpg", AT + 0.00025),
        ("%Y-%m-%dT%H.%M.%S%z", "a 2026-11-26T10.15.30Z.jpg", AT),
        ("%Y-%m-%dT%H.%M.%S%z", "a 2026-11-26T12.15.30+02:00.jpg", AT),
        ("%Y/%m/%d/%H%M%S", "2026/11/26/111530.jpg", AT),
        ("%Y%m%d%H%M%S", "cam0120261126111530.jpg", AT),  # the first fourteen digits are not a stamp
        ("%Y%m%d%H%M%S", "20260231111530 20261126111530.jpg", AT),  # there is no 31st of February
        ("_%s.", "frame_1795688130.jpg", AT),
        ("%s%f", "1795688130125.jpg", AT + 0.125),
        ("100%% %s", "100% 1795688130.jpg", AT),
        ("%Y%m%d_%H%M%S", "20260726_121530.jpg", datetime(2026, 7, 26, 10, 15, 30, tzinfo=UTC).timestamp()),
    ],
)
def test_a_stamp_is_found_in_the_name(pattern: str, name: str, expected: float) -> None:
    assert StampPattern(pattern).read(name, modified_at=AT) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("later_s", [0, 3600])
def test_in_the_hour_that_comes_twice_the_time_of_the_file_decides(later_s: int) -> None:
    """Otherwise all pictures of that hour would be an hour old, or in the future."""
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()  # 2:30, an hour before the clocks go back
    times = CaptureTimes(pattern=StampPattern("%Y%m%d_%H%M%S"))
    modified_at = first + later_s + 0.5
    assert times.captured_at("20261025_023000.jpg", int(modified_at * 1e9), modified_at) == first + later_s


@pytest.mark.parametrize("name", ["a.jpg", "20261326_111530.jpg", "2026112_111530.jpg", os.fsdecode(b"\xff\n.jpg")])
def test_a_name_without_a_stamp_has_no_time(name: str) -> None:
    assert StampPattern("%Y%m%d_%H%M%S").read(name, modified_at=AT) is None
    assert CaptureTimes(pattern=StampPattern("%s")).captured_at(name, 0, AT) is None


@pytest.mark.parametrize("pattern", ["", "%Y%m%d", "%H%M%S", "%Y%m%d%H%M%S%Y", "%Y%m%d_%H%M%Q", "%s%"])
def test_a_pattern_that_gives_no_time_is_refused_with_an_example(pattern: str) -> None:
    with pytest.raises(BadSetting, match=r"e\.g\. %Y%m%d_%H%M%S_%f") as caught:
        StampPattern(pattern)
    assert repr(pattern) in str(caught.value)


def test_the_time_is_the_files_own_by_default_and_the_lag_is_subtracted() -> None:
    modified_ns = int(AT * 1e9)
    assert CaptureTimes().captured_at("a.jpg", modified_ns, AT + 60) == AT
    assert CaptureTimes(lag_ms=250).captured_at("a.jpg", modified_ns, AT + 60) == AT - 0.25
    assert CaptureTimes(lag_ms=250, pattern=StampPattern("%s")).captured_at("1700000000", 0, AT) == 1_699_999_999.75


def test_a_time_a_little_ahead_counts_as_now_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A share's clock is rarely exact. A time that is farther ahead is kept, and the producer refuses it."""
    times = CaptureTimes(tolerance_s=5.0, lag_ms=100)
    assert times.captured_at("a.jpg", int((AT + 0.1) * 1e9), AT) == AT - 0.1
    assert caplog.text == ""
    for _ in range(2):
        assert times.captured_at("a.jpg", int((AT + 4) * 1e9), AT) == AT - 0.1
    assert caplog.text.count("4.00 s in the future") == 1
    assert times.captured_at("a.jpg", int((AT + 60) * 1e9), AT) == pytest.approx(AT + 59.9, abs=0.001)


def test_a_description_says_where_the_time_comes_from() -> None:
    assert CaptureTimes().describe() == "time of capture: when the file was last modified"
    times = CaptureTimes(pattern=StampPattern("%s"), lag_ms=250)
    assert times.describe() == "time of capture: from its name (%s), minus 250 ms"
