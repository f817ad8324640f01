"""Fixtures of the archive's tests: the archive's folder, and settings that use it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.settings import Settings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The archive's folder."""
    root = tmp_path / "archive"
    root.mkdir()
    return root


@pytest.fixture
def pause() -> Iterator[Callable[[int], None]]:
    """A function that makes a process hang, as a disk does. SIGCONT makes it go on; it ends with the test."""
    paused: list[int] = []

    def pause(pid: int) -> None:
        paused.append(pid)
        os.kill(pid, signal.SIGSTOP)

    yield pause
    for pid in paused:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def archiving(settings: Settings, root: Path) -> Settings:
    """Settings that archive every image."""
    return settings.model_copy(update={"archive_dir": root, "archive_share": 1.0})
