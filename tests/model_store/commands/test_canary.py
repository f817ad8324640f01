"""`models canary`, as a user runs it."""

from __future__ import annotations

import pytest

from model_store.registry.canary import Canary
from model_store.registry.store import ModelStore
from shared.errors import BadSetting
from tests.model_store.commands.kit import answer, run

COUNTS = ("compared", "disagreed", "stopped", "ended")

pytestmark = pytest.mark.usefixtures("plain_settings")


@pytest.fixture
def store(three_versions: ModelStore) -> ModelStore:
    return three_versions


def test_canary(store: ModelStore) -> None:
    assert answer(store, "canary", "tiny") == dict.fromkeys(COUNTS) | {"name": "tiny", "current": 3, "canary": None}
    started = answer(store, "canary", "tiny@1", "--share", "0.1", "--shadow", "--lines", "line-1, line-2")
    canary = store.canary("tiny")
    assert canary is not None
    assert started["canary"] == canary.model_dump(mode="json")
    assert (canary.version, canary.share, canary.shadow, canary.lines) == (1, 0.1, True, ("line-1", "line-2"))
    text = run(store, "canary", "tiny@2", "--share", "0.25", "--max-disagreement", "0.05", "--min-images", "50").stdout
    assert "tiny@2 takes 25.0% of the images of every line, compared with tiny@3" in text
    assert "more than 5% of the compared images, at least 3 of them, are answered differently" in text
    few = run(store, "canary", "tiny@2", "--share", "1", "--max-disagreement", "0.001", "--min-images", "20").stdout
    assert "more than 0.1% of the compared images, at least 1 of them" in few
    assert run(store, "canary", "tiny").stdout == few
    assert answer(store, "canary", "tiny", "--stop") == {"name": "tiny", "stopped": True}
    assert store.canary("tiny") is None
    assert run(store, "canary", "tiny", "--stop").stdout == "tiny has no canary\n"


@pytest.fixture
def under_way(store: ModelStore, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Canary:
    monkeypatch.setenv("SORTLINE_REDIS_URL", redis_url)
    run(store, "canary", "tiny@2", "--share", "0.25")
    canary = store.canary("tiny")
    assert canary is not None
    return canary


def test_a_broken_canary_can_be_stopped_and_leaves_nothing_to_show(store: ModelStore) -> None:
    (store.root / "tiny" / "canary.json").write_bytes(b"{")
    assert answer(store, "canary", "tiny", "--stop") == {"name": "tiny", "stopped": True}
    assert run(store, "canary", "tiny").stdout == "tiny has no canary; tiny@3 is current\n"


def test_without_the_server_it_shows_the_store_and_why_counts_are_missing(store: ModelStore, under_way: Canary) -> None:
    shown = run(store, "canary", "tiny", "--redis-url", "redis://127.0.0.1:1/0")
    assert shown.exit_code == 0
    assert "tiny@2 takes 25.0% of the images" in shown.stdout
    assert "the number of compared images can't be read: no Redis server answers" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tiny", "--share", "0.1"), "name the version"),
        (("tiny@1", "--share", "1.5"), "--share 1.5"),
        (("tiny@1", "--share", "0"), "--share 0"),
        (("tiny@1", "--share", "0.1", "--max-disagreement", "2"), "--max-disagreement 2"),
        (("tiny@1", "--share", "0.1", "--min-images", "0"), "--min-images 0"),
        (("tiny@1", "--share", "0.1", "--lines", "a b"), "--lines 'a b': use 1 to 64 letters, digits"),
        (("tiny@3", "--share", "0.1"), "is the current version"),
        (("tiny", "--share", "0.1", "--stop"), "give one of them"),
    ],
)
def test_an_impossible_canary_is_refused(store: ModelStore, arguments: tuple[str, ...], says: str) -> None:
    failed = run(store, "canary", *arguments)
    assert isinstance(failed.exception, BadSetting)
    assert says in str(failed.exception)
    assert store.canary("tiny") is None


def test_list_marks_the_current_version_and_the_canary(store: ModelStore) -> None:
    run(store, "canary", "tiny@1", "--share", "0.1")
    rows = answer(store, "list")
    assert [(row["version"], row["parent"], row["current"], bool(row["canary"])) for row in rows] == [
        (1, None, False, True),
        (2, 1, False, False),
        (3, 2, True, False),
    ]
    text = run(store, "list").stdout.splitlines()
    first, second, third = (line for line in text if line.startswith("tiny@"))
    assert "canary 10%" in first
    assert "canary" not in second and "*" not in second
    assert "*" in third
