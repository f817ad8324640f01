"""Fixtures of the producer's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import PROJECT
from tests.producer.command_kit import ALONE


@pytest.fixture
def command_environment(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_REDIS_URL", redis_url)
    monkeypatch.setenv("SORTLINE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def start() -> Iterator[object]:
    """Starts a command as a process of its own; what still runs at the end is killed."""
    processes = []

    def begin(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", ALONE, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()
