"""A process that publishes and is killed, again and again; a script for test_store.py.

Run as `python -m tests.model_store.killed_publish BUNDLE FOLDER`. In FOLDER, for every file operation that
publishing version 2 makes, it sets up a store with version 1, forks a child that publishes and kills
itself (SIGKILL) just before that operation, and notes what a reader then finds. Prints one JSON object per
operation. A process of its own, because forking one that has TensorFlow's threads is not safe.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from model_store.bundle import open_bundle
from model_store.store import ModelStore
from tests.model_store.tiny_bundle import copy_build

# Python announces these just before it does them.
_OPERATIONS = frozenset({"open", "os.mkdir", "os.rename", "os.chmod", "os.remove"})


def main(bundle: Path, folder: Path) -> None:
    for operation in range(10_000):
        store = ModelStore(folder / str(operation))
        store.publish("tiny", copy_build(bundle))
        killed = _publish_in_child(store, bundle, kill_before=operation)
        print(json.dumps({"killed": killed} | _found(store, bundle)))
        if not killed:
            return


def _publish_in_child(store: ModelStore, bundle: Path, *, kill_before: int) -> bool:
    child = os.fork()
    if child == 0:
        _arm(store.root, kill_before=kill_before)
        store.publish("tiny", copy_build(bundle))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def _arm(root: Path, *, kill_before: int) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in _OPERATIONS and str(arguments[0]).startswith(str(root)):
            if seen == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)


def _found(store: ModelStore, bundle: Path) -> dict[str, Any]:
    """What a reader sees after the death, and after the next publication."""
    current = open_bundle(store.resolve("tiny")).manifest.version
    versions = store.versions("tiny")
    for version in versions:
        open_bundle(store.resolve(f"tiny@{version}"))
    following = open_bundle(store.publish("tiny", copy_build(bundle))).manifest.version
    left = sorted(path.name for path in (store.root / "tiny").iterdir() if path.name.startswith(".staging"))
    return {
        "current": current,
        "versions": versions,
        "following": following,
        "current_after": store.current("tiny"),
        "left": left,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
