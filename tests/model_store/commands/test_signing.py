"""`models keygen` and `models sign`, and what other commands do where keys are set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from model_store.registry.store import ModelStore
from shared.errors import BadSetting, BadSignature
from tests.model_store.commands.kit import answer, run

pytestmark = pytest.mark.usefixtures("plain_settings", "without_tensorflow")


@pytest.fixture
def store(three_versions: ModelStore) -> ModelStore:
    return three_versions


def new_key(path: Path, *options: str) -> dict[str, str]:
    import typer

    from model_store.commands import add_to

    app = typer.Typer()
    add_to(app)
    result = CliRunner().invoke(app, ["models", "keygen", str(path), "--json", *options])
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_a_key_signs_and_is_shown(store: ModelStore, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("open sesame\n")
    key = new_key(tmp_path / "release.key", "--passphrase-file", str(phrase))
    options = ("--key", str(tmp_path / "release.key"), "--passphrase-file", str(phrase))
    signed = run(store, "sign", "tiny@2", *options)
    assert f"tiny@2 is signed by key {key['key_id']}" in signed.stdout
    assert key["public_key"] in signed.stdout
    known = {"key_id": key["key_id"], "public_key": key["public_key"]}
    assert answer(store, "sign", "tiny", *options) == {"name": "tiny", "version": 3} | known
    assert [row["signed_by"] for row in answer(store, "list")] == [[], [key["key_id"]], [key["key_id"]]]
    listed = run(store, "list").stdout
    assert f" {key['key_id'][:8]}\n" in listed
    assert f"signed by key {key['key_id']}: {key['public_key']}" in run(store, "show", "tiny@2").stdout
    checks = answer(store, "verify", "tiny@2")
    assert [check["check"] for check in checks] == ["files", "signature", "litert", "litert-fp32"]
    assert checks[1]["signed_by"] == [key["key_id"]]
    for result in (signed, run(store, "sign", "tiny@2", *options[:2])):
        assert "sesame" not in result.output + str(result.exception)


def test_a_key_that_others_may_read_is_named(store: ModelStore, tmp_path: Path) -> None:
    new_key(tmp_path / "release.key")
    (tmp_path / "release.key").chmod(0o644)
    signed = run(store, "sign", "tiny@2", "--key", str(tmp_path / "release.key"))
    assert signed.exit_code == 0
    assert f"chmod 600 {tmp_path / 'release.key'}" in signed.stderr


def test_where_keys_are_set_unsigned_versions_are_refused(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key(tmp_path / "release.key")
    monkeypatch.setenv("SORTLINE_TRUSTED_KEYS", key["public_key"])
    for arguments in (("promote", "tiny@2"), ("canary", "tiny@2", "--share", "0.5")):
        assert isinstance(run(store, *arguments).exception, BadSignature)
    verified = run(store, "verify", "tiny@2")
    assert verified.exit_code == 1
    assert "tiny@2  signature: tiny@2 in " in verified.stdout
    run(store, "sign", "tiny@2", "--key", str(tmp_path / "release.key"))
    assert run(store, "promote", "tiny@2").exit_code == 0
    assert run(store, "verify", "tiny@2").exit_code == 0


def test_where_keys_are_set_publishing_does_not_promote(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SORTLINE_TRUSTED_KEYS", new_key(tmp_path / "release.key")["public_key"])
    published = run(store, "publish", str(store.root / "tiny/000001"))
    assert published.exit_code == 0
    assert "the new version is not promoted, because trusted_keys is set" in published.stderr
    following = "next: sortline models sign tiny@4 --key FILE (and --passphrase-file FILE, if it has one)"
    assert following in published.stdout
    assert store.current("tiny") == 3


def test_commands_that_run_a_model_want_a_signature(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`classify`, `evaluate` and `models compare` open it so."""
    from model_store.commands.options import open_model
    from shared.settings import load_settings

    key = new_key(tmp_path / "release.key")
    monkeypatch.setenv("SORTLINE_TRUSTED_KEYS", key["public_key"])
    settings = load_settings(model_store=str(store.root), model="tiny@2", engine="litert")
    with pytest.raises(BadSignature, match=key["key_id"]):
        open_model(settings)
    run(store, "sign", "tiny@2", "--key", str(tmp_path / "release.key"))
    assert open_model(settings)[0].manifest.version == 2


@pytest.mark.parametrize("value", ["ed25519:", "ed25519:AAAA", "a,ed25519:!", "-----BEGIN PRIVATE KEY-----\nMC4C"])
def test_keys_that_are_none_are_refused(store: ModelStore, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SORTLINE_TRUSTED_KEYS", value)
    error = run(store, "promote", "tiny@2").exception
    assert isinstance(error, BadSetting)
    assert "trusted_keys" in str(error)
    assert "PRIVATE" not in str(error)
