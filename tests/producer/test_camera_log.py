"""The camera's log lines about dropped frames and outages: few, whatever happens."""

from __future__ import annotations

import pytest

from producer.camera_log import DropLog, FullQueueLog, LateFileLog, OutageLog
from shared.errors import Bound, QueueFull, RedisUnavailable


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_dropped_frames_are_named_in_one_line_per_second(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    dropped = DropLog("line-1", "dropped", clock=clock)
    for number in range(14):
        dropped.add([f"frame {number}"], "the queue is full")
        dropped.flush()
    clock.now = 1.0
    dropped.flush()
    dropped.flush(now=True)
    names = ", ".join(f"frame {number}" for number in range(1, 11))
    assert caplog.messages == [
        "line line-1: 1 frame dropped: frame 0: the queue is full",
        f"line line-1: 13 frames dropped: {names} and 3 more, to frame 13: the queue is full",
    ]


def test_several_reasons_are_counted_and_explained_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    dropped = DropLog("line-1", "dropped", clock=clock)
    dropped.add(["a"], "it is full: 1", reason="items")
    dropped.flush()
    for number in range(3):
        dropped.add([f"b{number}"], f"it is full: {number}", reason="items")
    dropped.add(["c"], "no time", reason="deadline")
    dropped.add([], "never", reason="bytes")
    dropped.flush()
    assert len(caplog.messages) == 1
    clock.now = 1.0
    dropped.flush()
    assert caplog.messages == [
        "line line-1: 1 frame dropped (items): a: it is full: 1",
        "line line-1: 4 frames dropped (items 3, deadline 1): b0, b1, b2, c: items: it is full: 2 deadline: no time",
    ]


def test_waits_for_a_full_queue_are_added_up_and_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    full = FullQueueLog("line-1", clock=clock)
    for clock.now in (0.0, 30.0, 60.0):
        full.begin(QueueFull("no place.", bound=Bound.LINE))
        clock.now += 2.5
        assert full.total_s() == (clock.now - 2.5) / 30.0 * 2.5 + 2.5
        full.end()
    clock.now = 99.0
    full.end()
    assert full.total_s() == 7.5
    waiting = "line line-1: waiting for the queue (line): no place."
    assert caplog.messages == [waiting, f"{waiting} It has waited 5.0 s so far."]


def test_an_outage_is_logged_at_its_start_each_minute_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    outages = OutageLog("line-1", clock=clock, retry_s=1.0)
    assert not outages.lasts
    for clock.now in (1.0, 30.0, 60.9, 61.0):
        outages.note(RedisUnavailable("no Redis server answers."), since=0.5)
    assert outages.lasts
    assert outages.total_s() == 60.5
    clock.now = 70.5
    outages.end(since=70.0)
    outages.end(since=70.0)
    assert not outages.lasts
    assert outages.total_s() == 70.0
    trying = "line line-1: no Redis server answers. Trying again every 1 s."
    assert caplog.messages == [trying, trying, "line line-1: the server answers again, after 70.0 s"]


def test_a_late_answer_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    outages = OutageLog("line-1", clock=clock, retry_s=1.0)
    for clock.now in (0.9, 3.0):
        outages.end(since=0.0)
    assert outages.total_s() == 3.0
    assert caplog.messages == ["line line-1: the server took 3.0 s to answer"]


def test_a_new_file_that_comes_after_its_deadline_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    late = LateFileLog("line-1", started_at=10_000.0)
    late.note("old.jpg", captured_at=6_000.0, came_at=9_999.0, deadline_ms=300.0)
    late.note("in-time.jpg", captured_at=10_000.0, came_at=10_000.3, deadline_ms=300.5)
    late.note("any-time.jpg", captured_at=6_000.0, came_at=10_000.0, deadline_ms=None)
    assert not caplog.messages
    late.note("late.jpg", captured_at=6_400.0, came_at=10_000.0, deadline_ms=300.0)
    late.note("later.jpg", captured_at=6_400.0, came_at=10_001.0, deadline_ms=300.0)
    (message,) = caplog.messages
    assert message.startswith("line line-1: late.jpg came into the folder 3,600.0 s after its time of capture")
    assert "its deadline is 300 ms" in message
    for mend in ("NTP", "%z in --stamp-pattern", "TZ=UTC", "--capture-lag-ms"):
        assert mend in message
