"""`compare-recipes` and `time-head` on datasets with splits of their own, and on those that call `good` otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from model_store.backbones.resolve import Backbone
from model_store.commands import add_to
from model_store.commands.recipe_tables import print_recipes
from model_store.datasets.audit import DatasetReport
from model_store.datasets.dataset import Dataset, load_dataset
from model_store.datasets.image_loading import DecodeSettings
from model_store.runtime.progress import ProgressSteps
from model_store.training import head_timing, recipe_comparison, recipe_training
from model_store.training.comparison_metrics import METRICS
from model_store.training.fine_tuning import Frames
from model_store.training.recipe_data import (
    Judged,
    Resources,
    audit_for_comparison,
    excluded_reasons,
    without_splits,
)
from model_store.training.recipe_training import RecipeTrainer
from model_store.training.recipes import RECIPES
from shared.errors import BadDataset
from tests.model_store.tiny_backbone import picture, write_class_folders


def invoked(command: str, dataset: Path, *arguments: str) -> Result:
    app = typer.Typer()
    add_to(app)
    cache = ("--cache-dir", str(dataset.parent / "cache"))
    result = CliRunner().invoke(app, ["models", command, str(dataset), *cache, *arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def write_split_folders(root: Path, **counts: int) -> Path:
    """Write so many pictures of each class into the folder of each split."""
    for number, (part, count) in enumerate(counts.items()):
        for kind_number, kind in enumerate(("good", "no cap", "pigmented")):
            folder = root / part / kind
            folder.mkdir(parents=True)
            for index in range(count):
                seed = 100_000 + 10_000 * number + 1_000 * kind_number + index
                (folder / f"{part}{index}.png").write_bytes(picture(kind, seed))
    return root


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Dataset | None]:
    """The datasets that a command would train on and judge by. Nothing is trained."""
    found: list[Dataset | None] = []

    def compare_recipes(learn: Dataset, options: object, *, test: Dataset | None, **more: Any) -> Any:
        found[:] = learn, test
        return {"multi": {"left_out": "this is a test"}}

    monkeypatch.setattr(recipe_comparison, "compare_recipes", compare_recipes)
    return found


class _Split(Exception):
    """How many images a training would learn from, and how many validate it."""


def split_of(
    learn: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tunes: bool
) -> tuple[tuple[int, int], DatasetReport]:
    """The split that a recipe would train with, and the report. Nothing is trained."""

    def train_model(*given: Any, train: Frames, validation: Frames, **more: Any) -> Any:
        raise _Split(len(train.images), len(validation.images))

    monkeypatch.setattr(recipe_training, "train_model", train_model)
    resources = Resources(tmp_path / "cache", DecodeSettings(), ProgressSteps())
    backbone = Backbone(handle="b", path=Path("b"), sha256="s", input_size_px=32, feature_width=8)
    report = audit_for_comparison(learn, "single", resources)
    data = resources.prepare(learn, "single", backbone=backbone, network=None, report=report)
    trainer = RecipeTrainer(RECIPES["default"], backbone, None, data, resources.cache, tunes=tunes)
    judged = Judged(data.pictures.images, [], None)
    with pytest.raises(_Split) as raised:
        trainer.train_and_judge(data.rows, judged, seed=1)
    return raised.value.args, report


def test_a_recipe_that_another_dataset_judges_is_validated_by_the_own_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_split_folders(tmp_path / "learn", train=8, valid=3, test=2)
    shutil.copy(folder / "valid" / "good" / "valid0.png", folder / "train" / "good" / "copied.png")
    shutil.copy(folder / "test" / "good" / "test0.png", folder / "train" / "good" / "seen.png")
    shutil.copy(folder / "train" / "good" / "train0.png", folder / "train" / "no cap" / "wrong.png")
    learn = load_dataset(folder)
    split, report = split_of(learn, tmp_path, monkeypatch, tunes=True)
    assert split == (23, 9)
    contradicts = "a copy of it has labels that contradict its own"
    assert excluded_reasons(report) == {
        "train/good/copied.png": "the validation split has the same photograph: valid/good/valid0.png",
        "train/good/seen.png": "the same photograph is held out: test/good/test0.png",
        "train/good/train0.png": contradicts,
        "train/no cap/wrong.png": contradicts,
    }
    split, report = split_of(without_splits(learn), tmp_path, monkeypatch, tunes=False)
    assert sum(split) == 23 + 9 + 6 + 2  # all but the two that contradict each other
    assert set(excluded_reasons(report).values()) == {contradicts}


def test_a_split_that_lacks_a_class_is_replaced_by_a_fifth_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_split_folders(tmp_path / "learn", train=8, valid=2)
    shutil.rmtree(folder / "valid" / "pigmented")
    (learned, validated), report = split_of(load_dataset(folder), tmp_path, monkeypatch, tunes=True)
    assert learned + validated == 28 and validated > 4  # a fifth, and not the four images in valid/
    assert report.validation_refused is not None
    scores: dict[str, Any] = {f"{metric}_mean": 0.9 for metric in METRICS} | {"per_class": {}}
    facts = {"images": 28, "unreadable": [], "excluded": [], "seeds": [1], "test": None}
    recipes = {"default": {"title": "", **RECIPES["default"].choices, **scores}}
    print_recipes({"single": {**facts, "recipes": recipes, "validation_refused": report.validation_refused}})
    assert "single: the dataset's own validation split is not used, because validation" in capsys.readouterr().err


def test_the_reading_is_told_and_that_all_images_are_used(
    tmp_path: Path, loaded: list[Dataset | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = write_split_folders(tmp_path / "learn", train=2, valid=1, test=1)
    judge = write_class_folders(tmp_path / "judge", per_class=1)
    (judge / "held_out.txt").write_text("good/000.png\n")
    splits, all_used = f"{learn}: train, valid and test are read as splits", "all images are used alike"
    alone = invoked("compare-recipes", learn).stderr
    assert splits in alone and f"{learn}: without --test, {all_used}" in alone
    judged = invoked("compare-recipes", learn, "--test", str(judge)).stderr
    assert splits in judged and f"{learn}: without" not in judged
    assert f"{judge}: to judge by, {all_used}" in judged
    timings = dict.fromkeys(("accuracy_recomputed", "accuracy_cached", "head_s", "recomputed_s", "head_ratio"), 1.0)
    timings |= {"ratio": 1.0, "images": 12, "epochs": 25}
    monkeypatch.setattr(head_timing, "time_head", lambda *given, **more: timings | {"unreadable": []})
    timed = invoked("time-head", learn).stderr
    assert splits in timed and f"{learn}: to time, {all_used}" in timed


def rename_good(dataset: Path, name: str) -> Path:
    (dataset / "good").rename(dataset / name)
    return dataset


@pytest.mark.parametrize(
    ("learn_as", "judge_as"), [("ok", "ok"), ("ok", "good"), ("good", "ok")], ids=["both", "learn", "judge"]
)
def test_the_good_class_is_named_for_the_datasets_that_have_it(
    tmp_path: Path, loaded: list[Dataset | None], learn_as: str, judge_as: str
) -> None:
    learn = rename_good(write_class_folders(tmp_path / "learn", per_class=1), learn_as)
    judge = rename_good(write_class_folders(tmp_path / "judge", per_class=1), judge_as)
    invoked("compare-recipes", learn, "--test", str(judge), "--good-class", "OK")
    assert [dataset.classes for dataset in loaded if dataset] == [("good", "no cap", "pigmented")] * 2


@pytest.mark.parametrize("with_judge", [False, True])
def test_a_good_class_that_no_dataset_has_is_refused(
    tmp_path: Path, loaded: list[Dataset | None], with_judge: bool
) -> None:
    learn = write_class_folders(tmp_path / "learn", per_class=1)
    judge = ("--test", str(write_class_folders(tmp_path / "judge", per_class=1))) if with_judge else ()
    with pytest.raises(BadDataset, match="--good-class fine: the dataset has no class of this name"):
        invoked("compare-recipes", learn, *judge, "--good-class", "fine")


def test_good_itself_may_be_named_where_no_class_is_called_so(tmp_path: Path, loaded: list[Dataset | None]) -> None:
    learn = rename_good(write_class_folders(tmp_path / "learn", per_class=1), "ok")
    judge = rename_good(write_class_folders(tmp_path / "judge", per_class=1), "ok")
    told = invoked("compare-recipes", learn, "--test", str(judge), "--good-class", "good").stderr
    assert [dataset.classes for dataset in loaded if dataset] == [("no cap", "ok", "pigmented")] * 2
    assert "may mean that a bottle has no defect" not in told


def test_the_good_class_is_for_time_head_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = rename_good(write_class_folders(tmp_path / "dataset", per_class=1), "ok")
    found: list[Dataset] = []

    def time_head(data: Dataset, **more: Any) -> dict[str, Any]:
        found.append(data)
        return {}

    monkeypatch.setattr(head_timing, "time_head", time_head)
    invoked("time-head", dataset, "--good-class", "ok", "--json")
    assert found[0].classes == ("good", "no cap", "pigmented")
