"""Following a real store with real bundles: which models are loaded, kept, refused and let go."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from pathlib import Path

import pytest
import redis

from model_store.registry.canary import Canary
from model_store.registry.store import ModelStore, open_store
from shared.errors import BadBundle, BadSetting, StoreUnavailable
from shared.server.connection import connect
from shared.settings import Settings, load_settings
from tests.worker import kit
from tests.worker.models.versions import NAME, Versions, other_golden_answers, own_versions
from worker import service
from worker.canary.tally import CanaryTally
from worker.models.follower import UNSEEN_REFUSED_S, Follower, VersionSource
from worker.models.loading import as_model, load_bundle, load_model
from worker.models.model import Model
from worker.models.routing import ActiveModels, Serving
from worker.observe.metrics import Metrics


class Post:
    """One worker's follower; its thread is not started: the tests call `follower.poll()`."""

    def __init__(self, settings: Settings, *, store: VersionSource | None = None) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.loaded: list[int] = []
        self.cannot_load: Exception | None = None
        self.now = 1000.0
        first = as_model(load_model(settings), settings, worker="w1")
        self.active_models = ActiveModels(Serving(first), metrics=self.metrics)
        self.tally = CanaryTally(connect(settings.redis_url), name=NAME, maxlen=100)
        self.follower = Follower(
            self.active_models,
            store=store or open_store(settings),
            tally=self.tally,
            load=self._load,
            metrics=self.metrics,
            poll_s=settings.store_poll_s,
            clock=lambda: self.now,
        )

    def _load(self, folder: Path) -> Model:
        self.loaded.append(int(folder.name))
        if self.cannot_load is not None:
            raise self.cannot_load
        return as_model(load_bundle(folder, self.settings, background=True), self.settings, worker="w1")

    @property
    def stable(self) -> int:
        return self.active_models.current.stable.version

    @property
    def canary(self) -> Canary | None:
        return self.active_models.current.canary.spec if self.active_models.current.canary else None

    def sample(self, metric: str, /, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0

    def swaps(self, result: str) -> float:
        return self.sample("sortline_model_swaps_total", result=result)


@pytest.fixture
def setting(settings: Settings, tiny_models: Path) -> tuple[Versions, Settings]:
    return own_versions(settings, tiny_models)


@pytest.fixture
def versions(setting: tuple[Versions, Settings]) -> Versions:
    return setting[0]


@pytest.fixture
def post(setting: tuple[Versions, Settings]) -> Post:
    return Post(setting[1])


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


# without the store ──────────────────────────────────────────────────────────────────────────────────


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


def test_a_canary_file_that_is_garbage_holds_up_no_promotion(versions: Versions, post: Post) -> None:
    (versions.store.root / NAME / "canary.json").write_text("{")
    versions.publish(promote=False)
    versions.point(2)
    with pytest.raises(Exception, match=r"canary\.json"):
        post.follower.poll()
    assert post.stable == 2


def test_a_canary_ends_even_if_the_pointer_is_garbage(versions: Versions, post: Post) -> None:
    versions.publish(promote=False)
    versions.store.set_canary(NAME, canary())
    post.follower.poll()
    (versions.store.root / NAME / "current").write_text("two\n")
    (versions.store.root / NAME / "canary.json").unlink()
    with pytest.raises(Exception, match="current"):
        post.follower.poll()
    assert (post.stable, post.canary) == (1, None)


# canaries ───────────────────────────────────────────────────────────────────────────────────────────


def canary(version: int = 2, **fields: object) -> Canary:
    return Canary(version=version, share=0.5, **fields)


def test_a_canary_comes_and_goes(versions: Versions, post: Post) -> None:
    versions.publish(promote=False)
    versions.store.set_canary(NAME, wanted := canary())
    post.follower.poll()
    assert (post.stable, post.canary) == (1, wanted)
    versions.store.clear_canary(NAME)
    post.follower.poll()
    assert (post.stable, post.canary) == (1, None)


def test_a_changed_share_loads_nothing(versions: Versions, post: Post) -> None:
    versions.publish(promote=False)
    versions.store.set_canary(NAME, canary())
    post.follower.poll()
    versions.store.set_canary(NAME, wanted := canary(shadow=True))
    post.follower.poll()
    assert (post.canary, post.loaded) == (wanted, [2])


def test_promoting_a_canary_loads_nothing(versions: Versions, post: Post) -> None:
    versions.publish(promote=False)
    versions.store.set_canary(NAME, canary())
    post.follower.poll()
    assert post.active_models.current.canary is not None
    tried = post.active_models.current.canary.model
    versions.store.promote(NAME, 2)
    post.follower.poll()
    assert post.active_models.current.stable is tried
    assert (post.canary, post.loaded) == (None, [2])


def test_a_canary_outlives_a_promotion_of_another_version(versions: Versions, post: Post) -> None:
    versions.publish(promote=False)
    versions.store.set_canary(NAME, wanted := canary())
    post.follower.poll()
    versions.publish()
    post.follower.poll()
    assert (post.stable, post.canary) == (3, wanted)


def test_a_canary_that_is_refused_leaves_all_as_it_was(versions: Versions, post: Post) -> None:
    versions.publish(promote=False, build=other_golden_answers)
    versions.store.set_canary(NAME, canary())
    for _ in range(2):
        post.follower.poll()
    assert (post.stable, post.canary, post.loaded, post.swaps("refused")) == (1, None, [2], 1)


def test_a_verdict_by_another_worker_ends_the_canary(versions: Versions, post: Post) -> None:
    versions.publish(promote=False)
    versions.store.set_canary(NAME, wanted := canary())
    post.follower.poll()
    post.tally.stop(wanted, "disagreement: so")
    post.follower.poll()
    assert post.canary is None
    late = Post(post.settings)
    late.follower.poll()
    assert (late.canary, late.loaded) == (None, []), "a worker that starts later must not start the canary again"
    versions.store.set_canary(NAME, again := canary())
    post.follower.poll()
    assert post.canary == again


def test_the_ratio_of_all_workers_is_shown_by_each(versions: Versions, post: Post, client: redis.Redis) -> None:
    versions.publish(promote=False)
    versions.store.set_canary(NAME, wanted := canary())
    post.follower.poll()
    client.hset(f"sortline:canary:{NAME}:2:{wanted.started_at!r}", mapping={"compared": 40, "disagreed": 2})
    post.follower.poll()
    assert post.sample("sortline_canary_disagreement_ratio", version="2") == 0.05


def test_without_redis_a_canary_goes_on_but_none_starts(
    setting: tuple[Versions, Settings], versions: Versions, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(canary: Canary) -> None:
        raise redis.exceptions.ConnectionError("away")

    versions.publish(promote=False)
    versions.store.set_canary(NAME, wanted := canary())
    post.follower.poll()
    late = Post(setting[1])
    for each in (post, late):
        monkeypatch.setattr(each.tally, "read", away)
        each.follower.poll()
    assert (post.canary, late.canary) == (wanted, None)


def test_models_of_ended_canaries_are_let_go(versions: Versions, post: Post, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    versions.publish(promote=False)
    versions.store.set_canary(NAME, canary())
    post.follower.poll()
    assert post.active_models.current.canary is not None
    engine = weakref.ref(post.active_models.current.canary.model.engine)
    versions.store.clear_canary(NAME)
    post.follower.poll()
    gc.collect()
    assert engine() is None


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
