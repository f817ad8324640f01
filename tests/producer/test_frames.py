"""Frames that can't be used are refused before anything is sent, and the error names the value."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
import redis

from producer.frames import Frame, check_names
from producer.submit import LineProducer
from shared.errors import BadImage, BadJob, BadSetting
from shared.settings import Settings
from tests.producer.kit import jpeg

# Some time of capture, long ago.
AT = 1_700_000_000.0


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"not an image", "format"), (b"\xff\xd8\xff" + b"\0" * 1000, "too_large_bytes")],
)
def test_bad_bytes_are_refused_unsent(client: redis.Redis, settings: Settings, data: bytes, reason: str) -> None:
    producer = LineProducer(settings.model_copy(update={"max_image_bytes": 1000}))
    with pytest.raises(BadImage) as refusal:
        producer.submit_many(
            [Frame(data=jpeg(), line="line-1", camera="c"), Frame(data=data, line="line-1", camera="c")]
        )
    assert refusal.value.reason == reason
    assert client.dbsize() == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"line": "line 1"}, "line = 'line 1'"),
        ({"camera": ""}, "camera = ''"),
        ({"queue": "a:b"}, "queue = 'a:b'"),
        ({"captured_at": float("nan")}, "captured_at = nan"),
        ({"deadline_ms": 0}, "deadline_ms = 0"),
        ({"captured_at": "now"}, "captured_at = 'now' must be a number"),
        ({"captured_at": datetime(2026, 1, 1)}, r"captured_at = datetime.* must be a number; .* timestamp\(\)"),
        ({"captured_at": 10**400}, "captured_at = 1000.* must be a number"),
        ({"captured_at": 1e300}, r"captured_at = 1e\+300 can't be a capture time"),
        ({"captured_at": -1.0}, "captured_at = -1.0 .* give UTC epoch seconds"),
        ({"captured_at": 0.0}, "captured_at = 0.0 .* check that the clock is set"),
        ({"captured_at": AT * 1e3}, "this looks like milliseconds: divide by 1,000"),
        ({"captured_at": AT * 1e9}, "this looks like nanoseconds: divide by 1,000,000,000"),
        ({"captured_at": time.time() + 3600}, "s in the future, more than the 5 s of clock_tolerance_s"),
        ({"deadline_ms": float("nan")}, "deadline_ms = nan"),
        ({"deadline_ms": float("inf")}, "deadline_ms = inf"),
        ({"deadline_ms": AT}, "deadline_ms = 1700000000.0 .* at most 604,800,000"),
        ({"deadline_ms": "soon"}, "deadline_ms = 'soon' must be a number"),
        ({"frame_id": "x" * 300}, "frame_id"),
    ],
)
def test_bad_fields_are_named_and_refused_unsent(
    client: redis.Redis, settings: Settings, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadJob, match=named):
        LineProducer(settings).submit(jpeg(), **{"line": "line-1", "camera": "c", **change})
    assert client.dbsize() == 0


def test_names_can_be_checked_beforehand() -> None:
    check_names(line="line-1", queue="bulk")
    with pytest.raises(BadSetting, match="line = 'a/b'"):
        check_names(line="a/b")


def test_what_is_no_bytes_is_named(settings: Settings) -> None:
    with pytest.raises(BadImage, match="the image is a str: pass the bytes of its file"):
        LineProducer(settings).submit("frame.jpg", line="line-1", camera="c")  # type: ignore[arg-type]


def test_a_name_that_cannot_be_used_is_told_the_rule(settings: Settings) -> None:
    with pytest.raises(BadJob, match="line = 'line 1/x': use 1 to 64 letters"):
        LineProducer(settings).submit(jpeg(), line="line 1/x", camera="c")
