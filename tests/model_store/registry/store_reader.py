"""Open a store's models again and again; a script for test_readers.py.

Run as `python -m tests.model_store.registry.store_reader ROOT CHANGED`. It prints `ready` when it has opened the first
version, makes the file CHANGED when it has opened another version, reads until its standard input is closed, and then
prints one JSON object.
A version that is deleted while it is being opened may be refused with BadBundle or NotFound. A version that still
exists may not be refused: the reader would have seen half a bundle.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from model_store.bundle.files import open_bundle
from model_store.registry.store import ModelStore
from shared.errors import BadBundle, NotFound


def read_until(
    stop: Callable[[], bool], store: ModelStore, *, ready: Callable[[], object], changed: Callable[[], object]
) -> Counter[str]:
    """How often each version was opened, and how often one was gone meanwhile. Any other error is raised."""
    tell = {1: ready, 2: changed}  # by the number of different versions opened so far
    counts: Counter[str] = Counter()
    while not stop():
        for spec in ("tiny", *(f"tiny@{version}" for version in store.versions("tiny")[:2])):
            counts[_read(spec, store)] += 1
            if (told := tell.pop(len(counts.keys() - {"gone"}), None)) is not None:
                told()
    return counts


def _read(spec: str, store: ModelStore) -> str:
    try:
        path = store.resolve(spec)
    except NotFound:
        return "gone"
    try:
        manifest = open_bundle(path).manifest
    except BadBundle:
        if path.exists():
            raise
        return "gone"
    assert f"{manifest.version:06d}" == path.name
    return f"{manifest.name}@{manifest.version}"


def main(root: Path, changed: Path) -> None:
    closed = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    counts = read_until(
        closed.is_set, ModelStore(root), ready=lambda: print("ready", flush=True), changed=changed.touch
    )
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
