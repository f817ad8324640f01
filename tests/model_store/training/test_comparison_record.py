"""The file of finished trainings: what continues it, and what is refused."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from model_store.training.comparison_metrics import CLASS_METRICS, METRICS, ModeFacts, TrainingMetrics, TunedImages
from model_store.training.comparison_record import ComparisonRecord, FinishedTraining
from shared.errors import BadSetting

MADE_WITH = {"dataset": "d", "test": "t", "decoding": {"max_px": 5}}
RECIPES = {"plain": {"backbone": "b", "crop": "full", "fine_tune": "plain"}}


def record_at(path: Path | None, recipes: dict[str, dict[str, str]] = RECIPES, **changed: Any) -> ComparisonRecord:
    return ComparisonRecord.open(path, made_with={**MADE_WITH, **changed}, recipes=recipes)


def training(seed: int, recipe: str = "plain", **changed: Any) -> FinishedTraining:
    scores: dict[str, Any] = dict.fromkeys(METRICS, 0.5)
    per_class = {name: dict.fromkeys(CLASS_METRICS, 0.5) | {"support": 4} for name in ("good", "no cap")}
    scores |= {"chosen": {"crop": "full"}, "per_class": per_class, "known_share": 1.0} | changed
    metrics = TrainingMetrics.model_validate(scores)
    return FinishedTraining(mode="multi", recipe=recipe, seed=seed, backbone_sha256="s", metrics=metrics)


def facts(**changed: Any) -> ModeFacts:
    return ModeFacts(images=3, unreadable=(), excluded=(), test=None, **changed)


def written(path: Path) -> ComparisonRecord:
    record = record_at(path)
    record.set_facts("multi", facts())
    record.add(training(1, accuracy=0.5, map=None))
    return record


def test_each_training_is_in_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    record = written(path)
    again = record_at(path)
    assert again.find("multi", "plain", 1) == training(1, accuracy=0.5, map=None)
    assert (again.find("multi", "plain", 2), again.find("single", "plain", 1)) == (None, None)
    assert again.facts("multi") == facts()
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
    record.set_facts("multi", facts())
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


def refused(path: Path, changed: dict[str, Any], message: str) -> None:
    """Write this into the file, and check that it is refused with the message, and kept."""
    path.write_text(json.dumps(changed))
    before = path.read_bytes()
    with pytest.raises(BadSetting, match=r"is damaged: .*It is left as it is\. Name another file\.") as error:
        record_at(path)
    assert message in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", [*TrainingMetrics.model_fields])
def test_a_training_that_lacks_a_metric_is_refused(tmp_path: Path, name: str) -> None:
    written(path := tmp_path / "r.json")
    content = json.loads(path.read_text())
    del content["trainings"][0]["metrics"][name]
    refused(path, content, f"trainings.0.metrics.{name} is missing")


@pytest.mark.parametrize("name", [*CLASS_METRICS, "support"])
def test_a_class_that_lacks_a_metric_is_refused(tmp_path: Path, name: str) -> None:
    written(path := tmp_path / "r.json")
    content = json.loads(path.read_text())
    del content["trainings"][0]["metrics"]["per_class"]["no cap"][name]
    refused(path, content, f"trainings.0.metrics.per_class.no cap.{name} is missing")


def test_all_that_the_tables_show_is_checked() -> None:
    assert {*METRICS, "chosen", "per_class"} == TrainingMetrics.model_fields.keys()


@pytest.mark.parametrize("name", ["images", "unreadable", "excluded", "test"])
def test_facts_that_lack_something_are_refused(tmp_path: Path, name: str) -> None:
    written(path := tmp_path / "r.json")
    content = json.loads(path.read_text())
    del content["modes"]["multi"][name]
    refused(path, content, f"modes.multi.{name} is missing")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("accuracy", "high", "metrics.accuracy = 'high': should be a number"),
        ("seconds", float("nan"), "metrics.seconds = nan: should be a finite number"),
        ("chosen", "full", "metrics.chosen = 'full': should be a table of names and values"),
        ("per_class", [], "metrics.per_class = []: should be a table of names and values"),
        ("per_class", {}, "metrics.per_class = {}: should have 1 or more entries"),
    ],
)
def test_metrics_of_another_kind_are_refused(tmp_path: Path, place: str, value: Any, message: str) -> None:
    written(path := tmp_path / "r.json")
    content = json.loads(path.read_text())
    content["trainings"][0]["metrics"][place] = value
    refused(path, content, message)


def test_trainings_that_do_not_fit_the_rest_of_the_file_are_refused(tmp_path: Path) -> None:
    written(path := tmp_path / "r.json").add(training(2))
    content = json.loads(path.read_text())
    one, other = content["trainings"]
    refused(path, content | {"modes": {}}, "trainings in the mode multi, but no facts about it")
    refused(path, content | {"recipes": {}}, "trainings by the recipe plain, which is not in `recipes`")
    refused(path, content | {"trainings": [one, other, one]}, "has the training multi, plain, seed 1 twice")
    del other["metrics"]["per_class"]["no cap"]
    refused(path, content, "the training multi, plain, seed 2 has other classes than the first one")


def test_what_tuned_the_layers_of_other_recipes_is_kept(tmp_path: Path) -> None:
    record = record_at(path := tmp_path / "r.json")
    record.set_facts("multi", facts(tuned_on={"a": TunedImages(learn=2, test=1)}))
    record.set_facts("multi", facts(tuned_on={"b": TunedImages()}))
    record.add(training(1))
    assert record_at(path).facts("multi").tuned_on == {"a": TunedImages(learn=2, test=1), "b": TunedImages()}


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
