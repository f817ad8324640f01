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
        self.contents: dict[str, bytes] = {}
        self.fails = False

    def version_of(self, name: str) -> FileVersion | None:
        if self.fails:
            raise OSError("share not reachable")
        return self.files.get(name)

    def digest_of(self, name: str) -> bytes | None:
        return self.contents.get(name)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def memory(disk: Disk) -> FileMemory:
    return FileMemory(SentJournal(), version_of=disk.version_of, digest_of=disk.digest_of)


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


@pytest.mark.parametrize("accepted", [False, True])
def test_an_earlier_time_is_a_new_picture_unless_the_content_is_the_same(
    disk: Disk, memory: FileMemory, accepted: bool
) -> None:
    """A camera's clock may be set back, and all pictures of a BMP camera have one size."""
    sent = SentFile("a.bmp", V1)
    memory.hand_out(sent, is_broken=False, digest=b"one")
    if accepted:
        memory.accept([sent])
    restored, earlier = (SentFile("a.bmp", FileVersion(100, modified_ns, 7)) for modified_ns in (1_500, 1_000))
    disk.contents = {"a.bmp": b"one"}
    assert memory.recognizes(restored)
    assert memory.was_sent(restored) is accepted
    disk.contents = {"a.bmp": b"two"}
    assert not memory.recognizes(earlier)
    disk.contents = {}
    assert not memory.recognizes(earlier), "what can't be read is no known content"


def test_a_picture_that_gets_an_earlier_time_in_flight_is_recorded_with_it(disk: Disk, memory: FileMemory) -> None:
    memory.hand_out(SentFile("a.jpg", V1), is_broken=False, digest=b"one")
    disk.contents = {"a.jpg": b"one"}
    restored = [SentFile("a.jpg", FileVersion(100, modified_ns, 7)) for modified_ns in (1_500, 1_000)]
    assert all(memory.recognizes(file) for file in restored)
    assert memory.accept([SentFile("a.jpg", V1)]) == restored[1:]
    assert memory.was_sent(restored[1])


def test_the_content_is_known_under_a_new_name(disk: Disk, memory: FileMemory) -> None:
    memory.hand_out(SentFile("tmp.jpg", V1), is_broken=False, digest=b"one")
    disk.files, disk.contents = {"a.jpg": V1}, {"a.jpg": b"one"}
    assert memory.recognizes(SentFile("a.jpg", V1))
    assert memory.recognizes(SentFile("a.jpg", FileVersion(100, 1_000, 7)))
    memory.forget(["a.jpg"])
    assert not memory.recognizes(SentFile("a.jpg", FileVersion(100, 1_000, 7)))


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


def test_the_number_of_remembered_files_that_are_gone_is_bounded(
    memory: FileMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.sources.journal.MAX_ABSENT", 3)
    files = [SentFile(f"{number}.jpg", FileVersion(100, number, number + 1)) for number in range(9)]
    for number, file in enumerate(files):
        memory.hand_out(file, is_broken=number % 3 == 0)
        if number % 3 == 1:
            memory.accept([file])
        if number % 3 == 2:
            memory.note_unreadable(file)
    memory.forget_oldest([])
    assert [memory.recognizes(file) for file in files] == [True] * 9, "at most three of each kind are gone"
    memory.hand_out(SentFile("new.jpg", V1), is_broken=True)
    memory.accept([SentFile("sent.jpg", V1)])
    memory.hand_out(SentFile("waits.jpg", V2), is_broken=False)
    memory.forget_oldest([])
    assert [memory.recognizes(file) for file in files] == [False] * 3 + [True] * 6


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
    assert FileMemory(journal, version_of=disk.version_of, digest_of=disk.digest_of).recognizes(
        SentFile("done/2026-11-26/a.jpg", V1)
    )
    journal.close()
