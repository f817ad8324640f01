"""A reader continues where it was: after its own restart, and after the stream was trimmed, cut or started again."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from producer.streams import reader
from producer.streams.notices import Notice, NoticeKind
from producer.streams.reader import ResultReader
from shared import keys
from shared.errors import BadSetting
from shared.schemas import Outcome
from shared.settings import Settings
from tests.producer.kit import publish, sort_result
from tests.producer.streams.kit import fill, frames, once_a_reader_waits, patient_stop, publish_frames


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    with patient_stop() as stop:
        yield stop


def test_a_new_reader_begins_with_new_results(client: redis.Redis, settings: Settings, stop: threading.Event) -> None:
    publish_frames(client, ("a", 1))
    with once_a_reader_waits(client, lambda: publish_frames(client, ("a", 2))):
        assert frames(ResultReader(settings, line="a"), stop, 1) == [2]


def test_a_position_that_the_caller_keeps(client: redis.Redis, settings: Settings, stop: threading.Event) -> None:
    fill(client, 1, 2, 3)
    first = ResultReader(settings, line="a", position={"a": "1-0"})
    assert frames(first, stop, 1) == [2]
    kept = json.loads(json.dumps(first.position))
    assert kept == {"a": "2-0"}
    assert frames(ResultReader(settings, line="a", position=kept), stop, 1) == [3]


@pytest.mark.parametrize("as_given", [Path, str])
def test_a_position_in_a_file_survives_a_restart(
    client: redis.Redis,
    settings: Settings,
    stop: threading.Event,
    tmp_path: Path,
    as_given: Callable[[Path], Path | str],
) -> None:
    file = tmp_path / "a.position"
    fill(client, 1)
    reader = ResultReader(settings, line="a", position_file=as_given(file))
    reader.last(0)
    fill(client, 2, 3, 4)
    assert frames(reader, stop, 2) == [2, 3]
    assert json.loads(file.read_text()) == {"a": "3-0"}
    assert frames(ResultReader(settings, line="a", position_file=file), stop, 1) == [4]
    assert [path.name for path in tmp_path.iterdir()] == ["a.position"]


def test_a_result_that_was_being_handled_comes_again(
    client: redis.Redis, settings: Settings, stop: threading.Event, tmp_path: Path
) -> None:
    """The loop ends, as by an error, before it asks for the next result."""
    file = tmp_path / "a.position"
    file.write_text('{"a": "0"}')
    fill(client, 1, 2)
    results = ResultReader(settings, line="a", position_file=file)
    assert [result.frame_id for result in itertools.islice(results.follow(stop), 2)] == [1, 2]
    assert results.position == json.loads(file.read_text()) == {"a": "1-0"}
    assert frames(ResultReader(settings, line="a", position_file=file), stop, 1) == [2]
    assert frames(results, stop, 1) == [2], "the same reader gives it out again, too"


def test_the_next_loop_gets_what_was_read_but_not_handled(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    fill(client, 1, 2, 3)
    results = ResultReader(settings, line="a", position={"a": "0"})
    assert frames(results, stop, 1) == [1]
    assert frames(results, stop, 2) == [2, 3]


def test_duplicates_are_dropped(client: redis.Redis, settings: Settings, stop: threading.Event) -> None:
    """A requeued job has a second result. It is dropped even if the first one was handled before a restart."""
    fill(client, 1)
    publish(client, sort_result("a-1", Outcome.FAILED, line="a", frame_id=1), entry_id="2-0")
    fill(client, 3)
    assert frames(ResultReader(settings, line="a", position={"a": "0"}), stop, 2) == [1, 3]
    assert frames(ResultReader(settings, line="a", position={"a": "1-0"}), stop, 1) == [3]
    every = ResultReader(settings, line="a", position={"a": "0"}, drop_duplicates=False)
    assert frames(every, stop, 3) == [1, 1, 3]


def test_the_memory_for_duplicates_is_bounded(
    client: redis.Redis, settings: Settings, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_RECENT_JOBS", 2)
    fill(client, 1, 2, 3)
    for entry_id, frame_id in (("4-0", 3), ("5-0", 1)):
        publish(client, sort_result(f"a-{frame_id}", line="a", frame_id=frame_id), entry_id=entry_id)
    assert frames(ResultReader(settings, line="a", position={"a": "0"}), stop, 4) == [1, 2, 3, 1]


@pytest.mark.parametrize("kept", [2, 0])
def test_a_stream_that_was_trimmed_beyond_the_position_is_reported(
    client: redis.Redis, settings: Settings, stop: threading.Event, kept: int
) -> None:
    """It was trimmed between two runs of the reader; with `kept=0` nothing is left of what it should have read."""
    fill(client, 1, 2, 3, 4, 5)
    client.xtrim(keys.results("a"), maxlen=kept, approximate=False)
    notices: list[Notice] = []
    reader = ResultReader(settings, line="a", position={"a": "2-0"}, on_notice=notices.append)
    fill(client, 6)
    assert frames(reader, stop, kept + 1) == [4, 5, 6][2 - kept :]
    assert [(notice.kind, notice.line) for notice in notices] == [(NoticeKind.TRIMMED, "a")]
    assert "results are missing" in notices[0].text


def test_trimming_is_noticed_while_reading(client: redis.Redis, settings: Settings, stop: threading.Event) -> None:
    """A slow reader notices it at its next read."""
    notices: list[Notice] = []
    fill(client, 1)
    results = ResultReader(settings, line="a", position={"a": "0"}, on_notice=notices.append).follow(stop)
    assert next(results).frame_id == 1
    fill(client, 2, 3, 4)
    client.xtrim(keys.results("a"), maxlen=1, approximate=False)
    assert next(results).frame_id == 4
    assert [notice.kind for notice in notices] == [NoticeKind.TRIMMED]


def test_trimming_what_was_read_is_not_a_gap(client: redis.Redis, settings: Settings, stop: threading.Event) -> None:
    notices: list[Notice] = []
    fill(client, 1, 2, 3)
    results = ResultReader(settings, line="a", on_notice=notices.append)
    results.last(0)
    reading = results.follow(stop)
    with once_a_reader_waits(client, lambda: fill(client, 4)):
        assert next(reading).frame_id == 4
    client.xtrim(keys.results("a"), maxlen=0, approximate=False)
    fill(client, 5)
    assert next(reading).frame_id == 5
    assert notices == []


def test_a_stream_that_was_started_again_between_two_runs(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    fill(client, 5, 6)
    notices: list[Notice] = []
    results = ResultReader(settings, line="a", position={"a": "3-0"}, on_notice=notices.append)
    assert frames(results, stop, 2) == [5, 6]
    assert [notice.kind for notice in notices] == [NoticeKind.BEGAN_ANEW]


def test_lines_whose_results_the_server_lost_between_two_runs(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    """The reader reads all lines. The server knows one of them again, and the other one not yet."""
    fill(client, 5)
    notices: list[Notice] = []
    results = ResultReader(settings, position={"a": "3-0", "b": "3-0"}, on_notice=notices.append)
    assert frames(results, stop, 1) == [5]
    assert [(notice.kind, notice.line) for notice in notices] == [
        (NoticeKind.BEGAN_ANEW, "a"),
        (NoticeKind.BEGAN_ANEW, "b"),
    ]
    assert results.position == {"a": "5-0", "b": "0"}


def test_a_stream_that_is_trimmed_after_it_was_started_again(
    client: redis.Redis, settings: Settings, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many entries the old stream had had says nothing about the new one."""
    monkeypatch.setattr(reader, "READ_COUNT", 1)
    notices: list[Notice] = []
    fill(client, 8, 9)

    def start_again() -> None:
        client.delete(keys.results("a"))
        fill(client, 1, 2, 3, 4, 5)

    results = ResultReader(settings, line="a", position={"a": "8-0"}, on_notice=notices.append).follow(stop)
    assert next(results).frame_id == 9
    with once_a_reader_waits(client, start_again):  # until then it has learned that 2 entries were added
        assert next(results).frame_id == 1
    client.xtrim(keys.results("a"), maxlen=2, approximate=False)  # 3 are gone: 1, which was read, 2 and 3
    assert next(results).frame_id == 4
    assert [notice.kind for notice in notices] == [NoticeKind.BEGAN_ANEW, NoticeKind.TRIMMED]


def test_a_stream_that_lost_its_end_between_two_runs(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    """A killed server loses what it was given last. The entries that it still has were handled before."""
    fill(client, 5, 6)
    notices: list[Notice] = []
    results = ResultReader(settings, line="a", position={"a": "9-0"}, on_notice=notices.append)
    with once_a_reader_waits(client, lambda: fill(client, 7)):
        assert frames(results, stop, 1) == [7]
    assert [notice.kind for notice in notices] == [NoticeKind.LOST_END]


def test_a_stream_that_lost_its_end_while_it_is_read(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    def on_notice(notice: Notice) -> None:
        kinds.append(notice.kind)
        fill(client, 4)

    kinds: list[NoticeKind] = []
    fill(client, 1, 2, 3)
    results = ResultReader(settings, line="a", position={"a": "0"}, on_notice=on_notice)
    assert frames(results, stop, 3) == [1, 2, 3]
    client.delete(keys.results("a"))
    fill(client, 1, 2)
    assert frames(results, stop, 1) == [4]
    assert kinds == [NoticeKind.LOST_END]


def test_results_that_the_server_has_again_are_not_handled_again(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    """The server lost the stream, and got a result back that was handled before."""
    notices: list[Notice] = []
    fill(client, 8, 9)
    results = ResultReader(settings, line="a", position={"a": "0"}, on_notice=notices.append)
    assert frames(results, stop, 2) == [8, 9]
    client.delete(keys.results("a"))
    publish(client, sort_result("a-9", line="a", frame_id=9), entry_id="1-0")
    fill(client, 2)
    assert frames(results, stop, 1) == [2]
    assert [notice.kind for notice in notices] == [NoticeKind.BEGAN_ANEW]


def test_a_position_moves_past_results_that_are_not_wanted(
    client: redis.Redis, settings: Settings, stop: threading.Event, tmp_path: Path
) -> None:
    file = tmp_path / "a.position"
    file.write_text('{"a": "0"}')
    fill(client, 1, 2)
    results = ResultReader(settings, line="a", position_file=file, only=lambda result: False)
    with once_a_reader_waits(client, stop.set):
        assert list(results.follow(stop)) == []
    assert json.loads(file.read_text()) == {"a": "2-0"}


def test_only_some_results(
    client: redis.Redis, settings: Settings, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader skips the others; they don't count. It looks for the latest ones page by page."""
    monkeypatch.setattr(reader, "_PAGE", 3)
    fill(client, *range(1, 8))
    even = {"only": lambda result: result.frame_id % 2 == 0}
    assert [result.frame_id for result in ResultReader(settings, line="a", **even).last(2)] == [4, 6]
    results = ResultReader(settings, line="a", position={"a": "0"}, **even)
    assert frames(results, stop, 3) == [2, 4, 6]


def test_positions_of_all_lines(client: redis.Redis, settings: Settings, stop: threading.Event) -> None:
    fill(client, 1, 3)
    fill(client, 2, 4, line="b")
    results = ResultReader(settings, position={"a": "1-0", "b": "0"})
    assert frames(results, stop, 2) == [2, 3]
    assert results.position == {"a": "3-0", "b": "2-0"}


def test_a_line_that_is_new_since_the_position_is_read_from_its_beginning(
    client: redis.Redis, settings: Settings, stop: threading.Event
) -> None:
    fill(client, 1, 3)
    fill(client, 2, line="new")
    assert frames(ResultReader(settings, position={"a": "1-0"}), stop, 2) == [2, 3]


@pytest.mark.parametrize("position", [{"a b": "1-0"}, {"a": "yesterday"}, {"a": 1}, ["a"]])
def test_what_is_not_a_position_is_refused(settings: Settings, position: Any) -> None:
    with pytest.raises(BadSetting, match="is not a position"):
        ResultReader(settings, position=position)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"line": "a b"}, "line = 'a b'"),
        ({"position": {"a": "1-0"}, "position_file": Path("x")}, "not both"),
        ({"position_file": Path("absent/x")}, r"absent/x can't be written: No such file"),
        ({"position_file": Path(".")}, "can't be read"),
    ],
)
def test_bad_arguments_are_refused(settings: Settings, arguments: Mapping[str, Any], says: str) -> None:
    with pytest.raises(BadSetting, match=says):
        ResultReader(settings, **arguments)


def test_a_disk_that_fills_up_does_not_stop_the_line(
    client: redis.Redis, settings: Settings, stop: threading.Event, tmp_path: Path
) -> None:
    file = tmp_path / "folder" / "a.position"
    file.parent.mkdir()
    notices: list[Notice] = []
    results = ResultReader(settings, line="a", position_file=file, on_notice=notices.append)
    results.last(0)
    file.unlink()
    file.parent.rmdir()  # nothing can be written here any more, not even by root
    fill(client, 1, 2)
    assert frames(results, stop, 2) == [1, 2]
    assert [notice.kind for notice in notices] == [NoticeKind.POSITION]


def test_the_streams_of_all_lines_are_checked_from_time_to_time(
    client: redis.Redis, settings: Settings, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_again() -> None:
        client.delete(keys.results("a"))
        fill(client, 1)

    monkeypatch.setattr(reader, "_CHECK_INTERVAL_S", 0.1)
    notices: list[Notice] = []
    fill(client, 8, 9)
    results = ResultReader(settings, position={"a": "8-0"}, on_notice=notices.append).follow(stop)
    assert next(results).frame_id == 9
    with once_a_reader_waits(client, start_again):
        assert next(results).frame_id == 1
    assert [notice.kind for notice in notices] == [NoticeKind.BEGAN_ANEW]


def test_a_stream_that_was_started_again_and_outgrew_the_position_is_reported(
    client: redis.Redis, settings: Settings, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The streams of all lines are checked from time to time. Here the new stream is read before the check."""

    def on_notice(notice: Notice) -> None:
        kinds.append(notice.kind)
        fill(client, 4)

    monkeypatch.setattr(reader, "_CHECK_INTERVAL_S", 3600.0)
    kinds: list[NoticeKind] = []
    fill(client, 1)
    everything = ResultReader(settings, on_notice=on_notice)
    everything.last(0)
    with once_a_reader_waits(client, lambda: fill(client, 2)):  # after the first check, which counts the results
        assert frames(everything, stop, 1) == [2]
    client.delete(keys.results("a"))
    fill(client, 3)
    assert frames(everything, stop, 1) == [3]
    assert kinds == []
    everything._check_soon()
    assert frames(everything, stop, 1) == [4]
    assert kinds == [NoticeKind.BEGAN_ANEW]
