"""`models canary`, as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from model_store.bundle.files import read_manifest
from model_store.bundle.manifest import MANIFEST_FILE
from model_store.commands import add_to
from model_store.registry.store import ModelStore
from shared.errors import BadSetting
from tests.model_store.tiny_bundle import copy_build


@pytest.fixture(autouse=True)
def plain_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sortline.toml or variable of the developer's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SORTLINE_CONFIG", raising=False)


@pytest.fixture
def store(tmp_path: Path, tiny_bundle: Path) -> ModelStore:
    """A store with `tiny` 1 to 3, whose manifests claim a macro F1 of 0.5, 0.9 and 0.7."""
    store = ModelStore(tmp_path / "models")
    for macro_f1 in (0.5, 0.9, 0.7):
        store.publish("tiny", build_claiming(tiny_bundle, macro_f1))
    return store


def build_claiming(bundle: Path, macro_f1: float) -> Any:
    def build(folder: Path, version: int) -> None:
        copy_build(bundle)(folder, version)
        manifest = read_manifest(folder).model_copy(update={"metrics": {"macro_f1": macro_f1}})
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json())

    return build


def run(store: ModelStore, *arguments: str) -> Result:
    app = typer.Typer()
    add_to(app)
    return CliRunner().invoke(app, ["models", *arguments, "--model-store", str(store.root)])


def answer(store: ModelStore, *arguments: str) -> Any:
    result = run(store, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_canary(store: ModelStore) -> None:
    assert answer(store, "canary", "tiny") == {"name": "tiny", "current": 3, "canary": None}
    started = answer(store, "canary", "tiny@1", "--share", "0.1", "--shadow", "--lines", "line-1, line-2")
    canary = store.canary("tiny")
    assert canary is not None
    assert started["canary"] == canary.model_dump(mode="json")
    assert (canary.version, canary.share, canary.shadow, canary.lines) == (1, 0.1, True, ("line-1", "line-2"))
    text = run(store, "canary", "tiny@2", "--share", "0.25", "--max-disagreement", "0.05", "--min-images", "50").stdout
    assert "tiny@2 takes 25.0% of the images of every line, beside tiny@3" in text
    assert "more than 5.0% of at least 50 images" in text
    assert run(store, "canary", "tiny").stdout == text
    assert answer(store, "canary", "tiny", "--stop") == {"name": "tiny", "stopped": True}
    assert store.canary("tiny") is None
    assert run(store, "canary", "tiny", "--stop").stdout == "tiny has no canary\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tiny", "--share", "0.1"), "name the version"),
        (("tiny@1", "--share", "1.5"), "--share 1.5"),
        (("tiny@1", "--share", "0"), "--share 0"),
        (("tiny@1", "--share", "0.1", "--max-disagreement", "2"), "--max-disagreement 2"),
        (("tiny@1", "--share", "0.1", "--min-images", "0"), "--min-images 0"),
        (("tiny@1", "--share", "0.1", "--lines", "a b"), "--lines 'a b'"),
        (("tiny@3", "--share", "0.1"), "is the current version"),
        (("tiny", "--share", "0.1", "--stop"), "give one of them"),
    ],
)
def test_a_canary_that_cant_be(store: ModelStore, arguments: tuple[str, ...], says: str) -> None:
    failed = run(store, "canary", *arguments)
    assert isinstance(failed.exception, BadSetting)
    assert says in str(failed.exception)
    assert store.canary("tiny") is None


def test_list_marks_the_current_version_and_the_canary(store: ModelStore) -> None:
    run(store, "canary", "tiny@1", "--share", "0.1")
    rows = answer(store, "list")
    assert [(row["version"], row["parent"], row["current"], bool(row["canary"])) for row in rows] == [
        (1, None, False, True),
        (2, 1, False, False),
        (3, 2, True, False),
    ]
    _, first, second, third = run(store, "list").stdout.splitlines()
    assert "canary 10%" in first
    assert "canary" not in second and "*" not in second
    assert "*" in third
