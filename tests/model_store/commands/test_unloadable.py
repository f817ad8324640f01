"""No command brings a bundle that can't be loaded into service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model_store.registry.store import ModelStore, copy_bundle
from shared.errors import BadBundle
from tests.model_store.commands.kit import answer, run
from tests.model_store.hostile_bundles import crash_litert, spoil_litert, spoil_saved_model

pytestmark = pytest.mark.usefixtures("plain_settings")

LITERT: list[Callable[[Path], None]] = [crash_litert, spoil_litert]


@pytest.fixture
def store(three_versions: ModelStore) -> ModelStore:
    return three_versions


def entries(store: ModelStore) -> list[str]:
    return sorted(path.name for path in (store.root / "tiny").iterdir())


@pytest.mark.parametrize("spoil", LITERT)
def test_publish_refuses_it_and_leaves_nothing(store: ModelStore, copied: Path, spoil: Callable[[Path], None]) -> None:
    spoil(copied)
    before = entries(store)
    for options in ((), ("--no-promote",), ("--name", "tiny")):
        error = run(store, "publish", str(copied), *options).exception
        assert isinstance(error, BadBundle)
        assert "litert-fp32" in str(error) or "LiteRT" in str(error)
    assert entries(store) == before
    assert store.current("tiny") == 3


@pytest.mark.training
def test_publish_tries_tensorflow_too(store: ModelStore, copied: Path) -> None:
    assert answer(store, "publish", str(copied))["version"] == 4
    spoil_saved_model(copied)
    error = run(store, "publish", str(copied)).exception
    assert isinstance(error, BadBundle)
    assert "TensorFlow" in str(error)
    assert store.versions("tiny") == [1, 2, 3, 4]


@pytest.mark.parametrize("spoil", LITERT)
def test_a_version_that_came_in_by_hand_is_neither_promoted_nor_tried(
    store: ModelStore, copied: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(copied)
    store.publish("tiny", copy_bundle(copied, "tiny"), promote=False)  # as `cp -r` and an editor would
    for command in (("promote", "tiny@4"), ("canary", "tiny@4", "--share", "0.5")):
        assert isinstance(run(store, *command).exception, BadBundle)
    assert (store.current("tiny"), store.canary("tiny")) == (3, None)


def test_verify_survives_a_model_that_crashes_its_engine(
    store: ModelStore, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_store.engines.loading.tensorflow_installed", lambda: False)
    crash_litert(copied)
    store.publish("tiny", copy_bundle(copied, "tiny"), promote=False)
    result = run(store, "verify", "tiny@4")
    assert result.exit_code == 1
    assert "tiny@4  files: ok" in result.stdout
    assert "tiny@4  litert: ok" in result.stdout
    assert "the model makes the engine crash (SIGSEGV" in result.stdout
