"""The check finds outputs that can't be written, and leaves nothing behind."""

from __future__ import annotations

import errno
import os
import zipfile
from pathlib import Path

import pytest

from shared.errors import BadSetting
from shared.output_files import check_output_files, check_output_folder, replace_file


def test_a_file_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    there, new = tmp_path / "there.csv", tmp_path / "new.csv"
    there.write_text("kept")
    check_output_files({"--out": there, "--html": new, "--grid": None})
    assert there.read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]


@pytest.mark.parametrize(
    ("name", "reason"), [("no/such/folder.csv", "No such file"), ("file/x.csv", "Not a directory"), (".", "Is a dir")]
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSetting, match=rf"--out .* can't be written: {reason}"):
        check_output_files({"--out": tmp_path / name})


def test_a_dash_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadSetting, match="--out - is no file"):
        check_output_files({"--out": Path("-")})
    assert not list(tmp_path.iterdir())


def test_two_outputs_need_two_files(tmp_path: Path) -> None:
    one, same = tmp_path / "a.html", tmp_path / "b" / ".." / "a.html"
    (tmp_path / "b").mkdir()
    with pytest.raises(BadSetting, match="--out and --html name the same file"):
        check_output_files({"--out": one, "--html": same})


def test_an_image_is_not_overwritten(tmp_path: Path) -> None:
    """With `--out *.jpg` the first image is the value of --out."""
    image, grid = tmp_path / "image.jpg", tmp_path / "grid.png"
    (tmp_path / "b").mkdir()
    for path in (image, grid):
        path.touch()
    with pytest.raises(BadSetting, match=r"--out .*image.jpg is an image, which would be overwritten"):
        check_output_files({"--out": image})
    with pytest.raises(BadSetting, match=r"--grid .*grid.png is an image"):
        check_output_files({"--grid": grid})
    check_output_files({"--grid": grid}, inputs=[image], image_flags=["--grid"])
    with pytest.raises(BadSetting, match=r"--grid .*grid.png is read by this command"):
        check_output_files({"--grid": tmp_path / "b" / ".." / "grid.png"}, inputs=[image, grid], image_flags=["--grid"])


def test_an_archive_is_not_overwritten(tmp_path: Path) -> None:
    archive, damaged, text = (tmp_path / name for name in ("archive", "damaged.ZIP", "old.csv"))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("labels.csv", "file,labels")
    damaged.write_bytes(archive.read_bytes()[:20])
    for path in (archive, damaged):
        with pytest.raises(BadSetting, match=rf"--grid .*{path.name} is a zip archive, which would be overwritten"):
            check_output_files({"--grid": path}, image_flags=["--grid"])
    check_output_files({"--layers": archive}, archive_flags=["--layers"])
    text.touch()
    check_output_files({"--out": text})


def test_an_input_is_not_overwritten(tmp_path: Path) -> None:
    labels, link, hard_link = tmp_path / "labels.csv", tmp_path / "link.csv", tmp_path / "same.csv"
    labels.write_text("kept")
    link.symlink_to(labels)
    hard_link.hardlink_to(labels)
    for out in (labels, link, hard_link):
        with pytest.raises(BadSetting, match=f"--out .*{out.name} is read by this command"):
            check_output_files({"--out": out}, inputs=[tmp_path / "gone", labels])
    check_output_files({"--out": tmp_path / "new.csv"}, inputs=[labels])


def test_a_link_to_a_new_file_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "out.csv"
    link.symlink_to("new.csv")
    check_output_files({"--out": link})
    assert link.is_symlink()
    assert not (tmp_path / "new.csv").exists()


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BadSetting, match=r"--out .* can't be written: Too many levels of symbolic links"):
        check_output_files({"--out": tmp_path / "loop"})


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_output_files({"--out": tmp_path / "pipe"})


def test_a_pipe_of_the_shell_can_be_written() -> None:
    """The shell's `>(…)` is such a path; what it links to is no path at all."""
    reader, writer = os.pipe()
    try:
        check_output_files({"--out": Path(f"/dev/fd/{writer}")})
    finally:
        os.close(reader)
        os.close(writer)


def test_a_folder_is_made_and_tried(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "a" / "b", flag="--out")
    assert not any((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/1")):  # nobody can write to the last
        with pytest.raises(BadSetting, match=r"--cache-dir .* can't be written"):
            check_output_folder(path, flag="--cache-dir")


def test_a_file_is_replaced_as_a_whole_and_keeps_its_link_and_its_permissions(tmp_path: Path) -> None:
    old, link, new = (tmp_path / name for name in ("old", "link", "new"))
    old.write_bytes(b"old")
    old.chmod(0o640)
    link.symlink_to("old")
    replace_file(link, b"new")
    replace_file(new, b"new")
    assert link.is_symlink() and old.read_bytes() == new.read_bytes() == b"new"
    assert old.stat().st_mode & 0o777 == 0o640
    (tmp_path / "usual").touch()
    assert new.stat().st_mode == (tmp_path / "usual").stat().st_mode, "only its owner can read it"


def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old").write_bytes(b"old")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(OSError, match="it is no regular file"):
            replace_file(tmp_path / name, b"new")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("shared.output_files.os.replace", full)
    with pytest.raises(OSError, match="full"):
        replace_file(tmp_path / "old", b"new")
    assert (tmp_path / "old").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "pipe"]
