"""Signatures in the store, in each kind of place."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.manifest import MANIFEST_FILE, SIGNATURES_FILE
from model_store.bundle.signatures import Signatures, TrustedKeys
from model_store.bundle.signing import Signer, make_key
from model_store.registry.canary import Canary
from model_store.registry.listing import list_versions
from model_store.registry.store import ModelStore, copy_bundle, open_store
from shared.errors import BadBundle, BadSetting, BadSignature, NotFound
from shared.settings import Settings
from tests.model_store.registry.stores import KINDS, make_store


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return make_key(tmp_path / "release.key", passphrase=None)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, tiny_bundle: Path) -> ModelStore:
    """A store with `tiny` 1 and 2, where 1 is current."""
    store = make_store(request.param, tmp_path)
    for promote in (True, False):
        store.publish("tiny", copy_bundle(tiny_bundle, "tiny"), promote=promote)
    return store


def trusting(store: ModelStore, signer: Signer) -> ModelStore:
    return ModelStore(store.storage, keys=TrustedKeys(frozenset([signer.public_key])))


def test_only_signed_versions_are_promoted_tried_and_rolled_back_to(store: ModelStore, signer: Signer) -> None:
    strict = trusting(store, signer)
    for change in (lambda: strict.promote("tiny", 2), lambda: strict.set_canary("tiny", Canary(version=2, share=0.5))):
        with pytest.raises(BadSignature, match=r"tiny@2 in .*: tiny@2 is not signed"):
            change()
    strict.sign("tiny", 2, signer)
    strict.set_canary("tiny", Canary(version=2, share=0.5))
    strict.promote("tiny", 2)
    assert (strict.current("tiny"), strict.canary("tiny")) == (2, None)
    with pytest.raises(NotFound, match="no earlier version"):
        strict.rollback("tiny")
    strict.sign("tiny", 1, signer)
    assert strict.rollback("tiny") == 1


def test_only_signed_versions_are_opened(store: ModelStore, signer: Signer) -> None:
    strict = trusting(store, signer)
    for spec in ("tiny", "tiny@2"):
        assert store.open(spec).path == store.resolve(spec)
        with pytest.raises(BadSignature, match="is not signed"):
            strict.open(spec)
    strict.sign("tiny", 2, signer)
    assert strict.open("tiny@2").manifest.version == 2


@pytest.mark.parametrize("location", ["{folder}/models", "file://{folder}/models", "memory://{folder}/models"])
def test_the_settings_keys_hold_wherever_the_store_is(
    location: str, settings: Settings, signer: Signer, tiny_bundle: Path, tmp_path: Path
) -> None:
    place = {"model_store": location.format(folder=tmp_path)}
    open_store(settings.model_copy(update=place)).publish("tiny", copy_bundle(tiny_bundle, "tiny"))
    strict = open_store(settings.model_copy(update=place | {"trusted_keys": str(signer.public_key)}))
    with pytest.raises(BadSignature, match="is not signed"):
        strict.open("tiny")
    strict.sign("tiny", 1, signer)
    assert strict.open("tiny").manifest.version == 1


def test_publishing_does_not_promote_what_nobody_can_have_signed(
    store: ModelStore, signer: Signer, tiny_bundle: Path
) -> None:
    strict = trusting(store, signer)
    with pytest.raises(BadSetting, match="Add --no-promote, sign it"):
        strict.publish("tiny", copy_bundle(tiny_bundle, "tiny"))
    strict.publish("tiny", copy_bundle(tiny_bundle, "tiny"), promote=False)
    assert strict.versions("tiny") == [1, 2, 3]


def test_a_signature_reaches_copies_that_were_fetched_before(store: ModelStore, signer: Signer) -> None:
    folder = store.resolve("tiny@2")
    assert not (folder / SIGNATURES_FILE).exists()
    store.sign("tiny", 2, signer)
    assert (store.resolve("tiny@2") / SIGNATURES_FILE).is_file()
    assert [one.public_key for one in store.signatures("tiny", 2)] == [signer.public_key]
    assert store.signatures("tiny", 1) == ()
    assert [row["signed_by"] for row in list_versions(store)] == [[], [signer.public_key.id]]


def test_a_signed_version_in_the_place_of_another_is_refused(tmp_path: Path, tiny_bundle: Path, signer: Signer) -> None:
    """The signature is good, but of another version, or of another model."""
    store = ModelStore(tmp_path / "models")
    for name in ("tiny", "tiny", "other"):
        store.publish(name, copy_bundle(tiny_bundle, name))
    for name in ("tiny", "other"):
        store.sign(name, 1, signer)
    strict = trusting(store, signer)
    for name in ("tiny", "other"):
        for file in (MANIFEST_FILE, SIGNATURES_FILE):
            (store.root / "tiny/000002" / file).write_bytes((store.root / name / "000001" / file).read_bytes())
        with pytest.raises(BadBundle, match=rf"the manifest says {name}@1, but tiny@2 is expected"):
            strict.promote("tiny", 2)
        with pytest.raises(NotFound):
            strict.resolve("tiny@2")


def test_a_version_is_checked_before_it_is_signed(store: ModelStore, signer: Signer) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(store.storage), "fresh_copy", lambda *_: pytest.fail("it was fetched"))
        with pytest.raises(NotFound, match="tiny@9 does not exist"):
            store.sign("tiny", 9, signer)
    with pytest.raises(NotFound):
        store.sign("tinny", 1, signer)
    if store.root.name == "models":  # the folder itself, not a cache
        (store.resolve("tiny@2") / "model.int8.tflite").write_bytes(b"another model")
        with pytest.raises(BadBundle, match=r"model\.int8\.tflite has SHA-256"):
            store.sign("tiny", 2, signer)
        assert store.signatures("tiny", 2) == ()


def test_a_published_copy_has_no_signature(tmp_path: Path, tiny_bundle: Path, signer: Signer) -> None:
    """It would be of another manifest: a copy has a number of its own."""
    store = ModelStore(tmp_path / "models")
    store.publish("tiny", copy_bundle(tiny_bundle, "tiny"))
    store.sign("tiny", 1, signer)
    store.publish("tiny", copy_bundle(store.resolve("tiny@1"), "tiny"))
    assert store.signatures("tiny", 2) == ()


def test_to_sign_drops_signatures_that_fit_nothing(store: ModelStore, signer: Signer, tmp_path: Path) -> None:
    store.sign("tiny", 2, signer)
    (worthless,) = store.signatures("tiny", 2)
    with store.storage.writing("tiny") as writer:
        writer.write(f"000001/{SIGNATURES_FILE}", Signatures(signatures=(worthless,)).model_dump_json().encode())
    other = make_key(tmp_path / "other.key", passphrase=None)
    store.sign("tiny", 1, other)
    assert [signature.public_key for signature in store.signatures("tiny", 1)] == [other.public_key]
