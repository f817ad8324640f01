"""The file with a reader's position: what is read from it, and when it is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from producer.streams.notices import Notice, NoticeKind
from producer.streams.position_file import PositionFile, checked_position
from shared.errors import BadSetting


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.position"


@pytest.fixture
def notices() -> list[Notice]:
    return []


@pytest.fixture
def position_file(file: Path, notices: list[Notice]) -> PositionFile:
    return PositionFile(file, notices.append)


def test_what_was_saved_is_loaded(file: Path, position_file: PositionFile, notices: list[Notice]) -> None:
    assert position_file.load() == {}
    assert file.exists(), "a folder that can't be written to is noticed at once"
    position_file.save({"a": "1-0", "b": "0"})
    assert PositionFile(file, notices.append).load() == {"a": "1-0", "b": "0"}
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert notices == []


def test_a_position_that_the_file_has_already_is_not_written_again(file: Path, position_file: PositionFile) -> None:
    """A reader saves its position twice a second, also while no results come."""
    file.write_text('{"a": "1-0"}')
    position = position_file.load()
    written = file.stat().st_ino
    position_file.save(position)
    assert file.stat().st_ino == written
    position_file.save({"a": "2-0"})
    assert json.loads(file.read_text()) == {"a": "2-0"}
    assert file.stat().st_ino != written, "a new file takes its place, so a crash can't leave half a position"


def test_a_position_that_could_not_be_written_is_written_later(
    file: Path, position_file: PositionFile, notices: list[Notice]
) -> None:
    """The first failure of an outage is reported."""
    blocker = file.with_name(f"{file.name}.new")
    for _ in range(2):
        blocker.mkdir()
        position_file.save({"a": "1-0"})
        position_file.save({"a": "2-0"})
        blocker.rmdir()
        position_file.save({"a": "2-0"})
        assert json.loads(file.read_text()) == {"a": "2-0"}
        position_file.save({"a": "3-0"})
    assert [notice.kind for notice in notices] == [NoticeKind.POSITION] * 2


@pytest.mark.parametrize("content", ["model = 'bottles'", '{"a": "b"}', '{"a": "1-0"', "[]", "\xff"])
def test_a_file_that_is_not_a_position_file_is_refused_and_kept(
    file: Path, position_file: PositionFile, content: str
) -> None:
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(BadSetting, match=r"a\.position"):
        position_file.load()
    assert file.read_bytes() == content.encode("latin-1")


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
def test_a_position_file_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.position")
    with pytest.raises(BadSetting, match=r"a\.position can't be read: .*not a regular file"):
        PositionFile(tmp_path / "a.position", lambda notice: None).load()


def test_brackets_within_brackets_are_no_position_file(tmp_path: Path) -> None:
    (tmp_path / "a.position").write_text("[" * 100_000)
    with pytest.raises(BadSetting, match="is not a position file"):
        PositionFile(tmp_path / "a.position", lambda notice: None).load()


@pytest.mark.parametrize("path", ["", "absent/a.position", "a\0b"])
def test_a_place_where_no_file_can_be_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadSetting, match=r"can't be (read|written)"):
        PositionFile(tmp_path / path, lambda notice: None).load()


@pytest.mark.parametrize("content", [b"", b"\0" * 20])
def test_a_file_without_content_is_reported(
    file: Path, position_file: PositionFile, notices: list[Notice], content: bytes
) -> None:
    """A power cut may leave one."""
    file.write_bytes(content)
    assert position_file.load() == {}
    assert [notice.kind for notice in notices] == [NoticeKind.POSITION]


@pytest.mark.parametrize(
    "position", [{"a b": "1-0"}, {"a": "yesterday"}, {"a": f"{2**64}-0"}, {"a": 1}, {1: "1-0"}, ["a"], "a", None]
)
def test_what_is_not_a_position_is_refused(position: Any) -> None:
    with pytest.raises(BadSetting, match=r"here: .* is not a position"):
        checked_position(position, where="here")
