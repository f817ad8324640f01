"""Following a real store's promotions, with real bundles: which models are loaded, kept, refused and let go."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

from model_store.registry.store import open_store
from shared.errors import BadSetting
from shared.settings import Settings, load_settings
from tests.worker import kit
from tests.worker.models.followers import Post
from tests.worker.models.versions import NAME, Versions, other_golden_answers
from worker import service
from worker.models.follower import Follower

# promotions ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_promotion_is_followed(versions: Versions, post: Post) -> None:
    post.follower.poll()
    assert (post.stable, post.loaded) == (1, [])
    versions.publish(lane="two")
    post.follower.poll()
    assert post.stable == 2
    assert post.active_models.current.stable.manifest.policy.manual_lane == "two"
    assert post.sample("sortline_model_info", name=NAME, version="2", engine="litert") == 1
    assert post.sample("sortline_model_info", name=NAME, version="1", engine="litert") == 0
    assert post.swaps("swapped") == 1


def test_a_rollback_loads_nothing(versions: Versions, post: Post) -> None:
    first = post.active_models.current.stable
    versions.publish()
    post.follower.poll()
    second = post.active_models.current.stable
    assert versions.store.rollback(NAME) == 1
    post.follower.poll()
    assert post.active_models.current.stable is first
    versions.store.promote(NAME, 2)
    post.follower.poll()
    assert post.active_models.current.stable is second, "nor does undoing it"
    assert post.loaded == [2]


def test_only_the_last_model_before_is_kept(versions: Versions, post: Post, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")  # pytest keeps log records; they must not keep a model alive
    engines = [weakref.ref(post.active_models.current.stable.engine)]
    for _ in range(3):
        versions.publish()
        post.follower.poll()
        engines.append(weakref.ref(post.active_models.current.stable.engine))
    gc.collect()
    assert [engine() is not None for engine in engines] == [False, False, True, True]


# refusals ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_changed_byte_is_refused_once_and_named(
    versions: Versions, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    versions.publish(promote=False)
    versions.damage(2)
    versions.point(2)
    for _ in range(3):
        post.follower.poll()
    assert (post.stable, post.loaded, post.swaps("refused")) == (1, [2], 1)
    (refused,) = [record.message for record in caplog.records if "refused" in record.message]
    assert "tiny@2 is refused, tiny@1 on litert goes on" in refused
    assert "model.int8.tflite has SHA-256" in refused


def test_other_golden_answers_are_refused(versions: Versions, post: Post, caplog: pytest.LogCaptureFixture) -> None:
    versions.publish(build=other_golden_answers)
    post.follower.poll()
    assert (post.stable, post.swaps("refused")) == (1, 1)
    assert "golden image" in caplog.text


def test_a_version_that_a_policy_of_the_settings_does_not_fit_is_refused(
    setting: tuple[Versions, Settings], versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line's override names a class that the new version lacks. That is noticed at loading, not in a batch."""
    post = Post(setting[1])
    post.settings = Settings(**setting[1].model_dump() | {"policies": {"l1": {"thresholds": {"no label": 0.3}}}})
    versions.publish()
    post.follower.poll()
    assert (post.stable, post.swaps("refused")) == (1, 1)


def test_a_version_on_which_native_code_raises_is_refused(
    versions: Versions, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    versions.publish()
    post.cannot_load = SystemError("unwritten tensor")
    post.follower.poll()
    post.follower.poll()
    assert (post.stable, post.swaps("refused")) == (1, 1)
    assert "unwritten tensor" in caplog.text


def test_a_refused_version_is_tried_again_once_its_files_change(versions: Versions, post: Post) -> None:
    versions.publish(promote=False)
    intact = (versions.folder(2) / "model.int8.tflite").read_bytes()
    versions.damage(2)
    versions.point(2)
    post.follower.poll()
    (versions.folder(2) / "model.int8.tflite").write_bytes(intact)
    post.follower.poll()
    assert (post.stable, post.loaded) == (2, [2, 2])


def test_a_refused_version_is_tried_again_once_it_is_promoted_again(versions: Versions, post: Post) -> None:
    versions.publish(build=other_golden_answers)
    for version in (2, 1, 2):
        versions.point(version)
        post.follower.poll()
    assert (post.stable, post.loaded) == (1, [2, 2])


def test_the_next_good_version_is_taken_after_a_refused_one(versions: Versions, post: Post) -> None:
    versions.publish(build=other_golden_answers)
    post.follower.poll()
    versions.publish()
    post.follower.poll()
    assert (post.stable, post.swaps("refused"), post.swaps("swapped")) == (3, 1, 1)


# who follows ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "follows"), [({}, True), ({"model": "tiny@1"}, False), ({"store_poll_s": 0.0}, False)]
)
@pytest.mark.usefixtures("own_signals")
def test_a_pinned_worker_follows_nothing(
    setting: tuple[Versions, Settings], changes: dict[str, object], follows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    class Noting(Follower):
        def start(self) -> None:
            super().start()
            threads.extend(thread.name for thread in threading.enumerate())

    monkeypatch.setattr(service, "Follower", Noting)
    assert kit.WorkerService(setting[1].model_copy(update=changes), burst=True).run() == 0
    assert ("follow" in threads) is follows


@pytest.mark.parametrize("poll_s", [0.05, -1.0])
def test_a_store_is_not_polled_all_the_time(poll_s: float) -> None:
    with pytest.raises(BadSetting, match="store_poll_s"):
        load_settings(store_poll_s=poll_s)


def test_a_remote_store_is_followed(setting: tuple[Versions, Settings], versions: Versions) -> None:
    pytest.importorskip("fsspec")
    from model_store.registry.store import copy_bundle

    settings = setting[1].model_copy(update={"model_store": f"memory://follow-{time.time_ns()}"})
    store = open_store(settings)
    store.publish(NAME, copy_bundle(versions.folder(1), NAME))
    post = Post(settings)
    store.publish(NAME, copy_bundle(versions.folder(1), NAME))
    post.follower.poll()
    assert post.stable == 2
