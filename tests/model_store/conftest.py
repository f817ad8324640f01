"""Tiny models and a tiny backbone, for all tests of the model store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model_store.backbones.keras_graphs import Network, open_network
from model_store.backbones.resolve import Backbone, resolve_backbone
from model_store.registry.store import ModelStore
from tests.model_store.tiny_network import save_tiny_network


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


@pytest.fixture(scope="session")
def network_backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A resolved module with a tiny MobileNetV2 inside."""
    folder = tmp_path_factory.mktemp("network")
    return resolve_backbone(str(save_tiny_network(folder / "module")), cache=folder / "cache")


@pytest.fixture(scope="session")
def tiny_network(network_backbone: Backbone) -> Network:
    """The same, opened. Don't tune it: all tests share it. Tune a clone."""
    network = open_network(network_backbone)
    assert network is not None
    return network
