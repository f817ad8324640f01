"""Following a real store's canaries: which are loaded, kept, refused and let go."""

from __future__ import annotations

import gc
import weakref

import pytest
import redis

from model_store.registry.canary import Canary
from shared.settings import Settings
from tests.worker.models.followers import Post
from tests.worker.models.versions import NAME, Versions, other_golden_answers


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


def test_the_canary_before_ends_although_the_next_one_is_refused(versions: Versions, post: Post) -> None:
    """Nobody wants it any more: the store names another."""
    versions.publish(promote=False)
    versions.store.set_canary(NAME, before := canary())
    post.follower.poll()
    assert post.canary == before
    versions.publish(promote=False, build=other_golden_answers)
    versions.store.set_canary(NAME, canary(3))
    post.follower.poll()
    assert (post.stable, post.canary, post.loaded, post.swaps("refused")) == (1, None, [2, 3], 1)


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
