"""Signatures: what they cover, and the files of keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model_store.bundle.files import open_bundle, read_manifest, signers
from model_store.bundle.manifest import INT8_FILE, MANIFEST_FILE, SIGNATURES_FILE
from model_store.bundle.signatures import (
    MAX_SIGNATURES,
    NO_KEYS,
    TrustedKeys,
    load_trusted_keys,
    message_of,
    read_signatures,
)
from model_store.bundle.signing import Signer, add_signature, load_key, make_key, useful_signatures
from shared.errors import BadBundle, BadSetting, BadSignature
from shared.settings import load_settings
from tests.kit import PROJECT
from tests.model_store.hostile_bundles import update_digests


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return make_key(tmp_path / "release.key", passphrase=None)


@pytest.fixture
def other(tmp_path: Path) -> Signer:
    return make_key(tmp_path / "other.key", passphrase=None)


def sign(folder: Path, *by: Signer) -> None:
    for signer in by:
        data = (folder / MANIFEST_FILE).read_bytes()
        signed = add_signature(read_signatures(folder), signer.sign(read_manifest(folder), data))
        (folder / SIGNATURES_FILE).write_bytes(signed)


def trust(*signers: Signer) -> TrustedKeys:
    return TrustedKeys(frozenset(signer.public_key for signer in signers))


def test_one_trusted_signature_is_enough(copied: Path, signer: Signer, other: Signer) -> None:
    sign(copied, other, signer)
    assert open_bundle(copied, keys=trust(signer)).manifest == open_bundle(copied).manifest
    assert open_bundle(copied, keys=trust(signer, other))
    assert signers(copied) == [other.public_key, signer.public_key]
    sign(copied, other)
    assert len(read_signatures(copied)) == 2  # the other's former one is replaced


def test_an_unsigned_bundle_is_refused(copied: Path, signer: Signer) -> None:
    assert open_bundle(copied)
    assert signers(copied) == []
    with pytest.raises(
        BadSignature, match=rf"tiny@1 is not signed, .*{signer.public_key.id}.*models sign tiny@1 --key"
    ):
        open_bundle(copied, keys=trust(signer))


def test_a_signature_of_somebody_else_is_refused(copied: Path, signer: Signer, other: Signer) -> None:
    sign(copied, other)
    match = rf"tiny@1 is signed by key {other.public_key.id}, but trusted_keys names {signer.public_key.id}"
    with pytest.raises(BadSignature, match=match):
        open_bundle(copied, keys=trust(signer))


@pytest.mark.parametrize("change", ["policy", "digest", "white space", "version", "name"])
def test_a_change_after_signing_is_refused(copied: Path, signer: Signer, change: str) -> None:
    sign(copied, signer)
    path, values = copied / MANIFEST_FILE, json.loads((copied / MANIFEST_FILE).read_text())
    if change == "policy":
        values["policy"]["lanes"]["disfigured"] = "good"
    elif change == "digest":
        (copied / INT8_FILE).write_bytes(b"another model")
        update_digests(copied)
        values = json.loads(path.read_text())
    elif change in values:
        values[change] = {"name": "other", "version": 2}[change]
    path.write_text(json.dumps(values, indent=3))
    assert open_bundle(copied)
    assert signers(copied) == []
    with pytest.raises(BadSignature, match=f"the signature of key {signer.public_key.id} is of another manifest"):
        open_bundle(copied, keys=trust(signer))


def test_a_changed_file_is_refused_though_the_manifest_is_signed(copied: Path, signer: Signer) -> None:
    sign(copied, signer)
    for path in (path for path in copied.rglob("*") if path.is_file() and path.parent != copied / "saved_model"):
        if path.name in (MANIFEST_FILE, SIGNATURES_FILE):
            continue
        before = path.read_bytes()
        path.write_bytes(before + b"?")
        with pytest.raises(BadBundle, match=path.name):
            open_bundle(copied, keys=trust(signer))
        path.write_bytes(before)


def test_another_keys_signature_under_a_trusted_name_is_refused(copied: Path, signer: Signer, other: Signer) -> None:
    sign(copied, other)
    path = copied / SIGNATURES_FILE
    path.write_text(path.read_text().replace(str(other.public_key), str(signer.public_key)))
    with pytest.raises(BadSignature, match="another manifest"):
        open_bundle(copied, keys=trust(signer))


def test_purpose_name_and_number_are_signed(copied: Path) -> None:
    manifest = read_manifest(copied)
    assert message_of(manifest, b"{}") == b"sortline model 1\ntiny@1\n{}"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"signatures": 1}', b'{"signatures": [{"key": "ed25519:AAAA", "signature": ""}]}', b"[" * 100_000],
)
def test_a_broken_file_of_signatures_is_refused_only_where_it_matters(
    copied: Path, signer: Signer, content: bytes
) -> None:
    (copied / SIGNATURES_FILE).write_bytes(content)
    assert open_bundle(copied)
    with pytest.raises(BadSignature, match=r"manifest\.sig is not a file of signatures"):
        open_bundle(copied, keys=trust(signer))


@pytest.mark.parametrize("text", ["", "!", "AAAA", "é"])
def test_a_signature_that_is_no_signature_is_refused(copied: Path, signer: Signer, text: str) -> None:
    values = {"signatures": [{"key": str(signer.public_key), "signature": text}]}
    (copied / SIGNATURES_FILE).write_text(json.dumps(values))
    with pytest.raises(BadSignature, match="another manifest"):
        open_bundle(copied, keys=trust(signer))


def test_the_number_of_signatures_is_bounded(copied: Path, signer: Signer) -> None:
    sign(copied, signer)
    one = json.loads((copied / SIGNATURES_FILE).read_text())["signatures"]
    (copied / SIGNATURES_FILE).write_text(json.dumps({"signatures": one * (MAX_SIGNATURES + 1)}))
    with pytest.raises(BadSignature, match="not a file of signatures"):
        open_bundle(copied, keys=trust(signer))


def test_worthless_signatures_don_t_keep_a_key_out(copied: Path, signer: Signer, tmp_path: Path) -> None:
    """Whoever can write the store fills up the file, with signatures of anything or of keys that nobody knows."""
    manifest, data = read_manifest(copied), (copied / MANIFEST_FILE).read_bytes()
    strangers = [make_key(tmp_path / f"{index}.key", passphrase=None) for index in range(MAX_SIGNATURES)]
    fitting = tuple(stranger.sign(manifest, data) for stranger in strangers)
    wrong = tuple(stranger.sign(manifest, b"another") for stranger in strangers)
    mine = signer.sign(manifest, data)
    assert useful_signatures((*wrong[:15], mine), manifest, data, keys=NO_KEYS) == (mine,)
    with pytest.raises(BadSetting, match=r"16 signatures already.*set trusted_keys, or delete .*manifest\.sig"):
        add_signature(useful_signatures(fitting, manifest, data, keys=NO_KEYS), mine)
    kept = useful_signatures(fitting, manifest, data, keys=trust(signer))
    (copied / SIGNATURES_FILE).write_bytes(add_signature(kept, mine))
    assert open_bundle(copied, keys=trust(signer))
    kept = useful_signatures((*fitting[:15], mine), manifest, data, keys=trust(signer, strangers[14]))
    assert kept[:2] == (fitting[14], mine)
    assert len(kept) == MAX_SIGNATURES - 1


def test_trusted_keys_come_as_text_and_from_files(tmp_path: Path, signer: Signer, other: Signer) -> None:
    file = tmp_path / "keys"
    file.write_text(f"\ufeff# the plant's\n\n{other.public_key}  # Monday's shift\n")  # from an editor on Windows
    assert load_trusted_keys(f"{signer.public_key}, {file}") == trust(signer, other)
    assert not load_trusted_keys("")
    for content, match in (("# nothing\n", "has no key"), (f"{other.public_key}\nsecret\n", "line 2: a public key is")):
        file.write_text(content)
        with pytest.raises(BadSetting, match=match) as caught:
            load_trusted_keys(str(file))
        assert "secret" not in str(caught.value)
    with pytest.raises(BadSetting, match="can't be read"):
        load_trusted_keys(str(tmp_path / "absent"))
    with pytest.raises(BadSetting, match=r"/dev/zero can't be read: not a regular file[^.]*\.$"):
        load_trusted_keys("/dev/zero")


@pytest.mark.parametrize("value", [",", " , ,", " "])
def test_a_setting_that_names_no_key_does_not_mean_that_none_is_needed(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """As `$A,$B` gives it where neither is set."""
    monkeypatch.setenv("SORTLINE_TRUSTED_KEYS", value)
    with pytest.raises(BadSetting, match=r"setting trusted_keys = .*it names no key"):
        load_settings()
    with pytest.raises(BadSetting, match="names no key"):
        load_trusted_keys(value)


def test_a_private_key_is_for_its_owner_only_and_may_have_a_passphrase(tmp_path: Path, signer: Signer) -> None:
    path = tmp_path / "release.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, passphrase=None).public_key == signer.public_key
    with pytest.raises(BadSetting, match="exists already"):
        make_key(path, passphrase=None)
    with pytest.raises(BadSetting, match="leave out --passphrase-file"):
        load_key(path, passphrase=b"open sesame")
    locked = make_key(tmp_path / "locked.key", passphrase=b"open sesame")
    assert load_key(tmp_path / "locked.key", passphrase=b"open sesame").public_key == locked.public_key
    assert b"ENCRYPTED" in (tmp_path / "locked.key").read_bytes()
    for passphrase, match in ((None, "give --passphrase-file"), (b"guess", "the passphrase is wrong")):
        with pytest.raises(BadSetting, match=match):
            load_key(tmp_path / "locked.key", passphrase=passphrase)


def test_other_keys_are_refused(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    other_kind = X25519PrivateKey.generate().private_bytes(
        forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()
    )
    for content, match in ((other_kind, "another kind of key"), (b"text", "not a private key in PEM form")):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(BadSetting, match=match):
            load_key(tmp_path / "key", passphrase=None)


def test_cryptography_is_imported_only_for_signatures(tiny_bundle: Path) -> None:
    source = f"""
import sys
from pathlib import Path
import worker.models.loading
from model_store.bundle.files import open_bundle
open_bundle(Path({str(tiny_bundle)!r}))
assert "cryptography" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", source], check=True, cwd=PROJECT)
