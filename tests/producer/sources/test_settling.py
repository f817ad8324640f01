"""Files are waited for until they have not changed for long enough."""

from __future__ import annotations

import errno

from producer.sources.file_version import FileVersion
from producer.sources.settling import SETTLE_EMPTY_S, SETTLE_S, SettlingFiles

FIRST, SECOND, EMPTY = FileVersion(1, 1, 1), FileVersion(2, 2, 1), FileVersion(0, 1, 1)


def settled(files: SettlingFiles, now: float, version: FileVersion | None) -> list[tuple[str, float]]:
    return files.pop_settled(now, lambda name: version)


def test_a_file_settles_when_it_has_not_changed_for_long_enough() -> None:
    files = SettlingFiles()
    files.wait_for("a.jpg", FIRST, since=10.0)
    assert settled(files, 10.0 + SETTLE_S / 2, FIRST) == []
    assert settled(files, 10.0 + SETTLE_S, FIRST) == [("a.jpg", SETTLE_S)]
    assert "a.jpg" not in files


def test_a_change_begins_the_wait_anew() -> None:
    files = SettlingFiles()
    files.wait_for("a.jpg", FIRST, since=10.0, settle_s=30.0)
    assert settled(files, 50.0, SECOND) == []
    assert settled(files, 50.0 + SETTLE_S, SECOND) == [("a.jpg", SETTLE_S)]


def test_an_empty_file_is_waited_for_longer() -> None:
    files = SettlingFiles()
    files.wait_for("a.jpg", EMPTY, since=0.0)
    assert settled(files, SETTLE_EMPTY_S - 0.1, EMPTY) == []
    assert settled(files, SETTLE_EMPTY_S, EMPTY) == [("a.jpg", SETTLE_EMPTY_S)]


def test_what_is_gone_or_dropped_is_not_waited_for() -> None:
    files = SettlingFiles()
    for name in ("a.jpg", "b.jpg"):
        files.wait_for(name, FIRST, since=0.0)
    files.drop("b.jpg")
    assert settled(files, 99.0, None) == []
    assert "a.jpg" not in files
    assert "b.jpg" not in files


def test_a_file_that_can_not_be_seen_for_a_moment_is_still_waited_for() -> None:
    def fails(name: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    files = SettlingFiles()
    files.wait_for("a.jpg", FIRST, since=0.0)
    assert files.pop_settled(99.0, fails) == []
    assert settled(files, 99.0, FIRST) == [("a.jpg", 99.0)]
