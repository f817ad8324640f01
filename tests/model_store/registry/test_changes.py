"""promote, rollback, prune and canary, wherever the store is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from model_store.bundle.files import open_bundle
from model_store.bundle.manifest import GOLDEN_FILE, INT8_FILE
from model_store.registry.canary import Canary
from model_store.registry.storage.protocol import folder_name
from model_store.registry.store import ModelStore
from model_store.registry.version_history import MOST_VERSIONS, History
from shared.errors import BadBundle, BadSetting, NotFound
from tests.model_store.registry.stores import KINDS, make_store
from tests.model_store.tiny_bundle import copy_build

CANARY = Canary(version=1, share=0.25, lines=("line-1",))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path, tiny_bundle: Path) -> ModelStore:
    """A store with `tiny` 1, 2 and 3, promoted in this order."""
    store = make_store(request.param, tmp_path)
    publish(store, tiny_bundle, 3)
    return store


def publish(store: ModelStore, bundle: Path, count: int, *, promote: bool = True) -> None:
    for _ in range(count):
        store.publish("tiny", copy_build(bundle), promote=promote)


def change(store: ModelStore, version: int, file: str, data: bytes | None) -> None:
    """Overwrite or delete a file of a version where the store keeps it, not in a cache."""
    with store.storage.writing("tiny") as writer:
        path = f"{folder_name(version)}/{file}"
        writer.delete(path)
        if data is not None:
            local = store.root / "tiny" / path
            local.write_bytes(data) if store.location == str(store.root) else writer.write(path, data)


def test_promote_moves_the_pointer_and_keeps_a_history(store: ModelStore) -> None:
    assert store.history("tiny").versions == (3, 2, 1)
    store.promote("tiny", 1)
    assert store.current("tiny") == 1
    assert open_bundle(store.resolve("tiny")).manifest.version == 1
    assert store.history("tiny").versions == (1, 3, 2)
    store.promote("tiny", 1)
    assert store.history("tiny").versions == (1, 3, 2)


@pytest.mark.parametrize(("file", "data"), [(INT8_FILE, b"?"), (GOLDEN_FILE, None), ("extra", b"")])
def test_a_version_that_was_changed_is_not_promoted(store: ModelStore, file: str, data: bytes | None) -> None:
    store.resolve("tiny@1")  # a cached copy, if there is one, stays intact; that must not count
    change(store, 1, file, data)
    with pytest.raises(BadBundle, match=file):
        store.promote("tiny", 1)
    assert store.history("tiny").versions == (3, 2, 1)


def test_promoting_a_missing_version_or_model_creates_no_folder(store: ModelStore) -> None:
    with pytest.raises(NotFound, match=r"tiny@9 does not exist.*it has tiny@3, tiny@2, tiny@1"):
        store.promote("tiny", 9)
    for call in (
        lambda: store.promote("bottles", 1),
        lambda: store.rollback("bottles"),
        lambda: store.prune("bottles"),
        lambda: store.set_canary("bottles", CANARY),
        lambda: store.clear_canary("bottles"),
    ):
        with pytest.raises(NotFound, match="model 'bottles' does not exist"):
            call()
    assert store.model_folders() == ["tiny"]


def test_rollback_goes_further_back_each_time(store: ModelStore) -> None:
    assert store.rollback("tiny") == 2
    assert store.rollback("tiny") == 1
    with pytest.raises(NotFound, match=r"no earlier version.*1 is current"):
        store.rollback("tiny")
    assert store.current("tiny") == 1
    store.promote("tiny", 3)
    assert store.history("tiny").versions == (3, 1)


def test_rollback_skips_damaged_versions(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    change(store, 2, INT8_FILE, b"?")
    assert store.rollback("tiny") == 1
    assert "can't roll back to tiny@2" in caplog.text
    assert INT8_FILE in caplog.text
    assert store.history("tiny").versions == (1,)


def test_numbers_are_not_used_again_after_a_rollback(store: ModelStore, tiny_bundle: Path) -> None:
    store.rollback("tiny")
    publish(store, tiny_bundle, 1)
    assert store.history("tiny").versions == (4, 2, 1)


def test_prune_keeps_the_versions_that_are_needed(store: ModelStore, tiny_bundle: Path) -> None:
    publish(store, tiny_bundle, 4, promote=False)
    store.promote("tiny", 1)  # current 1, then 3 and 2; 4 to 7 were never current
    store.set_canary("tiny", CANARY.model_copy(update={"version": 5}))
    assert store.prune("tiny", keep=1, dry_run=True) == [2, 4, 6]
    assert store.versions("tiny") == [1, 2, 3, 4, 5, 6, 7]
    assert store.prune("tiny", keep=2) == [2, 4]
    assert store.prune("tiny", keep=1) == [6]
    assert store.prune("tiny", keep=1) == []
    assert store.versions("tiny") == store.version_numbers("tiny") == [1, 3, 5, 7]
    with pytest.raises(NotFound, match=r"tiny@2 is missing or incomplete.*it has tiny@7, tiny@5, tiny@3, tiny@1"):
        store.resolve("tiny@2")
    assert store.rollback("tiny") == 3
    publish(store, tiny_bundle, 1)
    assert store.current("tiny") == 8


def test_prune_keeps_the_version_that_a_rollback_would_go_to(store: ModelStore) -> None:
    change(store, 2, INT8_FILE, b"?")
    assert store.prune("tiny", keep=1) == [2]
    assert store.rollback("tiny") == 1


def test_prune_leaves_incomplete_versions_and_keeps_at_least_one(store: ModelStore, tiny_bundle: Path) -> None:
    change(store, 1, GOLDEN_FILE, None)
    publish(store, tiny_bundle, 2)
    assert store.prune("tiny", keep=1) == [2, 3]
    assert store.version_numbers("tiny") == [1, 4, 5]
    with pytest.raises(BadSetting, match="keep = 0"):
        store.prune("tiny", keep=0)


def test_canary(store: ModelStore) -> None:
    assert store.canary("tiny") is None
    store.set_canary("tiny", CANARY)
    assert store.canary("tiny") == CANARY
    other = CANARY.model_copy(update={"version": 2, "shadow": True})
    store.set_canary("tiny", other)
    assert store.canary("tiny") == other
    assert not store.clear_canary("tiny", only=CANARY)
    assert store.canary("tiny") == other
    assert store.clear_canary("tiny", only=other)
    assert store.canary("tiny") is None
    assert not store.clear_canary("tiny")


def test_a_canary_must_be_an_intact_version_other_than_the_current_one(store: ModelStore) -> None:
    with pytest.raises(BadSetting, match="tiny@3 is the current version"):
        store.set_canary("tiny", CANARY.model_copy(update={"version": 3}))
    with pytest.raises(NotFound, match="tiny@9"):
        store.set_canary("tiny", CANARY.model_copy(update={"version": 9}))
    change(store, 1, INT8_FILE, b"?")
    with pytest.raises(BadBundle, match=INT8_FILE):
        store.set_canary("tiny", CANARY)
    assert store.canary("tiny") is None


def test_only_the_promotion_of_the_canary_itself_ends_it(store: ModelStore, tiny_bundle: Path) -> None:
    store.set_canary("tiny", CANARY)
    store.promote("tiny", 2)
    publish(store, tiny_bundle, 1)
    assert store.canary("tiny") == CANARY
    store.promote("tiny", 1)
    assert store.storage.read("tiny", "canary.json") is None
    store.set_canary("tiny", CANARY.model_copy(update={"version": 4}))
    store.rollback("tiny")
    assert store.canary("tiny") is None


def test_a_canary_left_by_a_killed_promotion_stays_ended(store: ModelStore) -> None:
    store.set_canary("tiny", CANARY)
    with store.storage.writing("tiny") as writer:  # what promote(1) has written when it is killed
        writer.write("current", b"1\n3\n2\n")
    assert store.canary("tiny") is None
    store.promote("tiny", 2)
    assert store.canary("tiny") is None


def test_a_canary_that_does_not_parse_is_named_and_can_be_removed(store: ModelStore) -> None:
    with store.storage.writing("tiny") as writer:
        writer.write("canary.json", b'{"version": 1}')
    for call in (lambda: store.canary("tiny"), lambda: store.prune("tiny")):
        with pytest.raises(BadBundle, match=r"tiny/canary\.json is not a canary.*models canary tiny --stop"):
            call()
    assert store.rollback("tiny") == 2  # the malformed canary must not prevent a rollback
    assert store.clear_canary("tiny")
    assert store.canary("tiny") is None


@pytest.mark.parametrize(
    "wrong",
    [{"version": 0}, {"share": 0.0}, {"share": 1.5}, {"max_disagreement": -1}, {"min_images": 0}, {"lines": ("a b",)}],
)
def test_a_canary_has_bounds(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Canary.model_validate({"version": 1, "share": 0.5, **wrong})


def test_histories_are_parsed_changed_and_bounded() -> None:
    assert History.parse(None, location="x") == History()
    assert History.parse(b"3\n", location="x").versions == (3,)  # what earlier releases wrote
    history = History((3, 2, 1))
    assert History.parse(history.dump(), location="x") == history
    assert history.after_promotion(2).versions == (2, 3, 1)
    assert history.after_rollback(2).versions == (2, 1)
    assert History().after_promotion(1).versions == (1,)
    long = History()
    for version in range(1, 50):
        long = long.after_promotion(version)
    assert long.versions == tuple(range(49, 49 - MOST_VERSIONS, -1))
    for broken in (b"", b"\n", b"newest", b"3\n-1\n", b"\xff"):
        with pytest.raises(BadBundle, match="x holds"):
            History.parse(broken, location="x")
