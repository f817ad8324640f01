"""Paths that can't be read: every command says why in one line, and goes on with the others where it reads several."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kit import BOTTLES, PATIENCE_S, without_privileges
from tests.sortline.kit import environment

LONG = "a" * 300
# Each command reads a path in another place of the code.
COMMANDS = (
    "classify {path}",
    "models check-dataset {path}",
    "train {path} --name new",
    "evaluate {path}",
    "models compare tiny tiny --dataset {path}",
    "models publish {path}",
    "upload {path}",
    "camera --line l --source {path}",
)

Run = Callable[..., str]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A class folder in a folder that may not be searched."""
    folder = tmp_path / "locked"
    (folder / "set" / "bad").mkdir(parents=True)
    shutil.copy(BOTTLES / "bottles_000.jpg", folder / "set" / "bad" / "a.jpg")
    folder.chmod(0o600)
    yield folder
    folder.chmod(0o700)


@pytest.fixture
def run(redis_url: str, tiny_models: Path, tmp_path: Path) -> Run:
    """Runs a command, which must not end with a traceback; what it prints on both outputs."""
    shared_variables = environment(home=tmp_path, redis_url=redis_url, store=tiny_models)

    def run(command: str, **variables: str) -> str:
        done = subprocess.run(
            [*without_privileges(), sys.executable, "-m", "sortline", *command.split()],
            cwd=tmp_path,
            env=shared_variables | variables,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    return run


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_cannot_be_looked_at(run: Run, locked: Path, command: str) -> None:
    assert "Permission denied" in run(command.format(path=locked / "set"))
    assert "File name too long" in run(command.format(path=LONG))


def test_a_settings_file_in_a_locked_folder(run: Run, locked: Path) -> None:
    path = locked / "sortline.toml"
    assert run("config", SORTLINE_CONFIG=str(path)) == f"sortline: {path} can't be read: Permission denied.\n"


def test_unreadable_folders_in_a_folder_are_named(run: Run, locked: Path) -> None:
    """Without them the answers would seem to be complete."""
    good = locked.parent / "good"
    good.mkdir()
    shutil.copy(BOTTLES / "bottles_000.jpg", good / "a.jpg")
    bad = locked / "set" / "bad"
    locked.chmod(0o700)
    bad.chmod(0)
    shutil.move(good, locked / "set" / "good")
    try:
        assert f"{bad} can't be read: Permission denied" in run(f"models check-dataset {locked / 'set'}")
        for command in ("classify", "upload"):
            printed = run(f"{command} {locked / 'set'} --json")
            assert "can't be read: Permission denied" in printed
            assert "good/a.jpg" in printed
    finally:
        bad.chmod(0o700)
