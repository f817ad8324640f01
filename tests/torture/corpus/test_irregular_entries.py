"""The irregular entries are what their names say."""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from shared.file_walk import walk
from shared.zip_archive import MAX_EXPANSION, MAX_MEMBERS
from torture.corpus import irregular
from torture.corpus.irregular import CLASSES, Irregular, archives, backbones, make_folder, special_files


def named(entries: list[Irregular], name: str) -> Irregular:
    (found,) = [entry for entry in entries if entry.name == name]
    return found


def made(entry: Irregular, folder: Path) -> Path:
    entry.make(folder / entry.name)
    return folder / entry.name


def test_special_files_are_no_files(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set", special_files())
    folder = tmp_path / "set" / CLASSES[0]
    kinds = {entry.name: (folder / entry.name).lstat().st_mode for entry in special_files()}
    assert stat.S_ISFIFO(kinds["fifo.jpg"]) and stat.S_ISSOCK(kinds["socket.jpg"])
    assert all(stat.S_ISLNK(kinds[name]) for name in ("zero.jpg", "dangling.jpg", "itself.jpg"))
    assert (folder / "zero.jpg").is_char_device()
    sparse = (folder / "sparse.jpg").stat()
    assert (sparse.st_size, sparse.st_blocks) == (20_000_000_000, 0)
    assert all((tmp_path / "set" / name).read_bytes().startswith(b"\xff\xd8") for name in images)


def test_the_links_are_endless_for_who_follows_all(tmp_path: Path) -> None:
    make_folder(tmp_path, [])
    path = tmp_path / CLASSES[1] / "links" / "0"
    for _ in range(irregular.LINK_LEVELS - 1):
        assert {entry.name for entry in path.iterdir()} == {"a", "b"}
        path = (path / "b").resolve()
    assert (path / "again").samefile(tmp_path / CLASSES[1] / "links" / "0")
    repeated: list[str] = []
    assert sum(map(len, walk(tmp_path, on_error=pytest.fail, on_repeated=repeated.append))) > 0
    assert repeated


def test_archives_burst_or_lie(tmp_path: Path) -> None:
    methods = {"bzip2.zip": zipfile.ZIP_BZIP2, "lzma.zip": zipfile.ZIP_LZMA, "deflate64.zip": 9}
    for name, method in methods.items():
        with zipfile.ZipFile(made(named(archives(), name), tmp_path)) as archive:
            (member,) = archive.infolist()
            assert (member.compress_type, member.file_size) == (method, irregular.BURST_BYTES)
    burst, lying = (made(named(archives(), name), tmp_path) for name in ("burst.zip", "lying.zip"))
    assert MAX_EXPANSION * burst.stat().st_size < irregular.BURST_BYTES
    with zipfile.ZipFile(lying) as archive:
        assert archive.infolist()[0].file_size == 100
    huge = made(named(archives(), "huge-directory.zip"), tmp_path)
    assert huge.read_bytes().count(b"PK\x01\x02") == MAX_MEMBERS + 1
    with zipfile.ZipFile(huge) as archive:
        assert len(archive.infolist()) == MAX_MEMBERS + 1, "zipfile itself takes it"


@pytest.mark.parametrize("entry", backbones(), ids=lambda entry: entry.name)
def test_headers_of_archives_of_backbones_burst(
    entry: Irregular, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made small here: the header can be read, as one that does not burst."""
    monkeypatch.setattr(irregular, "HEADER_BYTES", 64_000)
    with gzip.open(made(entry, tmp_path)) as file:
        header = tarfile.TarInfo.frombuf(file.read(512), "utf-8", "strict")
        assert header.size == 64_000
        assert file.read(64_000) == bytes(64_000)
        assert tarfile.TarInfo.frombuf(file.read(512), "utf-8", "strict").name == "saved_model.pb"
