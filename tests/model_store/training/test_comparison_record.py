"""The file of finished trainings: what continues it, and what is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from model_store.training.comparison_record import ComparisonRecord, FinishedTraining
from shared.errors import BadSetting

MADE_WITH = {"dataset": "d", "test": "t", "decoding": {"max_px": 5}}
RECIPES = {"plain": {"backbone": "b", "crop": "full", "fine_tune": "plain"}}


def record_at(path: Path | None, recipes: dict[str, dict[str, str]] = RECIPES, **changed: Any) -> ComparisonRecord:
    return ComparisonRecord.open(path, made_with={**MADE_WITH, **changed}, recipes=recipes)


def training(seed: int, recipe: str = "plain", **metrics: Any) -> FinishedTraining:
    return FinishedTraining(mode="multi", recipe=recipe, seed=seed, backbone_sha256="s", metrics=metrics)


def written(path: Path) -> ComparisonRecord:
    record = record_at(path)
    record.set_facts("multi", {"images": 3})
    record.add(training(1, accuracy=0.5, map=None))
    return record


def test_each_training_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    record = written(path)
    again = record_at(path)
    assert again.find("multi", "plain", 1) == training(1, accuracy=0.5, map=None)
    assert (again.find("multi", "plain", 2), again.find("single", "plain", 1)) == (None, None)
    assert again.facts("multi") == {"images": 3}
    record.add(training(2, accuracy=0.6))
    assert record_at(path).find("multi", "plain", 2) == training(2, accuracy=0.6)
    assert os.listdir(tmp_path) == ["r.json"]


def test_more_recipes_and_seeds_may_follow(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    written(path)
    more = {"other": {"backbone": "b", "crop": "auto", "fine_tune": "auto"}}
    record_at(path, more).add(training(1, "other"))
    assert record_at(path).find("multi", "plain", 1) and record_at(path).find("multi", "other", 1)
    assert json.loads(path.read_text())["recipes"] == RECIPES | more


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record = record_at(None)
    record.add(training(1))
    assert record.find("multi", "plain", 1) == training(1)
    assert os.listdir(tmp_path) == []


def test_an_empty_file_and_a_link_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to("target")
    written(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert record_at(tmp_path / "target").find("multi", "plain", 1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dataset": "e"}, "another DATASET: its images, labels or held_out.txt differ"),
        ({"test": None}, "another --test: its images or labels differ, or only one of the two comparisons has it"),
        ({"decoding": {"max_px": 6}}, "another limits or sample_bits in the settings"),
        (
            {"recipes": {"plain": {"backbone": "c", "crop": "full", "fine_tune": "plain"}}},
            "another recipe plain: b,full,plain; now it is c,full,plain",
        ),
    ],
)
def test_a_file_made_with_something_else_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = tmp_path / "r.json"
    written(path)
    before = path.read_bytes()
    with pytest.raises(BadSetting, match=re.escape(message)):
        record_at(path, **changed)
    assert path.read_bytes() == before


def test_other_weights_are_refused(tmp_path: Path) -> None:
    record = written(tmp_path / "r.json")
    record.check_backbone("plain", "s")
    record.check_backbone("other", "another")
    with pytest.raises(BadSetting, match="the backbone of the recipe plain has other weights"):
        record.check_backbone("plain", "another")


@pytest.mark.parametrize("cut", [b"", b"[]", b"{}", b'{"format": "sortline-recipe-comparison-1"}', b"\xff\x00"])
def test_a_damaged_or_foreign_file_is_refused_and_kept(tmp_path: Path, cut: bytes) -> None:
    path = tmp_path / "r.json"
    written(path)
    path.write_bytes(cut or path.read_bytes()[:-20])
    before = path.read_bytes()
    with pytest.raises(BadSetting, match="is no record of a comparison, or is damaged: "):
        record_at(path)
    assert path.read_bytes() == before


def test_trainings_without_the_facts_of_their_mode_are_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    written(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modes": {}}))
    before = path.read_bytes()
    with pytest.raises(BadSetting, match=r"is damaged: .*trainings in the mode multi, but no facts about it"):
        record_at(path)
    assert path.read_bytes() == before


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(BadSetting, match="can't be read"):
            record_at(path)


def test_a_file_that_another_comparison_writes_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    record = written(path)
    record_at(path).add(training(2))
    with pytest.raises(BadSetting, match="was changed by another program"):
        record.add(training(3))
    assert record_at(path).find("multi", "plain", 2)


def test_a_file_that_cannot_be_written_keeps_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = written(tmp_path / "r.json")

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shared.output_files.os.replace", full)
    with pytest.raises(BadSetting, match=r"--out .* can't be written: No space left"):
        record.add(training(2))
    assert os.listdir(tmp_path) == ["r.json"]
    assert record_at(tmp_path / "r.json").find("multi", "plain", 1)
