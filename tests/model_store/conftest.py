"""Tiny published models, made once per session: TensorFlow is slow to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.store import ModelStore
from tests.model_store.tiny_bundle import publish_tiny_bundle


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """A store with `tiny` (multi) and `tiny-single`. Don't write to it: it is everybody's."""
    store = ModelStore(tmp_path_factory.mktemp("tiny-store"))
    publish_tiny_bundle(store)
    publish_tiny_bundle(store, name="tiny-single", mode="single")
    return store


@pytest.fixture(scope="session")
def tiny_bundle(tiny_store: ModelStore) -> Path:
    """The folder of the multi model. Don't write to it: it is everybody's."""
    return tiny_store.resolve("tiny")
