"""Only regular files are read, without a wait and within limits; all else is an OSError with a reason."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from shared import regular_files
from shared.regular_files import open_regular, read_regular, read_regular_text, read_start
from tests.irregular_files import make_irregular_files, make_sparse_file

pytestmark = pytest.mark.timeout(60)  # a pipe that is opened waits for ever

LIMIT_BYTES = 1000


@pytest.mark.parametrize("read", [read_regular, read_start, lambda path, max_bytes: open_regular(path)])
def test_what_is_no_regular_file_is_refused(
    read: Callable[..., object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, reason in make_irregular_files(tmp_path).items():
        with pytest.raises(OSError, match=reason) as refused:
            read(tmp_path / name, max_bytes=LIMIT_BYTES)
        assert refused.value.filename in (tmp_path / name, str(tmp_path / name))


def test_a_device_is_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(OSError, match="not a regular file"):
        open_regular("/dev/zero")


def test_a_pipe_that_takes_the_name_just_before_it_is_opened_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    looked = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patch:
        patch.setattr(regular_files.os, "stat", lambda *_, **__: looked)
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)
    assert os.listdir("/proc/self/fd") == before


def test_folders_missing_files_and_links_to_themselves_keep_the_systems_reasons(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "dir.jpg").mkdir()
    for name, error, reason in (
        ("dir.jpg", IsADirectoryError, "Is a directory"),
        ("missing", FileNotFoundError, "No such file or directory"),
        ("dangling", FileNotFoundError, "No such file or directory"),
        ("self", OSError, "Too many levels of symbolic links"),
    ):
        with pytest.raises(error) as refused:
            read_start(tmp_path / name, max_bytes=LIMIT_BYTES)
        assert refused.value.strerror == reason


def test_of_a_sparse_file_no_more_is_read_than_the_limit(tmp_path: Path) -> None:
    path = make_sparse_file(tmp_path / "sparse.jpg")
    assert read_start(path, max_bytes=LIMIT_BYTES) == bytes(LIMIT_BYTES + 1)
    with pytest.raises(OSError, match="it has more than 1,000 bytes"):
        read_regular(path, max_bytes=LIMIT_BYTES)


def test_a_file_up_to_the_limit_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\r\nb\rc\n".ljust(LIMIT_BYTES, b"x"))
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link", max_bytes=LIMIT_BYTES) == path.read_bytes()
    assert read_start(path, max_bytes=LIMIT_BYTES) == path.read_bytes()
    assert read_regular_text(path, max_bytes=LIMIT_BYTES) == path.read_text()
    with pytest.raises(OSError, match="it has more than 999 bytes"):
        read_regular(path, max_bytes=LIMIT_BYTES - 1)


def test_a_file_that_claims_to_be_empty_is_bounded_too() -> None:
    assert stat.S_ISREG(os.stat("/proc/self/maps").st_mode)
    with pytest.raises(OSError, match="it has more than 10 bytes"):
        read_regular("/proc/self/maps", max_bytes=10)
