"""A writer may die, or find the disk full, at any step: then the store is in the old or in the new state."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from model_store.bundle.files import open_bundle
from model_store.registry.store import ModelStore
from tests.kit import PROJECT
from tests.model_store.registry.interrupted_writer import ACTIONS
from tests.model_store.tiny_bundle import copy_build

pytestmark = pytest.mark.slow

State = tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...] | None]
CANARY = (4, 0.5)
BEFORE: State = ((5, 3, 1), (1, 2, 3, 4, 5, 6), CANARY)
# Every state that a reader may find during the action, in order; the last is the result of the action.
STATES: dict[str, list[State]] = {
    "publish": [
        BEFORE,
        ((5, 3, 1), (1, 2, 3, 4, 5, 6, 7), CANARY),  # published, not yet current
        ((7, 5, 3, 1), (1, 2, 3, 4, 5, 6, 7), CANARY),
    ],
    "promote": [BEFORE, ((4, 5, 3, 1), (1, 2, 3, 4, 5, 6), None)],
    "rollback": [BEFORE, ((3, 1), (1, 2, 3, 4, 5, 6), CANARY)],
    "prune": [BEFORE, ((5, 3, 1), (2, 3, 4, 5, 6), CANARY), ((5, 3, 1), (3, 4, 5, 6), CANARY)],
    "set_canary": [BEFORE, ((5, 3, 1), (1, 2, 3, 4, 5, 6), (4, 1.0))],
    "clear_canary": [BEFORE, ((5, 3, 1), (1, 2, 3, 4, 5, 6), None)],
}

FILL_THE_DISK = """
import sys
from pathlib import Path
from model_store.registry.store import ModelStore
from shared.errors import StoreUnavailable
from tests.model_store.tiny_bundle import copy_build

store, build = ModelStore(Path(sys.argv[1])), copy_build(Path(sys.argv[2]))

def refused(change):
    try:
        change()
    except StoreUnavailable as error:
        print(error)

store.publish("tiny", build)
refused(lambda: store.publish("tiny", build))
with (store.root / "ballast").open("wb", buffering=0) as ballast:
    try:
        while ballast.write(bytes(512)):
            pass
    except OSError:
        pass
refused(lambda: store.promote("tiny", 1))
refused(lambda: store.publish("tiny", build))
print(store.versions("tiny"), store.current("tiny"), sorted(path.name for path in (store.root / "tiny").iterdir()))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if possible, because thousands of fsyncs take minutes on a busy disk."""
    if not os.access("/dev/shm", os.W_OK):  # noqa: S108  # asks only
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def walk(bundle: Path, folder: Path, action: str, fault: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run the script: the states after each interrupted run, and the state after the run without a fault."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.model_store.registry.interrupted_writer",
            str(bundle),
            str(folder),
            action,
            fault,
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    before, *struck, finished = (json.loads(line) for line in done.stdout.splitlines())
    assert state(before) == BEFORE
    assert finished["ended"] == "finished"
    return struck, finished


def state(found: dict[str, Any]) -> State:
    assert found["numbers"] == found["versions"], "an incomplete version is left"
    return tuple(found["history"]), tuple(found["versions"]), found["canary"] and tuple(found["canary"])


def assert_next_publication_works(found: dict[str, Any]) -> None:
    assert found["next"] == max(found["versions"]) + 1 == found["next_current"]
    assert found["next_parent"] == found["history"][0]
    assert found["next_left"] == []


def test_every_action_is_walked() -> None:
    assert STATES.keys() == ACTIONS.keys()


@pytest.mark.parametrize("action", STATES)
def test_kill_9_at_any_step_leaves_the_old_or_the_new_state(tiny_bundle: Path, folder: Path, action: str) -> None:
    struck, finished = walk(tiny_bundle, folder, action, "killed")
    assert len(struck) >= 5
    assert {found["ended"] for found in struck} == {"SIGKILL"}
    # These states, in this order, and no other.
    assert list(dict.fromkeys(map(state, (*struck, finished)))) == STATES[action]
    for found in (*struck, finished):
        assert_next_publication_works(found)


@pytest.mark.parametrize("action", STATES)
def test_a_disk_that_is_full_from_any_step_on_changes_nothing(tiny_bundle: Path, folder: Path, action: str) -> None:
    struck, finished = walk(tiny_bundle, folder, action, "full")
    assert state(finished) == STATES[action][-1]
    for found in struck:
        # The action is done if its remaining steps need no room.
        assert state(found) == {"refused": BEFORE, "done": STATES[action][-1]}[found["ended"]]
        assert found["left"] == []
        assert_next_publication_works(found)
    # Deleting must need no room, so that it can free some.
    refused = sum(found["ended"] == "refused" for found in struck)
    assert (refused == 0) == (action in ("prune", "clear_canary"))


def test_a_disk_that_is_really_full(tiny_bundle: Path, tmp_path: Path) -> None:
    """The same on a tiny file system, which in the end has no room even for the pointer's file."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    size_bytes = sum(path.stat().st_size for path in tiny_bundle.rglob("*"))
    folder = tmp_path / "small"
    folder.mkdir()
    program = tmp_path / "fill.py"
    program.write_text(FILL_THE_DISK)
    mount = f"mount -t tmpfs -o size={size_bytes * 3 // 2} none {folder}"
    run = shlex.join([sys.executable, str(program), str(folder), str(tiny_bundle)])
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", f"{mount} || exit 42; exec {run}"],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 42 or "unshare" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    *errors, after = done.stdout.splitlines()
    assert len(errors) == 3
    assert all("No space left on device" in error for error in errors)
    assert after == "[1] 1 ['.lock', '000001', 'current']"


def test_a_reader_with_files_open_goes_on_when_they_are_deleted(tiny_bundle: Path, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    for _ in range(3):
        store.publish("tiny", copy_build(tiny_bundle))
    bundle = open_bundle(store.resolve("tiny@1"))
    name = next(iter(bundle.manifest.files))
    content = (bundle.path / name).read_bytes()
    with (bundle.path / name).open("rb") as file:
        assert store.prune("tiny", keep=1) == [1]
        assert not bundle.path.exists()
        assert file.read() == content
