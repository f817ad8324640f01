"""The commands that change the store, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from model_store.bundle.manifest import INT8_FILE, MANIFEST_FILE
from model_store.commands import add_to
from model_store.registry.store import ModelStore
from shared.errors import BadBundle, BadSetting, NotFound
from tests.model_store.commands.kit import answer, run
from tests.model_store.tiny_bundle import copy_build

pytestmark = pytest.mark.usefixtures("plain_settings", "without_tensorflow")


@pytest.fixture
def store(three_versions: ModelStore) -> ModelStore:
    return three_versions


def test_publish_a_folder(store: ModelStore, tmp_path: Path) -> None:
    folder = str(store.resolve("tiny@2"))
    other = ModelStore(tmp_path / "other store")
    first = answer(other, "publish", folder)
    assert first | {"path": ""} == {
        "name": "tiny",
        "version": 1,
        "parent": None,
        "previous": None,
        "promoted": True,
        "path": "",
        "warning": None,
    }
    assert Path(first["path"]) == other.resolve("tiny")
    text = run(other, "publish", folder, "--no-promote").stdout
    assert "published tiny@2" in text
    assert "sortline models promote tiny@2" in text
    assert other.current("tiny") == 1
    assert "now current instead of tiny@1" in run(other, "publish", folder).stdout
    assert answer(other, "publish", folder, "--name", "bottles")["name"] == "bottles"
    assert other.names() == ["bottles", "tiny"]


def test_publish_refuses_a_folder_that_is_not_a_bundle(store: ModelStore, tmp_path: Path) -> None:
    absent = run(store, "publish", str(tmp_path / "absent")).exception
    assert isinstance(absent, NotFound)
    assert str(absent).startswith(f"{tmp_path / 'absent'} doesn't exist or is not a folder. Give a version's folder")
    for options in ((), ("--name", "tiny")):
        empty = run(store, "publish", str(tmp_path), *options).exception
        assert isinstance(empty, BadBundle)
        assert str(empty).startswith(f"{tmp_path} is not a bundle: it has no manifest.json. Give a version's folder")
    folder = store.resolve("tiny@1")
    (folder / INT8_FILE).write_bytes(b"?")
    failed = run(store, "publish", str(folder))
    assert isinstance(failed.exception, BadBundle)
    assert INT8_FILE in str(failed.exception)
    assert isinstance(run(store, "publish", str(store.resolve("tiny@2")), "--name", "a/b").exception, BadSetting)
    assert store.versions("tiny") == [1, 2, 3]


def test_promote_warns_of_a_lower_macro_f1(store: ModelStore) -> None:
    result = run(store, "promote", "tiny@1")
    assert result.exit_code == 0
    assert result.stdout == "tiny@1 is now current instead of tiny@3\n"
    assert "tiny@1 has a macro F1 of 0.500, tiny@3 had 0.700, each on its own validation images" in result.stderr
    better = run(store, "promote", "tiny@2")
    assert (better.stdout, better.stderr) == ("tiny@2 is now current instead of tiny@1\n", "")
    assert answer(store, "promote", "tiny@2") == {"name": "tiny", "version": 2, "previous": 2, "warning": None}
    assert "0.900" in answer(store, "promote", "tiny@3")["warning"]


def test_promote_refuses_missing_and_damaged_versions(store: ModelStore) -> None:
    assert isinstance(run(store, "promote", "tiny").exception, BadSetting)
    assert isinstance(run(store, "promote", "tiny@9").exception, NotFound)
    (store.resolve("tiny@1") / INT8_FILE).write_bytes(b"?")
    failed = run(store, "promote", "tiny@1")
    assert isinstance(failed.exception, BadBundle)
    assert failed.stderr == ""  # no warning about a version that is not promoted
    assert store.current("tiny") == 3


def test_rollback(store: ModelStore) -> None:
    assert run(store, "rollback", "tiny").stdout == "tiny@2 is now current instead of tiny@3\n"
    assert answer(store, "rollback", "tiny") == {"name": "tiny", "version": 1, "previous": 2}
    assert isinstance(run(store, "rollback", "tiny").exception, NotFound)
    assert store.current("tiny") == 1


def test_prune(store: ModelStore) -> None:
    dry = answer(store, "prune", "tiny", "--keep", "1", "--dry-run")
    assert dry == {"name": "tiny", "deleted": [1], "kept": [2, 3], "dry_run": True}
    assert (
        run(store, "prune", "tiny", "--dry-run", "--keep", "1").stdout
        == "would delete tiny@1; would keep tiny@2, tiny@3\n"
    )
    assert store.versions("tiny") == [1, 2, 3]
    assert run(store, "prune", "tiny").stdout == "deleted nothing; kept tiny@1, tiny@2, tiny@3\n"
    assert answer(store, "prune", "tiny", "--keep", "1") == dry | {"dry_run": False}
    assert store.versions("tiny") == [2, 3]
    assert run(store, "prune", "tiny", "--keep", "0").exit_code == 2


@pytest.mark.slow
def test_the_commands_take_a_url(store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORTLINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SORTLINE_MODEL_STORE", f"memory://{tmp_path.name}")

    def command(*arguments: str) -> Any:
        app = typer.Typer()
        add_to(app)
        result = CliRunner().invoke(app, ["models", *arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    for version in (1, 2, 3):
        command("publish", str(store.resolve(f"tiny@{version}")))
    assert command("rollback", "tiny")["version"] == 2
    command("canary", "tiny@3", "--share", "1")
    assert command("prune", "tiny", "--keep", "1")["kept"] == [1, 2, 3]
    assert command("promote", "tiny@3")["previous"] == 2
    assert [row["current"] for row in command("list")] == [False, False, True]
    assert {check["check"] for check in command("verify", "tiny@3")} >= {"files", "litert"}


def test_a_version_that_lacks_a_class_is_promoted_with_a_warning_of_the_lines_policies(
    store: ModelStore, tmp_path: Path
) -> None:
    """A worker refuses a model that lacks a class of a line's policy, and doesn't start with it."""
    other = tmp_path / "other"
    copy_build(store.resolve("tiny@2"))(other, 1)
    (other / MANIFEST_FILE).write_text((other / MANIFEST_FILE).read_text().replace("no cap", "no lid"))
    unused = run(store, "publish", str(other), "--no-promote")
    assert (unused.exit_code, unused.stderr) == (0, "")
    published = answer(store, "publish", str(other))
    assert "tiny@5 lacks classes that tiny@3 has: 'no cap'." in published["warning"]
    assert "tiny@3 lacks" in answer(store, "promote", "tiny@3")["warning"]
    warning = run(store, "promote", "tiny@4").stderr
    assert "sortline: tiny@4 lacks classes that tiny@3 has: 'no cap'." in warning
    assert "`sortline models promote tiny@3`" in warning
