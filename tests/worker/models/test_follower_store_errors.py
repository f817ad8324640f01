"""Following a store that can't be read, or whose files are missing, damaged or garbage."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from model_store.registry.canary import Canary
from model_store.registry.store import ModelStore
from shared.errors import BadBundle, StoreUnavailable
from shared.settings import Settings
from tests.worker import kit
from tests.worker.models.followers import Post
from tests.worker.models.versions import NAME, Versions
from worker.models.follower import UNSEEN_REFUSED_S


class Broken:
    """A store that can't be read while `error` is set, and whose downloads arrive damaged while `spoilt` is set."""

    def __init__(self, store: ModelStore) -> None:
        self.error: Exception | None = None
        self.spoilt = False
        self.fetched = 0
        self._store = store

    def pointer(self, name: str) -> int | None:
        self._check()
        return self._store.pointer(name)

    def canary(self, name: str) -> Canary | None:
        self._check()
        return self._store.canary(name)

    def resolve(self, spec: str) -> Path:
        self._check()
        self.fetched += 1
        if self.spoilt:
            raise BadBundle(f"{spec}: model.int8.tflite came with another SHA-256")
        return self._store.resolve(spec)

    def _check(self) -> None:
        if self.error is not None:
            raise self.error


def test_a_spoilt_download_is_fetched_again_after_a_minute(
    setting: tuple[Versions, Settings], versions: Versions
) -> None:
    """The refused download left no files, so the follower can't notice that the files have changed."""
    store = Broken(versions.store)
    post = Post(setting[1], store=store)
    versions.publish()
    store.spoilt = True
    for later_s in (0.0, 0.0, UNSEEN_REFUSED_S - 1.0):
        post.now += later_s
        post.follower.poll()
    assert (post.stable, store.fetched, post.swaps("refused")) == (1, 1, 1)
    post.now += 1.0
    post.follower.poll()
    assert (post.stable, store.fetched, post.swaps("refused")) == (1, 2, 2)
    store.spoilt = False
    post.follower.poll()
    assert post.stable == 1, "the second refusal stands for a minute too"
    post.now += UNSEEN_REFUSED_S
    post.follower.poll()
    assert post.stable == 2


def test_damaged_local_files_are_not_loaded_again_and_again(versions: Versions, post: Post) -> None:
    versions.publish(promote=False)
    versions.damage(2)
    versions.point(2)
    for _ in range(3):
        post.follower.poll()
        post.now += 2 * UNSEEN_REFUSED_S
    assert (post.stable, post.loaded) == (1, [2])


@pytest.mark.parametrize(
    "error", [StoreUnavailable("no route to host"), OSError(116, "Stale file handle"), RuntimeError("botocore")]
)
def test_a_store_that_is_away_is_reported_once_and_so_is_its_return(
    setting: tuple[Versions, Settings], versions: Versions, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level(logging.INFO)
    store = Broken(versions.store)
    post = Post(setting[1].model_copy(update={"store_poll_s": 0.01}), store=store)
    store.error = error
    post.follower.start()
    kit.wait_until(lambda: post.sample("sortline_store_errors_total") >= 3, "it looks again and again")
    versions.publish()
    store.error = None
    kit.wait_until(lambda: post.stable == 2, "the promotion is found")
    post.follower.stop(kit.PATIENCE_S)
    assert "follow" not in {thread.name for thread in threading.enumerate()}
    messages = [record.message for record in caplog.records]
    assert sum("can't be followed" in message for message in messages) == 1
    assert sum("can be followed again" in message for message in messages) == 1


def test_a_pointer_to_a_version_that_is_not_there_yet_is_polled_again(versions: Versions, post: Post) -> None:
    """A shared folder may show the pointer before the files."""
    folder = versions.folder(2)
    versions.publish(promote=False)
    hidden = folder.rename(folder.with_name(".hidden"))
    versions.point(2)
    for _ in range(2):
        with pytest.raises(Exception, match="tiny@2 is missing or incomplete"):
            post.follower.poll()
    assert (post.stable, post.swaps("refused")) == (1, 0)
    hidden.rename(folder)
    post.follower.poll()
    assert post.stable == 2


def test_a_pointer_that_is_gone_or_garbage_changes_nothing(versions: Versions, post: Post) -> None:
    pointer = versions.store.root / NAME / "current"
    pointer.write_text("two\n")
    with pytest.raises(Exception, match="current"):
        post.follower.poll()
    pointer.unlink()
    post.follower.poll()
    assert post.stable == 1
