"""Archives are bounded by what comes out of them and by what is in them, whatever their headers say."""

from __future__ import annotations

import contextlib
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from shared import zip_archive
from shared.zip_archive import ArchiveLimit, TooLargeArchive, UnreadableMember, ZipArchive

MEGABYTES = 1_000_000
LIMIT_BYTES = 2 * MEGABYTES
CENTRAL = b"PK\x01\x02"


def make(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def patched(path: Path, offset: int, data: bytes) -> Path:
    """Overwrite a field of the first member's entry in the directory."""
    content = bytearray(path.read_bytes())
    at = content.index(CENTRAL) + offset
    content[at : at + len(data)] = data
    path.write_bytes(content)
    return path


def read_first(path: Path, *, max_bytes: int = LIMIT_BYTES) -> bytes:
    with ZipArchive(path) as archive:
        return archive.read(archive.members[0], max_bytes=max_bytes)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (9, "deflate64"),
        (zipfile.ZIP_BZIP2, "bzip2"),
        (zipfile.ZIP_LZMA, "LZMA"),
        (93, "Zstandard"),
        (95, "XZ"),
        (98, "PPMd"),
        (99, "encryption"),
        (1234, "method 1234"),
    ],
)
def test_only_stored_and_deflated_members_are_read(method: int, name: str, tmp_path: Path) -> None:
    archive = patched(make(tmp_path / "a.zip", {"a.jpg": b"a" * 100}), 10, struct.pack("<H", method))
    with pytest.raises(UnreadableMember, match=f"compressed with {name}, which is not read: pack the archive again"):
        read_first(archive)
    for read in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert read_first(make(tmp_path / "b.zip", {"a.jpg": b"a" * 100}, read)) == b"a" * 100


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("claimed_bytes", [None, 100])
def test_bombs_of_other_methods_are_not_inflated(method: int, claimed_bytes: int | None, tmp_path: Path) -> None:
    bomb = make(tmp_path / "bomb.zip", {"a.jpg": bytes(10 * MEGABYTES)}, method)
    if claimed_bytes is not None:
        patched(bomb, 24, struct.pack("<L", claimed_bytes))
    assert memory_of_reading(bomb) < MEGABYTES


@pytest.mark.parametrize("claimed_bytes", [None, 100, 0xFFFF_FFFE])
def test_a_deflated_bomb_is_inflated_up_to_the_limit_whatever_it_claims(
    claimed_bytes: int | None, tmp_path: Path
) -> None:
    bomb = make(tmp_path / "bomb.zip", {"a.jpg": bytes(100 * MEGABYTES)})
    if claimed_bytes is not None:
        patched(bomb, 24, struct.pack("<L", claimed_bytes))
    assert memory_of_reading(bomb) < 4 * LIMIT_BYTES


def memory_of_reading(archive: Path) -> int:
    """The largest memory while the first member is read or refused."""
    tracemalloc.start()
    try:
        with contextlib.suppress(UnreadableMember):
            assert len(read_first(archive)) <= LIMIT_BYTES + 1
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_of_a_larger_member_one_byte_more_than_the_limit_is_read(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"a.jpg": os.urandom(5000)})
    assert len(read_first(archive, max_bytes=4999)) == 5000
    assert len(read_first(archive, max_bytes=100)) == 101


def test_an_archive_is_bounded_while_a_member_is_inflated(tmp_path: Path) -> None:
    with ZipArchive(make(tmp_path / "a.zip", {"a": bytes(50 * MEGABYTES), "b": b"b"})) as archive:
        with pytest.raises(ArchiveLimit, match="expands to more than 100 times its own size: unpack it"):
            archive.read(archive.members[0], max_bytes=100 * MEGABYTES)
        with pytest.raises(ArchiveLimit):  # the others are not begun
            archive.read(archive.members[1], max_bytes=100)


def test_a_member_counts_once_however_often_it_is_read(tmp_path: Path) -> None:
    """Training reads a dataset several times."""
    with ZipArchive(make(tmp_path / "a.zip", {"a": bytes(9000), "b": os.urandom(9000)})) as archive:
        for _ in range(200):
            assert archive.read(archive.members[0], max_bytes=9000) == bytes(9000)
        assert len(archive.read(archive.members[1], max_bytes=9000)) == 9000


def test_members_that_share_their_bytes_count_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive can list one compressed megabyte under thousands of names."""
    monkeypatch.setattr(zip_archive, "MAX_EXPANSION", 10)
    content = make(tmp_path / "a.zip", {"a": os.urandom(1000)}).read_bytes()
    at, end = content.index(CENTRAL), content.index(b"PK\x05\x06")
    entry = content[at:end]
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 50, 50, 50 * len(entry), at, 0)
    (tmp_path / "a.zip").write_bytes(content[:at] + 50 * entry + tail)
    came_out = 0
    with ZipArchive(tmp_path / "a.zip") as archive:
        assert len(archive.members) == 50
        with pytest.raises(UnreadableMember):  # the limit, or zipfile itself where it finds that members overlap
            for member in archive.members:
                came_out += len(archive.read(member, max_bytes=1000))
    assert came_out <= 10 * (tmp_path / "a.zip").stat().st_size + 1000


def test_members_are_counted_before_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make(tmp_path / "a.zip", {f"{number}.jpg": b"" for number in range(6)})
    content = bytearray(archive.read_bytes())
    content[-14:-10] = struct.pack("<2H", 1, 1)  # the count that the archive claims
    archive.write_bytes(content)
    monkeypatch.setattr(zip_archive, "MAX_MEMBERS", 5)
    monkeypatch.setattr(zipfile, "ZipInfo", lambda *_: pytest.fail("a member was listed"))
    with pytest.raises(TooLargeArchive, match="6 files in one archive, the limit is 5: split it"):
        ZipArchive(archive)


def test_a_directory_of_long_names_is_not_read(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", {"a" * 60_000 + str(number): b"" for number in range(3)})
    with pytest.raises(TooLargeArchive, match=r"its directory has 180,\d+ bytes, the limit is 150,000: split it"):
        ZipArchive(archive, max_directory_bytes=150_000)


def test_members_may_be_larger_than_the_directory_and_begin_like_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_archive, "MAX_MEMBERS", 5)
    data = CENTRAL * 1000
    archive = make(tmp_path / "a.zip", {"a": data}, zipfile.ZIP_STORED)
    with ZipArchive(archive.open("rb"), max_directory_bytes=100) as opened, opened.open(opened.members[0]) as member:
        assert member.read(len(data)) == data


def test_an_offset_beyond_any_file_is_an_unreadable_member(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", b"a")
        archive.writestr("b.jpg", b"b")
    with ZipArchive(tmp_path / "a.zip") as opened:
        opened.members[1].header_offset = 2**64 - 1
        with pytest.raises(UnreadableMember, match="can't be read"):
            opened.read(opened.members[1], max_bytes=100)
        assert opened.read(opened.members[0], max_bytes=100) == b"a"


@pytest.mark.timeout(60)
def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(OSError, match="not a regular file"):
        ZipArchive(tmp_path / "a.zip")


def test_files_are_closed(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(zipfile.BadZipFile):
        ZipArchive(tmp_path / "text.zip")
    read_first(make(tmp_path / "a.zip", {"a": b"a"}))
    dropped = ZipArchive(tmp_path / "a.zip")
    del dropped  # as a dataset is
    assert sorted(os.listdir("/proc/self/fd")) == before
