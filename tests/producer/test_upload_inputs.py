"""Upload's inputs: every file once, in order; archives without traps."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from producer.upload_inputs import InputReader, list_inputs
from shared import file_walk, zip_archive
from shared.errors import BadImage, NotFound
from tests.irregular_files import make_irregular_files, make_sparse_file

LIMIT_BYTES = 1000


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def read_all(*paths: Path) -> dict[str, bytes | str]:
    """Bytes by name, or why they could not be read."""
    found: dict[str, bytes | str] = {}
    with InputReader(max_image_bytes=LIMIT_BYTES) as reader:
        for item in list_inputs(paths):
            assert item.name not in found
            try:
                found[item.name] = reader.read(item)
            except BadImage as error:
                found[item.name] = str(error)
    return found


def test_members_whose_paths_lead_out_of_the_archive_are_inputs(tmp_path: Path) -> None:
    """Nothing is unpacked. Folders and hidden files are no inputs, even if backslashes separate their names' parts."""
    archive = make_zip(tmp_path / "a.zip", {"../../evil.jpg": b"1", "/abs.jpg": b"2", "../.hidden": b"3"})
    with zipfile.ZipFile(archive, "a") as opened:
        windows = {
            "photos\\": b"",
            "photos\\b.jpg": b"4",
            "..\\b.jpg": b"5",
            ".\\sub\\c.jpg": b"6",
            "d\\.hid\\e.jpg": b"",
        }
        for name, data in windows.items():
            member = zipfile.ZipInfo("x")
            member.filename = name
            opened.writestr(member, data)
    assert read_all(archive) == {
        f"{archive}/../../evil.jpg": b"1",
        f"{archive}//abs.jpg": b"2",
        f"{archive}/photos\\b.jpg": b"4",
        f"{archive}/..\\b.jpg": b"5",
        f"{archive}/.\\sub\\c.jpg": b"6",
    }


def test_files_folders_and_archives_in_sorted_order(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in ("b.jpg", "a.jpg", "sub/c.jpg", ".hidden", ".git/x"):
        (folder / name).write_bytes(name.encode())
    archive = make_zip(
        folder / "more.zip", {"z.jpg": b"z", "dir/": b"", "dir/y.jpg": b"y", "__MACOSX/._z.jpg": b"junk"}
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.jpg").write_bytes(b"d")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    single = tmp_path / "single.png"
    single.write_bytes(b"single")
    assert list(read_all(single, folder).items()) == [
        (str(single), b"single"),
        (f"{folder}/a.jpg", b"a.jpg"),
        (f"{folder}/b.jpg", b"b.jpg"),
        (f"{archive}/dir/y.jpg", b"y"),
        (f"{archive}/z.jpg", b"z"),
        (f"{folder}/linked/d.jpg", b"d"),
        (f"{folder}/sub/c.jpg", b"sub/c.jpg"),
    ]


def test_what_the_system_puts_there_is_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "folder"
    for name in ("@eaDir", "sub/$RECYCLE.BIN"):
        (folder / name).mkdir(parents=True)
        (folder / name / "preview.jpg").write_bytes(b"junk")
    for name in ("Thumbs.db", ".DS_Store", "sub/a.jpg"):
        (folder / name).write_bytes(name.encode())
    members = {"a.jpg": b"z", "__MACOSX/._a.jpg": b"junk", "sub/__MACOSX/b.jpg": b"junk", ".DS_Store": b"junk"}
    archive = make_zip(tmp_path / "more.zip", members)
    assert read_all(folder, archive) == {f"{folder}/sub/a.jpg": b"sub/a.jpg", f"{archive}/a.jpg": b"z"}
    kinds = (
        "$RECYCLE.BIN 1, @eaDir 1, Thumbs.db 1, hidden (a name that begins with a dot) 1",
        "__MACOSX 2, hidden (a name that begins with a dot) 1",
    )
    what = "hidden files, and those of the system, left out"
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: {what}: {counts}" for path, counts in zip((folder, archive), kinds, strict=True)
    ]


def test_a_folder_of_the_system_is_read_if_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "@eaDir").mkdir()
    (tmp_path / "@eaDir" / "a.jpg").write_bytes(b"a")
    assert read_all(tmp_path / "@eaDir") == {f"{tmp_path}/@eaDir/a.jpg": b"a"}


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"nothing\.jpg: no such file"):
        list(list_inputs([tmp_path / "nothing.jpg"]))


def test_of_a_large_member_only_enough_to_refuse_it_is_unpacked(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"large.bmp": os.urandom(5000)})
    assert len(read_all(archive)[f"{archive}/large.bmp"]) == LIMIT_BYTES + 1


@pytest.mark.slow
def test_a_bomb_is_stopped_by_what_comes_out(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "bomb.zip", {f"{number:04}.bmp": b"\0" * 2_000_000 for number in range(400)})
    found = list(read_all(archive).values())
    unpacked = sum(len(data) for data in found if isinstance(data, bytes))
    assert len(found) == 400
    assert unpacked <= zip_archive.MAX_EXPANSION * archive.stat().st_size + LIMIT_BYTES + 1


def test_members_after_the_archives_limit_are_each_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "MAX_EXPANSION", 1)
    archive = make_zip(tmp_path / "bomb.zip", {name: b"\0" * 900 for name in ("a", "b", "c")})
    found = read_all(archive)
    assert found[f"{archive}/a"] == b"\0" * 900
    assert "expands to more than 1 times its own size" in str(found[f"{archive}/c"])


def test_an_archive_of_too_many_files_is_one_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_archive, "MAX_MEMBERS", 2)
    archive = make_zip(tmp_path / "many.zip", {name: b"x" for name in ("a", "b", "c")})
    assert read_all(archive) == {
        str(archive): "not a usable zip archive: 3 files in one archive, the limit is 2: split it"
    }


def test_broken_archives_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_bytes(b"not a zip")
    whole = make_zip(tmp_path / "whole.zip", {"a.jpg": b"a" * 500}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    found = read_all(tmp_path / "text.zip", tmp_path / "cut.zip")
    assert all("not a usable zip archive" in str(reason) for reason in found.values())
    assert len(found) == 2


@pytest.mark.parametrize("inner", [{"in.jpg": b"x"}, {}])
def test_a_cut_archive_is_not_read_as_the_archive_in_it(tmp_path: Path, inner: dict[str, bytes]) -> None:
    """The directory of the inner one is the only one left in the file."""
    members = {"a.jpg": b"a", "z.zip": make_zip(tmp_path / "inner.zip", inner).read_bytes()}
    cut = tmp_path / "cut.zip"
    with zipfile.ZipFile(cut, "w") as archive:  # not compressed, as zips in zips usually are
        for name, data in members.items():
            archive.writestr(name, data)
    assert read_all(cut) == {f"{cut}/{name}": data for name, data in members.items()}
    cut.write_bytes(cut.read_bytes()[:-60])
    assert "cut short" in str(read_all(cut)[str(cut)])


@pytest.mark.parametrize("name", ["a.zip", "a"])
def test_an_archive_that_fits_into_one_part_of_a_split_archive_is_whole(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / name, {"a.jpg": b"a"})
    archive.write_bytes(b"PK\x07\x08" + archive.read_bytes())
    assert read_all(archive) == {f"{archive}/a.jpg": b"a"}


def test_a_damaged_member_fails_alone(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("a.jpg", b"first member")
        writer.writestr("b.jpg", b"second member")
    archive.write_bytes(archive.read_bytes().replace(b"first member", b"First member"))
    found = read_all(archive)
    assert "CRC" in str(found[f"{archive}/a.jpg"])
    assert found[f"{archive}/b.jpg"] == b"second member"


def test_encrypted_and_linked_members_are_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as writer:
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        writer.writestr(link, "/etc/passwd")
        writer.writestr("secret.jpg", b"x")
    data = bytearray(archive.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the directory's last entry: secret.jpg
    data[at + 8] |= 0x1
    archive.write_bytes(data)
    found = read_all(archive)
    assert "not a regular file" in str(found[f"{archive}/link.jpg"])
    assert "encrypted" in str(found[f"{archive}/secret.jpg"])


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
def test_what_is_no_regular_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reasons = make_irregular_files(tmp_path)
    sparse = make_sparse_file(tmp_path / "sparse.jpg")
    found = read_all(tmp_path)
    assert found.pop(str(sparse)) == bytes(LIMIT_BYTES + 1)
    assert found.keys() == {str(tmp_path / name) for name in reasons}
    for name, reason in reasons.items():
        assert reason in str(found[str(tmp_path / name)])


@pytest.mark.timeout(60)
def test_a_pipe_that_takes_a_files_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    (item,) = list_inputs([tmp_path])
    (tmp_path / "a.jpg").unlink()
    os.mkfifo(tmp_path / "a.jpg")
    with InputReader(max_image_bytes=LIMIT_BYTES) as reader, pytest.raises(BadImage, match="not a regular file"):
        reader.read(item)


@pytest.mark.parametrize(("method", "name"), [(zipfile.ZIP_BZIP2, "bzip2"), (zipfile.ZIP_LZMA, "LZMA")])
def test_members_of_other_methods_are_refused_and_the_others_are_read(tmp_path: Path, method: int, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", {"b.jpg": b"b"})
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("a.jpg", bytes(50_000_000), method)
    assert read_all(archive) == {
        f"{archive}/a.jpg": f"compressed with {name}, which is not read: pack the archive again with deflate, as `zip` "
        "does.",
        f"{archive}/b.jpg": b"b",
    }


def test_a_folder_of_too_many_files_is_a_row_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_walk, "MAX_LISTED", 2)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(b"x")
    found = read_all(tmp_path)
    assert len(found) == 3
    assert "can't be read: it holds 2 files and folders or more" in str(found[str(tmp_path)])


def test_two_archives_are_not_mixed_up(tmp_path: Path) -> None:
    one = make_zip(tmp_path / "1.zip", {"a.jpg": b"one"})
    two = make_zip(tmp_path / "2.zip", {"a.jpg": b"two"})
    assert list(read_all(one, two).values()) == [b"one", b"two"]
