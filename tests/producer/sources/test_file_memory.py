"""The memory of handed-out files: it knows a picture again under another name, and forgets none that is in flight."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.sources.file_memory import FileMemory
from producer.sources.file_version import FileVersion, SentFile
from producer.sources.file_versions import FileVersions
from producer.sources.journal import SentJournal

V1 = FileVersion(100, 2_000, 7)
V2 = FileVersion(100, 3_000, 8)


class Disk:
    """The files that are there, by name."""

    def __init__(self) -> None:
        self.files: dict[str, FileVersion] = {}
        self.fails = False

    def version_of(self, name: str) -> FileVersion | None:
        if self.fails:
            raise OSError("share not reachable")
        return self.files.get(name)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def memory(disk: Disk) -> FileMemory:
    return FileMemory(SentJournal(), disk.version_of)


@pytest.mark.parametrize("accepted", [False, True])
def test_a_picture_is_known_under_its_new_name_only(disk: Disk, memory: FileMemory, accepted: bool) -> None:
    memory.hand_out(SentFile("tmp_1.jpg", V1), is_broken=False)
    if accepted:
        memory.accept([SentFile("tmp_1.jpg", V1)])
    disk.files = {"1.jpg": V1}
    assert memory.recognizes(SentFile("1.jpg", V1))
    assert memory.was_sent(SentFile("1.jpg", V1)) is accepted
    assert not memory.was_sent(SentFile("tmp_1.jpg", V1))
    memory.forget(["1.jpg"])
    assert not memory.recognizes(SentFile("1.jpg", V1))


def test_a_picture_that_takes_the_name_of_another_one_is_still_known(disk: Disk, memory: FileMemory) -> None:
    memory.accept([SentFile("latest.jpg", V1), SentFile("tmp.jpg", V2)])
    disk.files = {"latest.jpg": V2}
    assert memory.recognizes(SentFile("latest.jpg", V2))


def test_hard_links_are_two_pictures(disk: Disk, memory: FileMemory) -> None:
    disk.files = {"a.jpg": V1, "b.jpg": V1}
    for name in disk.files:
        assert not memory.recognizes(SentFile(name, V1))
        memory.hand_out(SentFile(name, V1), is_broken=False)
    assert memory.accept([SentFile("a.jpg", V1)]) == [SentFile("a.jpg", V1)]
    assert memory.was_sent(SentFile("a.jpg", V1))
    assert not memory.was_sent(SentFile("b.jpg", V1))


def test_without_inodes_equal_versions_are_different_files(disk: Disk, memory: FileMemory) -> None:
    """BMP files of one size may have one time on FAT, which counts in steps of two seconds."""
    version = FileVersion(100, 2_000, 0)
    memory.accept([SentFile("a.bmp", version)])
    assert not memory.recognizes(SentFile("b.bmp", version))


def test_a_file_on_a_share_that_fails_is_not_taken_for_a_renamed_one(disk: Disk, memory: FileMemory) -> None:
    memory.accept([SentFile("a.jpg", V1)])
    disk.fails = True
    assert not memory.recognizes(SentFile("b.jpg", V1))


def test_a_picture_that_is_renamed_in_flight_is_recorded_under_its_new_name(disk: Disk, memory: FileMemory) -> None:
    memory.hand_out(SentFile("tmp.jpg", V1), is_broken=False)
    disk.files = {"a.jpg": V1}
    assert memory.recognizes(SentFile("a.jpg", V1))
    assert memory.accept([SentFile("tmp.jpg", V1)]) == [SentFile("a.jpg", V1)]
    assert memory.was_sent(SentFile("a.jpg", V1))


def test_a_second_version_in_flight_is_not_forgotten_when_the_first_is_accepted(memory: FileMemory) -> None:
    for version in (V1, V2):
        memory.hand_out(SentFile("latest.jpg", version), is_broken=False)
    memory.accept([SentFile("latest.jpg", V1)])
    assert memory.recognizes(SentFile("latest.jpg", V2))


def test_a_broken_file_that_gets_the_time_of_its_original_is_looked_at_again(memory: FileMemory) -> None:
    """A copy to a share is allocated, then filled, and at its end it gets the size and time of the original."""
    memory.hand_out(SentFile("a.jpg", V1), is_broken=True)
    assert memory.recognizes(SentFile("a.jpg", V1))
    assert not memory.recognizes(SentFile("a.jpg", FileVersion(100, 1_000, 7)))


def test_a_file_that_can_not_be_read_is_new_once_for_each_version(memory: FileMemory) -> None:
    assert [memory.note_unreadable(SentFile("a.jpg", version)) for version in (V1, V1, V2)] == [True, False, True]
    assert memory.is_unreadable("a.jpg")
    assert not memory.recognizes(SentFile("a.jpg", V2))
    memory.hand_out(SentFile("a.jpg", V2), is_broken=False)
    assert not memory.is_unreadable("a.jpg")


def test_a_map_of_versions_is_in_the_order_of_the_last_change() -> None:
    versions = FileVersions()
    for name, version in (("a", V1), ("b", V2), ("a", V1)):
        versions.put(SentFile(name, version))
    assert list(versions) == ["b", "a"]
    assert (versions.get("a"), versions.name_of(V2)) == (V1, "b")
    assert versions.pop("b") == V2
    assert versions.name_of(V2) is None
    assert versions.pop("b") is None


def test_renames_are_known_after_a_restart(tmp_path: Path, disk: Disk) -> None:
    journal = SentJournal(tmp_path / "journal")
    journal.add([SentFile("2026-11-26/a.jpg", V1)])
    journal.close()
    disk.files = {"done/2026-11-26/a.jpg": V1}
    journal = SentJournal(tmp_path / "journal")
    assert FileMemory(journal, disk.version_of).recognizes(SentFile("done/2026-11-26/a.jpg", V1))
    journal.close()
