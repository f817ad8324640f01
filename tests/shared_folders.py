"""Folders that one process of a test run fills for all: what takes long to make is made once, not once a process."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test run. With pytest-xdist, all its processes have the same one."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` has filled, in whichever process asked first; the others wait. Don't write to it.

    `name` is the folder's. If `make` fails or is interrupted, the next process that asks begins anew.
    """
    folder = run_folder(tmp_path_factory) / "shared" / name
    folder.parent.mkdir(exist_ok=True)
    complete = folder.with_suffix(".complete")
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder
