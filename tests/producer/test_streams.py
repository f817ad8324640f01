"""The lines' streams: the last results over all lines, and those that come."""

from __future__ import annotations

import json
import threading

import pytest
import redis

from producer.streams import ResultStreams
from shared import keys
from shared.errors import BadJob, ServerAway
from shared.settings import Settings
from tests.producer.kit import publish, sort_result


def publish_frames(client: redis.Redis, *frames: tuple[str, int]) -> None:
    for line, frame_id in frames:
        publish(client, sort_result(f"{line}-{frame_id}", line=line, frame_id=frame_id))


def test_the_last_of_all_lines_in_the_order_they_came(client: redis.Redis, settings: Settings) -> None:
    order = [(line, number) for number in range(15) for line in ("b", "a")]
    for ms, (line, number) in enumerate(order, start=1):  # one a millisecond: within one, no order is kept over lines
        publish(client, sort_result(f"{line}-{number}", line=line, frame_id=number), entry_id=f"{ms}-0")
    found = [(result.line, result.frame_id) for result in ResultStreams(settings).last(3)]
    assert found == [("a", 13), ("b", 14), ("a", 14)]
    assert [result.frame_id for result in ResultStreams(settings, line="b").last(2)] == [13, 14]
    assert ResultStreams(settings, line="nobody").last(2) == []
    assert ResultStreams(settings).last(0) == []


def test_following_begins_after_the_last_and_notices_new_lines(client: redis.Redis, settings: Settings) -> None:
    publish_frames(client, ("a", 0), ("a", 1))
    streams = ResultStreams(settings)
    streams.last(1)
    publish_frames(client, ("a", 2))
    stop = threading.Event()
    found = []
    for result in streams.follow(stop):
        found.append((result.line, result.frame_id))
        if found[-1] == ("a", 2):
            publish_frames(client, ("new", 0), ("new", 1))
        if found[-1] == ("new", 1):
            stop.set()
    assert found == [("a", 2), ("new", 0), ("new", 1)]


def test_following_an_empty_server_waits_and_can_be_stopped(client: redis.Redis, settings: Settings) -> None:
    stop = threading.Event()
    streams = ResultStreams(settings)
    streams.last(20)
    timer = threading.Timer(0.2, publish_frames, (client, ("a", 5)))
    timer.start()
    for result in streams.follow(stop):
        assert result.frame_id == 5
        stop.set()
    timer.join()


def test_results_of_a_newer_release_are_read(client: redis.Redis, settings: Settings) -> None:
    """Also an outcome that this one doesn't know, in the middle of others."""
    newer = sort_result("j1", line="a").model_dump(mode="json") | {"outcome": "parked", "invented": 1}
    client.sadd(keys.LINES, "a")
    client.xadd(keys.results("a"), {"result": json.dumps(newer)})
    publish(client, sort_result("j2", line="a"))
    assert [result.outcome.value for result in ResultStreams(settings).last(2)] == ["parked", "sorted"]


def test_what_is_no_result_is_said(client: redis.Redis, settings: Settings) -> None:
    client.sadd(keys.LINES, "a")
    client.xadd(keys.results("a"), {"result": "{}"})
    with pytest.raises(BadJob, match="no SortResult"):
        ResultStreams(settings).last(1)


def test_an_absent_server_is_named() -> None:
    with pytest.raises(ServerAway, match=r"127\.0\.0\.1:1/0"):
        ResultStreams(Settings(redis_url="redis://127.0.0.1:1/0")).last(1)
