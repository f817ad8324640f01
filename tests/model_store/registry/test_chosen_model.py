"""Without a name a command uses the default model or the only one in the store, or lists the names to choose from."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model_store.registry.chosen_model import chosen_model
from model_store.registry.store import ModelStore, copy_bundle
from shared.errors import NotFound
from shared.settings import Settings, load_settings


@pytest.fixture
def store(tiny_bundle: Path, tmp_path: Path) -> ModelStore:
    """A store of two models, neither of which has the default name."""
    store = ModelStore(tmp_path / "models")
    for name in ("caps", "tops"):
        store.publish(name, copy_bundle(tiny_bundle, name))
    return store


def test_the_only_model_is_taken(store: ModelStore) -> None:
    shutil.rmtree(store.root / "tops")
    (store.root / "begun" / "000001").mkdir(parents=True)  # has no complete version
    assert chosen_model(Settings(), store) == "caps"


def test_of_several_the_flags_are_shown(store: ModelStore) -> None:
    with pytest.raises(NotFound, match=r"is called 'bottles', the default. Choose one: --model caps, --model tops;"):
        chosen_model(Settings(), store)


def test_the_default_goes_before_others(store: ModelStore, tiny_bundle: Path) -> None:
    store.publish("bottles", copy_bundle(tiny_bundle, "bottles"))
    assert chosen_model(Settings(), store) == "bottles"


def test_a_name_that_was_given_is_kept(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(store.root / "tops")
    assert chosen_model(load_settings(model="tops@3"), store) == "tops@3"
    monkeypatch.setenv("SORTLINE_MODEL", "bottles")
    assert chosen_model(load_settings(), store) == "bottles"
    with pytest.raises(NotFound, match=r"'bottles' has no current version.*it has caps@1"):
        store.resolve("bottles")


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"it is empty\. Train one with `sortline train`"):
        chosen_model(Settings(), ModelStore(tmp_path))
