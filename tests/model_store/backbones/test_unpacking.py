"""Archives: a complete module is unpacked, any other refused, within limits, and no file is written elsewhere."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.backbones import unpacking
from model_store.backbones.unpacking import MAX_HEADER_BYTES, unpack
from shared.errors import BadBackbone
from tests.model_store.backbones.module_server import files, tar_gz, tar_of


def unpacked(content: bytes, tmp_path: Path) -> Path:
    archive = tmp_path / "archive.tar.gz"
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(content)
    target = tmp_path / "out" / "saved_model"
    target.parent.mkdir(parents=True, exist_ok=True)
    unpack(archive, target, origin="module.tar.gz")
    return target


@pytest.mark.parametrize("below", [".", "mobilenet_v2_100_224"])
def test_a_module_is_unpacked_from_the_top_or_its_only_folder(module: Path, tmp_path: Path, below: str) -> None:
    target = unpacked(tar_gz(module, below=below), tmp_path)
    assert files(target) == files(module)
    assert list(target.parent.iterdir()) == [target]


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    ("members", "names"),
    [
        ([tarfile.TarInfo("../outside.txt")], r"'\.\./outside\.txt' would be written outside"),
        ([tarfile.TarInfo("a/../../outside.txt")], "would be written outside"),
        ([tarfile.TarInfo("/tmp/outside.txt")], "would be written outside"),  # noqa: S108  # must not be written
        ([link("saved_model.pb", tarfile.SYMTYPE)], "'saved_model.pb' is a link or device"),
        ([link("hard", tarfile.LNKTYPE)], "'hard' is a link or device"),
        ([link("pipe", tarfile.FIFOTYPE)], "'pipe' is a link or device"),
        ([tarfile.TarInfo("a"), tarfile.TarInfo("a/saved_model.pb")], "is not a complete .tar.gz"),
        ([tarfile.TarInfo("notes.txt")], "has 0; it holds notes.txt"),
        ([], "has 0; it holds nothing"),
        (
            [tarfile.TarInfo("a/saved_model.pb"), tarfile.TarInfo("b/saved_model.pb")],
            "but has 2; it holds a, b",
        ),
    ],
)
def test_an_archive_that_is_not_a_module_is_refused(members: list[tarfile.TarInfo], names: str, tmp_path: Path) -> None:
    with pytest.raises(BadBackbone, match=names):
        unpacked(tar_of(*members, content=b"x"), tmp_path)
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_a_truncated_archive_is_refused(module: Path, tmp_path: Path, kept: float) -> None:
    content = tar_gz(module)
    with pytest.raises(BadBackbone, match="is not a complete"):
        unpacked(content[: int(len(content) * kept)], tmp_path)


def test_a_damaged_archive_is_refused(module: Path, tmp_path: Path) -> None:
    content = bytearray(tar_gz(module))
    content[-6] ^= 1  # gzip's own checksum
    with pytest.raises(BadBackbone, match="is not a complete"):
        unpacked(bytes(content), tmp_path)


def test_unpacking_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "MAX_BYTES", 100_000)
    bomb = tar_of(tarfile.TarInfo("saved_model.pb"), content=bytes(1_000_000))
    assert len(bomb) < 10_000
    with pytest.raises(BadBackbone, match="more than 10,000 members or 100,000 bytes"):
        unpacked(bomb, tmp_path)
    monkeypatch.setattr(unpacking, "MAX_MEMBERS", 3)
    with pytest.raises(BadBackbone, match="more than 3 members"):
        unpacked(tar_of(*(tarfile.TarInfo(f"{number}") for number in range(4))), tmp_path)


def test_an_uncompressed_tar_is_refused(module: Path, tmp_path: Path) -> None:
    """It has no checksum, so that a truncated one could not be noticed."""
    with gzip.open(io.BytesIO(tar_gz(module))) as file, pytest.raises(BadBackbone, match="is not a complete"):
        unpacked(file.read(), tmp_path)


def header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def sparse_header(*, is_more_to_come: bool) -> bytes:
    """A GNU header whose list of holes goes on in the next block."""
    block = bytearray(header("saved_model.pb", tarfile.GNUTYPE_SPARSE, 0))
    block[386:410] = b"00000000001\0" * 2
    block[482] = is_more_to_come
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def attribute(key: str, value: str) -> bytes:
    record = f" {key}={value}\n".encode()
    length = len(record)
    while len(str(length)) + len(record) != length:
        length = len(str(length)) + len(record)
    return str(length).encode() + record


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % tarfile.BLOCKSIZE)


def attributes(kind: bytes, records: bytes) -> bytes:
    return header("attributes", kind, len(records)) + padded(records)


MEMBER = header("saved_model.pb", tarfile.REGTYPE, 5) + padded(b"graph")
END = bytes(2 * tarfile.BLOCKSIZE)
BIG = 2 * MAX_HEADER_BYTES
MORE_HOLES = bytearray(b"00000000001\0" * 42 + bytes(8))
MORE_HOLES[504] = 1


@pytest.mark.parametrize(
    "blocks",
    [
        pytest.param([header("x", tarfile.XHDTYPE, BIG), bytes(BIG)], id="attributes"),
        pytest.param([header("x", tarfile.XGLTYPE, BIG), bytes(BIG)], id="attributes for all"),
        pytest.param([header("x", tarfile.GNUTYPE_LONGNAME, BIG), b"a" * BIG], id="long name"),
        pytest.param([header("x", tarfile.GNUTYPE_LONGLINK, BIG), b"a" * BIG], id="long link"),
        pytest.param([sparse_header(is_more_to_come=True), bytes(MORE_HOLES) * 400], id="holes"),
        pytest.param([attributes(tarfile.XHDTYPE, attribute("path", "a"))] * 400, id="headers of headers"),
        pytest.param([MEMBER, header("x", tarfile.XHDTYPE, BIG), bytes(BIG)], id="after a member"),
    ],
)
def test_headers_are_bounded(blocks: list[bytes], tmp_path: Path) -> None:
    with pytest.raises(BadBackbone, match=r"headers of one of its members are damaged, or have more than 65,536 bytes"):
        unpacked(gzip.compress(b"".join([*blocks, MEMBER, END])), tmp_path)


def test_no_more_of_a_header_is_inflated_than_it_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = gzip.GzipFile.read

    def read(stream: gzip.GzipFile, size: int | None = -1) -> bytes:
        data = real(stream, size)
        taken.append(len(data))
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", read)
    size = 50_000_000
    with pytest.raises(BadBackbone, match="headers"):
        unpacked(gzip.compress(header("x", tarfile.XHDTYPE, size) + bytes(size) + MEMBER + END), tmp_path)
    assert sum(taken) <= MAX_HEADER_BYTES


def test_attributes_for_all_members_do_not_add_up(tmp_path: Path) -> None:
    def blocks() -> Iterator[bytes]:
        for number in range(40):
            yield attributes(tarfile.XGLTYPE, attribute(f"key{number}", "v" * 3000))
            yield header(f"file{number}", tarfile.REGTYPE, 0)

    with pytest.raises(BadBackbone, match="attributes for all members have more than"):
        unpacked(gzip.compress(b"".join([*blocks(), MEMBER, END])), tmp_path)


def test_names_and_attributes_of_an_ordinary_size_are_read(tmp_path: Path) -> None:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz", format=form, pax_headers={"comment": "c" * 40}) as tar:
            for name in ("saved_model.pb", "assets/" + "ü" * 120):
                member = tarfile.TarInfo(name)
                member.size, member.mtime = 3_000_000, 1.5
                tar.addfile(member, io.BytesIO(bytes(3_000_000)))
        found = files(unpacked(out.getvalue(), tmp_path / str(form)))
        assert {name: len(data) for name, data in found.items()} == {
            "saved_model.pb": 3_000_000,
            "assets/" + "ü" * 120: 3_000_000,
        }


@pytest.mark.parametrize("name", ["a/" * 30 + "b", "a" * 300, "/".join(["a" * 250] * 5), "a\0b"])
def test_a_name_that_no_module_has_is_refused(name: str, tmp_path: Path) -> None:
    blocks = [attributes(tarfile.XHDTYPE, attribute("path", name)), MEMBER, END]
    with pytest.raises(BadBackbone, match="is too long, too deep, or has a zero byte"):
        unpacked(gzip.compress(b"".join(blocks)), tmp_path)


def test_files_with_holes_and_negative_sizes_are_refused(tmp_path: Path) -> None:
    for blocks in ([sparse_header(is_more_to_come=False)], [attributes(tarfile.XHDTYPE, attribute("size", "-5"))]):
        with pytest.raises(BadBackbone, match="holes or a negative size"):
            unpacked(gzip.compress(b"".join([*blocks, MEMBER, END])), tmp_path)


def test_an_archive_that_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar.gz")
    with pytest.raises(OSError, match="not a regular file"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out", origin="a.tar.gz")
