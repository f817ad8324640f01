"""Change a store and be interrupted, before every single step in turn; a script for test_interrupted.py.

Run as `python -m tests.model_store.registry.interrupted_writer BUNDLE FOLDER ACTION FAULT`. A step is a call that
changes files or opens one: open, write, fsync, rename, unlink, mkdir, rmdir, chmod, copying. (A comparison with strace
shows that there are no other changes, except the text of a manifest in staging, which C code writes.) For each step of
ACTION, this script sets up a store in FOLDER and forks a child that does ACTION. FAULT strikes the child just before
the step: `killed` is SIGKILL; with `full`, every call that needs room on the disk fails with ENOSPC from that step on.
The script prints one JSON object a step with the state that a reader finds then. The first object is the state before
ACTION, the last the state after an ACTION without a fault.
It is a separate process, because it is not safe to fork a process that has TensorFlow's threads.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from model_store.bundle.files import open_bundle
from model_store.registry.canary import Canary
from model_store.registry.storage.local import LOCK_FILE
from model_store.registry.store import ModelStore
from shared.errors import StoreUnavailable
from tests.model_store.tiny_bundle import copy_build

CANARY = Canary(version=4, share=0.5, started_at=1.0)
ACTIONS: dict[str, Callable[[ModelStore, Path], object]] = {
    "publish": lambda store, bundle: store.publish("tiny", copy_build(bundle)),
    "promote": lambda store, _: store.promote("tiny", 4),
    "rollback": lambda store, _: store.rollback("tiny"),
    "prune": lambda store, _: store.prune("tiny", keep=1),
    "set_canary": lambda store, _: store.set_canary("tiny", CANARY.model_copy(update={"share": 1.0})),
    "clear_canary": lambda store, _: store.clear_canary("tiny"),
}

# Python raises audit events just before these calls. Calls without an audit event are wrapped.
_ANNOUNCED = frozenset({"open", "os.mkdir", "os.rename", "os.chmod", "os.remove", "os.rmdir"})
_WRAPPED = ("write", "fsync", "sendfile")
_NEED_ROOM = frozenset({"os.mkdir", "write", "sendfile"})

# Exit codes of the child: the fault did not strike, it led to StoreUnavailable, or the action was done nevertheless.
_FINISHED, _REFUSED, _DONE = 0, 3, 4
_ENDS = {_FINISHED: "finished", _REFUSED: "refused", _DONE: "done"}


def main(bundle: Path, folder: Path, action: str, fault: str) -> None:
    template = _template(folder / "template", bundle)
    print(json.dumps(_found(template)))
    for step in range(10_000):
        store = ModelStore(Path(shutil.copytree(template.root, folder / str(step))))
        ended = _in_child(store, bundle, ACTIONS[action], fault=fault, before=step)
        print(json.dumps({"ended": ended} | _found(store) | _next(store, bundle)))
        shutil.rmtree(store.root)
        if ended == "finished":
            return


def _template(root: Path, bundle: Path) -> ModelStore:
    """Six versions; 5 is current, 3 and 1 were before, 4 is a canary, 2 and 6 were never current."""
    store = ModelStore(root)
    for version in range(1, 7):
        store.publish("tiny", copy_build(bundle), promote=version in (1, 3, 5))
    store.set_canary("tiny", CANARY)
    return store


def _in_child(
    store: ModelStore, bundle: Path, action: Callable[[ModelStore, Path], object], *, fault: str, before: int
) -> str:
    child = os.fork()
    if child == 0:
        steps = _Steps(store.root, fault=fault, before=before)
        try:
            steps.arm()
            action(store, bundle)
            steps.disarm()
        except StoreUnavailable as error:
            steps.disarm()
            os._exit(_REFUSED if os.strerror(errno.ENOSPC) in str(error) else 1)
        os._exit(_FINISHED if steps.seen <= before else _DONE)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return _ENDS.get(os.WEXITSTATUS(status), "failed")


class _Steps:
    """Counts the steps of this process and strikes before one of them."""

    def __init__(self, root: Path, *, fault: str, before: int) -> None:
        self._root = str(root)
        self._fault = fault
        self._before = before
        self._armed = False
        self.seen = 0

    def arm(self) -> None:
        for name in _WRAPPED:
            setattr(os, name, self._wrapped(name, getattr(os, name)))
        sys.addaudithook(self._on_event)
        self._armed = True

    def disarm(self) -> None:
        self._armed = False

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def counted(*arguments: Any) -> Any:
            self._step(needs_room=name in _NEED_ROOM)
            return call(*arguments)

        return counted

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        # Relative paths come from rmtree, which works with directory descriptors.
        if event in _ANNOUNCED and (not str(arguments[0]).startswith("/") or str(arguments[0]).startswith(self._root)):
            creates = event == "open" and (arguments[2] or 0) & os.O_CREAT and not os.path.exists(arguments[0])
            self._step(needs_room=bool(creates) or event in _NEED_ROOM)

    def _step(self, *, needs_room: bool) -> None:
        if not self._armed:
            return
        self.seen += 1
        if self._fault == "killed" and self.seen > self._before:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "full" and self.seen > self._before and needs_room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _found(store: ModelStore) -> dict[str, Any]:
    """The state that a reader sees; raises if a visible version is incomplete."""
    versions = store.versions("tiny")
    for version in versions:
        open_bundle(store.resolve(f"tiny@{version}"))
    canary = store.canary("tiny")
    return {
        "history": store.history("tiny").versions,
        "numbers": store.version_numbers("tiny"),
        "versions": versions,
        "canary": canary and [canary.version, canary.share],
        "left": _left(store),
    }


def _left(store: ModelStore) -> list[str]:
    """Leftover hidden files and folders."""
    return sorted(path.name for path in (store.root / "tiny").glob(".*") if path.name != LOCK_FILE)


def _next(store: ModelStore, bundle: Path) -> dict[str, Any]:
    """The state after another publication."""
    following = open_bundle(store.publish("tiny", copy_build(bundle))).manifest
    return {
        "next": following.version,
        "next_parent": following.parent,
        "next_current": store.current("tiny"),
        "next_left": _left(store),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])
