"""A local store whose files were replaced by something else is refused, without a wait."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from model_store.registry.storage.local import LocalStorage
from shared.errors import SortlineError
from tests.irregular_files import make_sparse_file


@pytest.mark.timeout(60)  # a pipe that is opened waits for ever
def test_a_small_file_that_is_a_pipe_or_too_large_is_named(tmp_path: Path) -> None:
    (tmp_path / "caps").mkdir()
    os.mkfifo(tmp_path / "caps" / "current")
    make_sparse_file(tmp_path / "caps" / "canary.json")
    storage = LocalStorage(tmp_path)
    with pytest.raises(SortlineError, match="neither a regular file"):
        storage.read("caps", "current")
    with pytest.raises(SortlineError, match="more than 8,000,000 bytes"):
        storage.read("caps", "canary.json")
    assert storage.read("caps", "absent") is None
