"""A version whose manifest has impossible figures is refused, and hides no other version from any command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from model_store.bundle.manifest import MANIFEST_FILE
from model_store.bundle.recorded_figures import SCORES
from model_store.registry.store import ModelStore, copy_bundle
from model_store.reports.model_summary import METRIC_TITLES
from shared.errors import BadBundle
from tests.model_store.commands.kit import run
from tests.model_store.tiny_bundle import copy_build

IMPOSSIBLE = ["1e308", "-1e308", "NaN", "1e400", "-1", '"now"', f"1{'0' * 4000}"]  # JSON that Python may not write
_MARK = "the place of the figure"


class Change(NamedTuple):
    """Put JSON at a place of a manifest."""

    text: str
    path: tuple[str, ...]

    def apply(self, file: Path) -> None:
        values = json.loads(file.read_text())
        place = values
        for name in self.path[:-1]:
            place = place.setdefault(name, {})
        place[self.path[-1]] = _MARK
        file.write_text(json.dumps(values).replace(json.dumps(_MARK), self.text))


def put(text: str, *path: str) -> Change:
    return Change(text, path)


CHANGES = {
    **{f"created_at {text[:8]}": put(text, "created_at") for text in IMPOSSIBLE},
    **{f"accuracy {text[:8]}": put(text, "metrics", "accuracy") for text in IMPOSSIBLE if text != "-1"},
    "macro F1 table": put("{}", "metrics", "macro_f1"),
    "images": put('"many"', "metrics", "images"),
    "classes": put("[1]", "metrics", "per_class"),
    "class": put("1", "metrics", "per_class", "good"),
    "score": put('"high"', "metrics", "per_class", "good", "f1"),
    "support": put("[]", "metrics", "per_class", "good", "support"),
    "tuning": put("[1]", "training", "settings", "tuning"),
    "epochs": put('{"head": "all"}', "training", "settings", "best_epochs"),
    "parity": put("1e400", "parity", "images"),
    "parity alone": put("1", "parity", "int8_labels_agreement"),
    "parity of one": put("1", "parity", "int8_macro_f1"),
    "rechecks alone": put("0.1", "parity", "int8_rechecked"),
    "recheck margin": put('"wide"', "int8_recheck_margin"),
    "version": put("1000000000000000000", "version"),
    "parent": put("-3", "parent"),
}


@pytest.fixture
def store(tmp_path: Path, tiny_bundle: Path) -> ModelStore:
    store = ModelStore(tmp_path / "models")
    for _ in range(2):
        store.publish("tiny", copy_build(tiny_bundle))
    return store


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_it_is_refused_and_hides_no_other(store: ModelStore, change: Change) -> None:
    folder = store.resolve("tiny@1")
    change.apply(folder / MANIFEST_FILE)
    with pytest.raises(BadBundle, match="is not a manifest of this release"):
        copy_bundle(folder, "tiny")
    assert "tiny@2" in run(store, "list").stdout
    assert run(store, "show", "tiny@2").exit_code == 0


@pytest.mark.parametrize("text", ['"started_at": 1e308', '"min_images": 1e30', '"share": NaN', '"version": 1e30'])
def test_an_odd_canary_is_a_row_of_its_own(store: ModelStore, text: str) -> None:
    (store.root / "tiny" / "canary.json").write_text(f'{{"version": 1, "share": 0.1, {text}}}')
    listed = run(store, "list")
    assert listed.exit_code == 1
    assert "tiny@2" in listed.stdout
    assert "is not a canary of this release" in listed.stdout


def test_every_score_that_is_shown_is_checked() -> None:
    assert METRIC_TITLES.keys() <= SCORES
