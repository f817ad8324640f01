"""A model store whose versions can be told apart by their answers, made without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from model_store.bundle.files import file_digests, read_manifest
from model_store.bundle.manifest import FP32_FILE, GOLDEN_FILE, INT8_FILE, MANIFEST_FILE
from model_store.registry.store import ModelStore
from shared.settings import Settings
from tests.model_store.tiny_bundle import CLASSES, copy_build

NAME = "tiny"
Build = Callable[[Path], None]


class Versions:
    """The model `tiny` in a store of its own; each version is a copy of the session's tiny bundle."""

    def __init__(self, root: Path, *, source: Path) -> None:
        self.store = ModelStore(root)
        self._source = source

    def publish(self, *, lane: str | None = None, promote: bool = True, build: Build | None = None) -> int:
        """A new version, its number. With `lane`, that is where its bottles go, all of them."""
        copy = copy_build(self._source, name=NAME)

        def made(folder: Path, version: int) -> None:
            copy(folder, version)
            if lane is not None:
                _send_to(folder, lane)
            if build is not None:
                build(folder)

        return int(self.store.publish(NAME, made, promote=promote).name)

    def folder(self, version: int) -> Path:
        """The files of a version."""
        return self.store.root / NAME / f"{version:06d}"

    def damage(self, version: int) -> None:
        """Change a byte of the model."""
        path = self.folder(version) / INT8_FILE
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)

    def point(self, version: int) -> None:
        """Move the pointer without the checks of `promote`, as an older release or a person might."""
        (self.store.root / NAME / "current").write_text(f"{version}\n")


def own_versions(settings: Settings, tiny_models: Path) -> tuple[Versions, Settings]:
    """A store below the test's folder with version 1 of `tiny`, and the settings that serve it."""
    versions = Versions(settings.model_store_dir, source=ModelStore(tiny_models).resolve(NAME))
    versions.publish(lane="one")
    return versions, settings.model_copy(update={"model": NAME, "engine": "litert", "store_poll_s": 0.2})


def other_golden_answers(folder: Path) -> None:
    """Make a bundle whose digests are right, but whose model doesn't give the golden answers."""
    path = folder / GOLDEN_FILE
    with np.load(path) as arrays:
        images, float32, int8 = arrays["images"], arrays["float"], arrays["int8"]
    np.savez_compressed(path, images=images, float=1 - float32, int8=1 - int8)
    _sign(folder)


def unusable_fp32(folder: Path) -> None:
    """Make a bundle whose digests are right, but whose fp32 file isn't a model."""
    (folder / FP32_FILE).write_bytes(b"no model")
    _sign(folder)


def _send_to(folder: Path, lane: str) -> None:
    manifest = read_manifest(folder)
    policy = manifest.policy.model_copy(update={"lanes": dict.fromkeys(CLASSES, lane), "manual_lane": lane})
    (folder / MANIFEST_FILE).write_text(manifest.model_copy(update={"policy": policy}).model_dump_json())


def _sign(folder: Path) -> None:
    manifest = read_manifest(folder).model_copy(update={"files": file_digests(folder)})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json())
