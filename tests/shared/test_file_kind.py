"""Folders, files, others and missing paths are told apart; a path that can't be looked at is an error."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shared.file_kind import FileKind, kind_of


def test_kinds(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert kind_of(tmp_path) is FileKind.FOLDER
    assert kind_of(tmp_path / "link") is FileKind.FILE
    assert kind_of(tmp_path / "pipe") is FileKind.OTHER
    for name in ("broken", "no", "no/such", "file/below"):
        assert kind_of(tmp_path / name) is FileKind.MISSING


def test_a_name_that_is_too_long_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File name too long"):
        kind_of(tmp_path / ("a" * 300))
