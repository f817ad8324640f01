"""Workers serve signed versions only, where keys are set, and survive models that crash their engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from model_store.bundle.signing import Signer, make_key
from shared.errors import BadSignature
from shared.settings import Settings
from tests.model_store.hostile_bundles import crash_litert
from tests.worker.models.followers import Post
from tests.worker.models.versions import NAME, Versions
from worker.models.follower import UNSEEN_REFUSED_S
from worker.models.loading import load_model


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return make_key(tmp_path / "release.key", passphrase=None)


@pytest.fixture
def strict(setting: tuple[Versions, Settings], signer: Signer) -> Settings:
    return setting[1].model_copy(update={"trusted_keys": str(signer.public_key)})


def test_a_worker_starts_with_a_signed_version_only(versions: Versions, strict: Settings, signer: Signer) -> None:
    with pytest.raises(BadSignature, match=f"tiny@1 is not signed, but trusted_keys requires.*{signer.public_key.id}"):
        load_model(strict)
    versions.store.sign(NAME, 1, signer)
    assert load_model(strict).manifest.version == 1


def test_a_serving_worker_keeps_its_version_until_the_next_one_is_signed(
    versions: Versions, strict: Settings, signer: Signer, caplog: pytest.LogCaptureFixture
) -> None:
    versions.store.sign(NAME, 1, signer)
    post = Post(strict)
    versions.publish(lane="two")
    for _ in range(3):
        post.follower.poll()
    assert (post.stable, post.loaded, post.swaps("refused")) == (1, [2], 1)
    (refused,) = [record.message for record in caplog.records if "refused" in record.message]
    assert "tiny@2 is refused, tiny@1 on litert goes on: tiny@2 is not signed" in refused
    versions.store.sign(NAME, 2, signer)
    post.now += UNSEEN_REFUSED_S
    post.follower.poll()
    assert post.stable == 2


def test_an_unsigned_canary_is_not_tried(versions: Versions, strict: Settings, signer: Signer) -> None:
    versions.store.sign(NAME, 1, signer)
    post = Post(strict)
    versions.publish(promote=False)
    canary = '{"version": 2, "share": 0.5}'
    (versions.store.root / NAME / "canary.json").write_text(canary)
    post.follower.poll()
    assert (post.canary, post.swaps("refused")) == (None, 1)


def test_another_version_in_the_place_of_the_wanted_one_is_not_served(
    versions: Versions, strict: Settings, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can write the store replaces the folder after the store has looked at its manifest."""
    versions.publish(promote=False)
    for version in (1, 2):
        versions.store.sign(NAME, version, signer)
    post = Post(strict)
    versions.point(2)
    monkeypatch.setattr("model_store.registry.store.ModelStore.resolve", lambda store, spec: versions.folder(1))
    post.follower.poll()
    assert (post.stable, post.swaps("refused")) == (1, 1)


def test_a_promoted_version_that_crashes_its_engine_does_not_end_the_worker(
    setting: tuple[Versions, Settings], versions: Versions, caplog: pytest.LogCaptureFixture
) -> None:
    post = Post(setting[1].model_copy(update={"engine": "litert-fp32"}))
    versions.publish(build=crash_litert)
    post.follower.poll()
    assert (post.stable, post.swaps("refused")) == (1, 1)
    assert "the model makes the engine crash (SIGSEGV" in caplog.text
    versions.publish()
    post.follower.poll()
    assert post.stable == 3


def test_a_version_whose_isolated_load_was_killed_is_tried_again_after_a_minute(
    versions: Versions, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory may have been short only then."""
    from model_store.engines import isolated_load
    from shared.subprocesses import own_command

    versions.publish()
    with monkeypatch.context() as patch:
        killed = [own_command()[0], "-c", "import os; os.kill(os.getpid(), 9)"]
        patch.setattr(isolated_load, "own_command", lambda *_, module: killed)
        post.follower.poll()
    post.follower.poll()
    assert (post.stable, post.swaps("refused")) == (1, 1)
    post.now += UNSEEN_REFUSED_S
    post.follower.poll()
    assert post.stable == 2
