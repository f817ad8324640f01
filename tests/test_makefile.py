"""`make` says what is missing before anything is downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import PATIENCE_S, PROJECT, needed_tool


@pytest.mark.parametrize("version", ["(3, 10, 13)", "(3, 14, 0)"])
def test_a_python_for_which_tensorflow_has_no_wheel_gets_one_clear_line(tmp_path: Path, version: str) -> None:
    needed_tool("make", package="make")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = {version}; $2"\n')
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "requirements"):
        (tmp_path / name).symlink_to(PROJECT / name)
    done = subprocess.run(
        ["make", f"PYTHON={python}", "demo"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},  # of `make test`
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout.splitlines() == [
        "This needs Python 3.11, 3.12 or 3.13, for which the locked TensorFlow has wheels; "
        f"{python} is another version: make PYTHON=python3.12 demo"
    ]
    assert not (tmp_path / ".venv").exists()
