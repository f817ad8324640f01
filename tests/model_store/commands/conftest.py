"""Fixtures for the tests of the model store's commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.bundle.files import read_manifest
from model_store.bundle.manifest import MANIFEST_FILE
from model_store.registry.store import ModelStore
from tests.model_store.tiny_bundle import copy_build


@pytest.fixture
def plain_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shut out the developer's own sortline.toml and environment variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)


@pytest.fixture
def without_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow takes seconds to import, and has its own tests."""
    monkeypatch.setattr("model_store.engines.loading.tensorflow_installed", lambda: False)


@pytest.fixture
def three_versions(tmp_path: Path, tiny_bundle: Path) -> ModelStore:
    """A store with `tiny` 1 to 3, whose manifests claim a macro F1 of 0.5, 0.9 and 0.7."""
    store = ModelStore(tmp_path / "models")
    for macro_f1 in (0.5, 0.9, 0.7):
        store.publish("tiny", build_claiming(tiny_bundle, macro_f1))
    return store


def build_claiming(bundle: Path, macro_f1: float) -> Callable[[Path, int], None]:
    def build(folder: Path, version: int) -> None:
        copy_build(bundle)(folder, version)
        manifest = read_manifest(folder).model_copy(update={"metrics": {"macro_f1": macro_f1}})
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json())

    return build
