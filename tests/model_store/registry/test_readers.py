"""Many readers, and a writer that publishes, promotes, rolls back and deletes: no reader ever sees half a bundle."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore

import pytest

from model_store.bundle.files import open_bundle
from model_store.engines.loading import open_engine
from model_store.registry.storage.local import LocalStorage
from model_store.registry.storage.object_store import FsspecStorage
from model_store.registry.store import ModelStore
from shared.errors import BadBundle
from tests.kit import PROJECT
from tests.model_store.registry.store_reader import read_until
from tests.model_store.registry.stores import make_store, objects
from tests.model_store.tiny_bundle import copy_build

pytestmark = pytest.mark.slow

READERS = 3
ROUNDS = 12


def keep_changing(store: ModelStore, bundle: Path, *, noticed: Callable[[], bool]) -> set[str]:
    """Publish, promote, roll back and delete, until all readers have noticed; returns all versions ever published."""
    give_up_at = time.monotonic() + 120
    for number in itertools.count():
        if number >= ROUNDS and noticed():
            break
        assert time.monotonic() < give_up_at, "a reader notices no change"
        published = int(store.publish("tiny", copy_build(bundle)).name)
        store.publish("tiny", copy_build(bundle), promote=False)
        store.promote("tiny", published + 1)
        assert store.rollback("tiny") == published
        store.prune("tiny", keep=1)
    return {f"tiny@{version}" for version in range(1, published + 2)}


def assert_read_what_there_was(counts: Counter[str], published: set[str]) -> None:
    assert set(counts) - {"gone"} <= published
    assert len(set(counts) - {"gone"}) > 1, "the store did not change during the reads, so nothing was tested"


def test_processes_that_read_a_folder_never_see_half_a_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    store = make_store("folder", tmp_path)
    store.publish("tiny", copy_build(tiny_bundle))
    changed = [tmp_path / f"changed-{number}" for number in range(READERS)]
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.model_store.registry.store_reader", str(store.root), str(mark)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mark in changed
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"

    def noticed() -> bool:  # a reader that has failed is reported below
        return all(mark.exists() or reader.poll() is not None for mark, reader in zip(changed, readers, strict=True))

    published = keep_changing(store, tiny_bundle, noticed=noticed)
    for reader in readers:
        out, err = reader.communicate(timeout=60)
        assert reader.returncode == 0, err
        assert_read_what_there_was(Counter(json.loads(out)), published)


def test_threads_that_read_objects_never_see_half_a_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    remote = objects("memory", tmp_path)
    store = ModelStore(FsspecStorage(remote, cache=LocalStorage(tmp_path / "cache")))
    store.publish("tiny", copy_build(tiny_bundle))
    stop, ready, changed = Event(), Semaphore(0), [Event() for _ in range(READERS)]
    # Two of the readers share a cache, like the workers of one machine.
    caches = [LocalStorage(tmp_path / f"cache {number // 2}") for number in range(READERS)]
    with ThreadPoolExecutor(READERS) as pool:
        readers = [
            pool.submit(
                read_until,
                stop.is_set,
                ModelStore(FsspecStorage(remote, cache=cache)),
                ready=ready.release,
                changed=changed[number].set,
            )
            for number, cache in enumerate(caches)
        ]

        def noticed() -> bool:
            return all(mark.is_set() or reader.done() for mark, reader in zip(changed, readers, strict=True))

        try:
            for _ in readers:
                assert ready.acquire(timeout=60)
            published = keep_changing(store, tiny_bundle, noticed=noticed)
        finally:
            stop.set()
    for reader in readers:
        assert_read_what_there_was(reader.result(), published)


def test_a_bundle_deleted_before_its_engine_is_loaded_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    store = make_store("folder", tmp_path)
    for _ in range(3):
        store.publish("tiny", copy_build(tiny_bundle))
    bundle = open_bundle(store.resolve("tiny@1"))
    served = open_engine(bundle, "litert", threads=1, max_batch=1)
    store.prune("tiny", keep=1)
    for engine in ("litert", "litert-fp32", "tensorflow"):
        with pytest.raises(BadBundle):
            open_engine(bundle, engine, threads=1, max_batch=1)  # type: ignore[arg-type]
    served.warm_up([1])  # an engine that was loaded before goes on
