"""Fixtures of the archive's tests: the archive's folder, and settings that use it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.settings import Settings
from tests.kit import ManualClock
from tests.worker.archive.kit import AT, stem
from worker.archive.files import as_host


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The archive's folder."""
    root = tmp_path / "archive"
    root.mkdir()
    return root


@pytest.fixture
def archiving(settings: Settings, root: Path) -> Settings:
    """Settings that archive every image."""
    return settings.model_copy(update={"archive_dir": root, "archive_share": 1.0})


@pytest.fixture
def quiet() -> ManualClock:
    """The clock of an archive and its backlog: e.g. it works again only when it had no trouble for a while."""
    return ManualClock()


@pytest.fixture
def hang(root: Path) -> Iterator[Callable[[str], Path]]:
    """A function that makes the disk hang while the image of this job, sorted at AT, is written.

    It returns the path of a pipe in the image's place. The write goes on when somebody reads this pipe.
    """
    made: list[Path] = []

    def hang(job_id: str) -> Path:
        name = Path(stem(job_id=job_id, finished_at=AT, host=as_host(socket.gethostname()))).name
        path = root / ".incoming" / f"{name}.png"
        path.parent.mkdir()
        os.mkfifo(path)
        made.append(path)
        return path

    yield hang
    for path in made:  # the writer hangs until then
        with contextlib.suppress(FileNotFoundError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
