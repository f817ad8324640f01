"""Fixtures of the tests of backbones: a tiny module in TF-Hub's format, and a server that modules are fetched from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model_store.backbones.module_server import ModuleServer, module_server
from tests.model_store.tiny_backbone import save_tiny_backbone


@pytest.fixture(scope="session")
def hub_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny module in TF-Hub's format. Don't write to it: several tests share it."""
    return save_tiny_backbone(tmp_path_factory.mktemp("hub") / "tiny")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleServer]:
    """A server of modules that the test fills, reached without the proxy that the environment may name."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with module_server() as running:
        yield running


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A folder with a module's file names; the contents don't matter for an archive."""
    folder = tmp_path / "module"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index" * 5000)
    return folder
