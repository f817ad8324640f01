"""What `models canary` shows of the images that workers have compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from model_store.registry.canary import Canary
from model_store.registry.store import ModelStore
from tests.model_store.commands.kit import answer, run
from tests.model_store.tiny_bundle import copy_build
from tests.worker.canary.kit import comparisons
from worker.canary.tally import CanaryTally


@pytest.fixture
def store(tmp_path: Path, tiny_models: Path) -> ModelStore:
    """A store with `tiny` 1 to 3."""
    store = ModelStore(tmp_path / "models")
    for _ in range(3):
        store.publish("tiny", copy_build(ModelStore(tiny_models).resolve("tiny")))
    return store


@pytest.fixture
def under_way(store: ModelStore, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Canary:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SORTLINE_REDIS_URL", redis_url)
    run(store, "canary", "tiny@2", "--share", "0.25")
    canary = store.canary("tiny")
    assert canary is not None
    return canary


def tally(client: redis.Redis, store: ModelStore) -> CanaryTally:
    """A worker's tally of the canary, which has recorded 47 images; the versions disagree on 26 of them."""
    tally = CanaryTally(client, name="tiny", maxlen=100)
    canary = store.canary("tiny")
    assert canary is not None
    tally.add(canary, comparisons(47, disagreed=26))
    return tally


def test_how_many_images_were_compared_so_far(store: ModelStore, under_way: Canary, client: redis.Redis) -> None:
    tally(client, store)
    assert "so far 26 of 47 compared images (55.3%) were answered differently\n" in run(store, "canary", "tiny").stdout
    shown = answer(store, "canary", "tiny")
    assert (shown["compared"], shown["disagreed"], shown["stopped"], shown["ended"]) == (47, 26, None, None)


def test_the_reason_after_it_was_stopped(store: ModelStore, under_way: Canary, client: redis.Redis) -> None:
    """First the worker that stopped it may not write to the store; then the store knows it, too."""
    tally(client, store).stop(under_way, "disagreement: 26 of 47 were answered differently, more than 10.0%")
    reason = "the workers stopped it (disagreement): 26 of 47 were answered differently, more than 10.0%"
    assert (
        f"{reason}. The store still names it; to remove it: sortline models canary tiny --stop"
        in run(store, "canary", "tiny").stdout
    )
    store.clear_canary("tiny", only=under_way)
    assert run(store, "canary", "tiny").stdout.splitlines() == [
        "tiny has no canary; tiny@3 is current",
        f"tiny@2 was tried before: {reason}",
    ]
    shown = answer(store, "canary", "tiny")
    assert (shown["canary"], shown["ended"]["version"], shown["compared"]) == (None, 2, 47)
    assert shown["stopped"].startswith("disagreement: 26 of 47")


def test_a_canary_that_was_stopped_by_a_person_or_promoted(
    store: ModelStore, under_way: Canary, client: redis.Redis
) -> None:
    tally(client, store)
    run(store, "canary", "tiny", "--stop")
    tried = "tiny@2 was tried before: 26 of 47 compared images"
    assert tried in run(store, "canary", "tiny").stdout
    run(store, "canary", "tiny@2", "--share", "0.25")
    tally(client, store)
    store.promote("tiny", 2)
    assert run(store, "canary", "tiny").stdout.startswith(f"tiny has no canary; tiny@2 is current\n{tried}")
    assert answer(store, "canary", "tiny")["compared"] == 47
    store.promote("tiny", 3)
    assert run(store, "canary", "tiny").stdout == "tiny has no canary; tiny@3 is current\n"


def test_a_canary_whose_counts_are_gone(store: ModelStore, under_way: Canary, client: redis.Redis) -> None:
    """They may have expired, or be on another server: that nothing was compared would be a guess."""
    assert "so far this Redis server has no counts of it\n" in run(store, "canary", "tiny").stdout
    tally(client, store)
    run(store, "canary", "tiny", "--stop")
    client.flushdb()
    assert run(store, "canary", "tiny").stdout.splitlines() == [
        "tiny has no canary; tiny@3 is current",
        "tiny@2 was tried before: this Redis server has no counts of it (they are kept for 30 days)",
    ]
    shown = answer(store, "canary", "tiny")
    assert (shown["ended"]["version"], shown["compared"], shown["disagreed"]) == (2, None, None)


def test_a_canary_that_was_stopped_and_promoted_later_is_not_shown(
    store: ModelStore, under_way: Canary, client: redis.Redis
) -> None:
    tally(client, store)
    run(store, "canary", "tiny", "--stop")
    store.promote("tiny", 2)
    store.promote("tiny", 3)
    assert run(store, "canary", "tiny").stdout == "tiny has no canary; tiny@3 is current\n"
