"""The same store in each kind of place: a folder, objects in memory, files reached through fsspec."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from model_store.registry.storage.local import LocalStorage
from model_store.registry.storage.object_client import ObjectClient
from model_store.registry.storage.object_store import FsspecStorage
from model_store.registry.store import ModelStore

KINDS = ("folder", "memory", "fsspec files")


class ObjectMemory(MemoryFileSystem):  # type: ignore[misc]
    """fsspec's memory file system, changed to put and get whole objects as an object store does.

    Without that, several threads would read and write one file object. Listing is atomic here too: fsspec's own raises
    if another thread deletes an object meanwhile.
    """

    _changing = threading.RLock()  # one lock for all instances, since they share one memory

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        with self._changing:
            return super().ls(path, detail=detail, **options)

    def find(self, path: str, *options: Any, **more: Any) -> Any:
        with self._changing:
            return super().find(path, *options, **more)

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        with self._changing:
            super().pipe_file(path, value, **options)

    def _rm(self, path: str) -> None:
        with self._changing:
            super()._rm(path)

    def rm(self, path: str, **options: Any) -> None:
        with self._changing:
            super().rm(path, **options)

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        Path(lpath).write_bytes(self.cat_file(rpath))

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes())


class FakeClock:
    """Seconds that pass only during waits: each wait takes `step_s`, whatever its argument."""

    def __init__(self, step_s: float = 20.0) -> None:
        self.now_s = 0.0
        self.step_s = step_s

    def __call__(self) -> float:
        return self.now_s

    def pass_by(self, _: float) -> None:
        self.now_s += self.step_s


def make_store(kind: str, folder: Path) -> ModelStore:
    """An empty store of one of KINDS; what it keeps on the disk is below `folder`."""
    if kind == "folder":
        return ModelStore(folder / "models")
    cache = LocalStorage(folder / "cache")
    return ModelStore(FsspecStorage(objects(kind, folder), cache=cache))


def objects(kind: str, folder: Path) -> ObjectClient:
    """An empty place for objects: `memory` or `fsspec files`."""
    if kind == "memory":
        # fsspec has one memory file system for the whole process, hence the unique root.
        return ObjectClient(ObjectMemory(), f"/{uuid.uuid4().hex}/models", location="memory://models")
    return ObjectClient(LocalFileSystem(), str(folder / "remote"), location=f"files://{folder}/remote")
