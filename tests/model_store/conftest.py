"""Tiny models and a tiny backbone, for all tests of the model store."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from model_store.backbones.keras_graphs import Network, open_network
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.registry.store import ModelStore
from tests.model_store.tiny_backbone import save_tiny_backbone
from tests.model_store.tiny_network import save_tiny_network
from tests.shared_folders import made_once


@pytest.fixture(scope="session")
def tiny_store(tiny_models: Path) -> ModelStore:
    """The store with `tiny` (multi) and `tiny-single`. Don't write to it: all tests share it."""
    return ModelStore(tiny_models)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_store: ModelStore) -> Path:
    """The folder of the multi model. Don't write to it: all tests share it."""
    return tiny_store.resolve("tiny")


@pytest.fixture
def copied(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be changed."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@dataclass(frozen=True)
class CachedModule:
    """A tiny module in TF-Hub's format, and a cache that has it. Don't write to them: all tests share them."""

    module: Path
    cache: Path

    def resolved(self) -> Backbone:
        return resolve_backbone(str(self.module), cache=self.cache)


def _cached(folder: Path) -> CachedModule:
    return CachedModule(folder / "module", folder / "cache")


@pytest.fixture(scope="session")
def opaque_module(tmp_path_factory: pytest.TempPathFactory) -> CachedModule:
    """`tiny_backbone`, whose layers are unknown to us."""

    def make(folder: Path) -> None:
        save_tiny_backbone(folder / "module")
        _cached(folder).resolved()

    return _cached(made_once(tmp_path_factory, "opaque-module", make))


@pytest.fixture(scope="session")
def network_backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A resolved module with a tiny MobileNetV2 inside. Don't write to it: all tests share it."""

    def make(folder: Path) -> None:
        save_tiny_network(folder / "module")
        _cached(folder).resolved()

    return _cached(made_once(tmp_path_factory, "network-module", make)).resolved()


@pytest.fixture(scope="session")
def tiny_network(network_backbone: Backbone) -> Network:
    """The same, opened. Don't tune it: all tests share it. Tune a clone."""
    network = open_network(network_backbone)
    assert network is not None
    return network
