"""An image and its result on the disk: complete or absent, and the message if they can't be written."""

from __future__ import annotations

import calendar
import errno
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.worker import kit
from tests.worker.archive.kit import archived, files, files_of_at_most, result, result_json, stem
from tests.worker.kit import picture
from worker.archive.folder import LEFTOVER_S, ArchiveFolder

LARGE = 10**12
AT = float(calendar.timegm((2026, 11, 27, 9, 30, 5)))


def folder(root: Path) -> ArchiveFolder:
    made = ArchiveFolder(root, max_bytes=LARGE, host="h")
    made.prepare()
    return made


def test_an_image_is_written_as_it_came_with_its_result_beside_it(tmp_path: Path) -> None:
    image, its_result = picture(7), result(frame_id="ü\n/..", uncertain=True)
    folder(tmp_path).write(image, its_result.model_dump_json().encode())
    assert archived(tmp_path) == {"j1": (image, its_result)}
    assert os.listdir(tmp_path / ".incoming") == []


def test_an_image_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    archive = folder(tmp_path)
    with files_of_at_most(50_000), pytest.raises(OSError, match="too large"):
        archive.write(bytes(60_000), result_json())
    assert files(tmp_path) == []
    assert os.listdir(tmp_path / ".incoming") == []


def test_an_image_whose_result_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    archive = folder(tmp_path)
    with files_of_at_most(50_000), pytest.raises(OSError, match="too large"):
        archive.write(bytes(40_000), result_json(error="x" * 60_000))
    assert files(tmp_path) == []
    assert os.listdir(tmp_path / ".incoming") == []


def test_a_worker_that_is_killed_while_it_writes_an_image_leaves_no_half_image(tmp_path: Path) -> None:
    folder(tmp_path)
    at, image = time.time(), bytes(1_000_000)  # more than fits into a pipe
    half = tmp_path / ".incoming" / (Path(stem(finished_at=at, host="h")).name + ".bin")
    os.mkfifo(half)
    program = (
        "import pathlib, sys; from tests.worker.archive.kit import result_json; from worker.archive.folder import *\n"
        "folder = ArchiveFolder(pathlib.Path(sys.argv[1]), max_bytes=10**9, host='h')\n"
        f"folder.write(bytes({len(image)}), result_json(finished_at=float(sys.argv[2])))"
    )
    reader = os.open(half, os.O_RDONLY | os.O_NONBLOCK)
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), repr(at)])
    kit.wait_until(lambda: select.select([reader], [], [], 0)[0] and os.read(reader, 1000), "it writes the image")
    process.kill()
    process.wait()
    os.close(reader)
    assert files(tmp_path) == []
    half.unlink()
    half.write_bytes(image[:1000])
    folder(tmp_path).write(image, result_json(finished_at=at))  # the job comes back, and is sorted at the same moment
    assert archived(tmp_path)["j1"][0] == image


def test_a_folder_that_another_worker_removes_is_created_again(tmp_path: Path) -> None:
    archive, at = folder(tmp_path), time.time()
    archive.write(picture(), result_json("j1", finished_at=at))
    for path in files(tmp_path):
        path.unlink()
    (day,) = tmp_path.glob("2*")
    (day / "l1").rmdir()
    day.rmdir()
    archive.write(picture(), result_json("j2", finished_at=at))
    assert set(archived(tmp_path)) == {"j2"}


def test_leftovers_of_killed_workers_are_removed_once_they_are_old(tmp_path: Path) -> None:
    folder(tmp_path)
    old, new = tmp_path / ".incoming" / "old", tmp_path / ".incoming" / "new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - LEFTOVER_S - 60,) * 2)
    folder(tmp_path)
    assert os.listdir(tmp_path / ".incoming") == ["new"]


def test_a_leftover_that_can_not_be_removed_hinders_nobody(tmp_path: Path) -> None:
    left = tmp_path / ".incoming" / "folder"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    folder(tmp_path).write(picture(), result_json())
    assert left.exists()
    assert set(archived(tmp_path)) == {"j1"}


def test_a_root_folder_that_disappears_is_not_created_again(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    archive = folder(root)
    archive.write(picture(), result_json("j1"))
    with pytest.MonkeyPatch.context() as patch:
        rename = os.rename

        def unmount_and_rename(old: str, new: str) -> None:
            """The disk goes between the writing of the file and its renaming."""
            if root.exists():
                rename(root, root.with_name("unmounted"))
            rename(old, new)

        patch.setattr(os, "rename", unmount_and_rename)
        with pytest.raises(FileNotFoundError):
            archive.write(picture(), result_json("j2"))
    assert not root.exists()


def test_a_missing_root_folder_is_not_created(tmp_path: Path) -> None:
    root = tmp_path / "unmounted"
    archive = ArchiveFolder(root, max_bytes=LARGE)
    with pytest.raises(OSError) as caught:
        archive.prepare()
    assert archive.explain(caught.value) == ("it does not exist: create the folder, or mount its disk")
    assert not root.exists()


def test_a_file_in_place_of_the_root_folder_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_bytes(b"")
    archive = ArchiveFolder(root, max_bytes=LARGE)
    with pytest.raises(OSError) as caught:
        archive.prepare()
    assert archive.explain(caught.value) == "it is not a folder: move it away, or name another folder"


def test_a_folder_that_takes_no_file_is_an_error_before_any_image_comes(tmp_path: Path) -> None:
    """For example one that belongs to another user, or is mounted read-only."""
    archive = folder(tmp_path)
    (tmp_path / ".incoming" / f"probe_h_{os.getpid()}").symlink_to("nowhere/file")  # so this file can't be written
    with pytest.raises(FileNotFoundError):
        archive.prepare()


@pytest.mark.parametrize("part", [".incoming", "2026-11-27", "2026-11-27/l1"])
def test_a_file_in_place_of_one_of_its_folders_is_named(tmp_path: Path, part: str) -> None:
    (tmp_path / part).parent.mkdir(exist_ok=True)
    (tmp_path / part).write_bytes(b"")
    archive = ArchiveFolder(tmp_path, max_bytes=LARGE)
    with pytest.raises(OSError) as caught:
        archive.prepare()
        archive.write(picture(), result_json(finished_at=AT))
    assert archive.explain(caught.value) == f"{part} is not a folder: move it away, or name another folder"


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        (".incoming/093005.123_j1_h.jpg", ".incoming"),
        (".incoming", "it"),  # can't be made
        ("2026-11-27", "2026-11-27"),  # can't be listed
        ("2026-11-27/l1", "2026-11-27"),  # can't be made
        ("2026-11-27/l2/093005.123_j1_h.jpg", "2026-11-27/l2"),
        ("", "it"),
    ],
)
@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_the_folder_that_belongs_to_another_user_is_named(tmp_path: Path, path: str, subject: str, code: int) -> None:
    """The message would otherwise send people to a folder in which they may write."""
    (tmp_path / "2026-11-27" / "l2").mkdir(parents=True)
    archive = ArchiveFolder(tmp_path, max_bytes=LARGE)
    fix = f"let the user {os.geteuid()} write there"
    assert archive.explain(OSError(code, "", str(tmp_path / path))) == f"{subject} is not writable: {fix}"
    renamed = OSError(code, "", str(tmp_path / ".incoming" / "j"), None, str(tmp_path / path))
    assert archive.explain(renamed) == f"{subject} is not writable: {fix}"


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_what_a_whole_disk_refuses_is_said_of_the_archive(tmp_path: Path, code: int) -> None:
    """Not of the file that was to be written."""
    error = OSError(code, "", str(tmp_path / ".incoming" / "probe"))
    assert ArchiveFolder(tmp_path, max_bytes=LARGE).explain(error).startswith("it ")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, ""), "it is on a full disk: free some space, and lower archive_max_bytes"),
        (OSError(errno.EROFS, ""), "it is mounted read-only: mount it for writing"),
        (OSError(errno.EACCES, ""), f"it is not writable: let the user {os.geteuid()} write there"),
        (OSError(errno.EIO, "Input/output error"), "[Errno 5] Input/output error: check its disk"),
        (ValueError("odd"), "odd: check its disk"),
    ],
)
def test_each_message_says_what_is_wrong_and_how_to_fix_it(tmp_path: Path, error: Exception, text: str) -> None:
    assert ArchiveFolder(tmp_path, max_bytes=LARGE).explain(error) == text
