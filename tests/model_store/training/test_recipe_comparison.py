"""Comparing recipes on the command line, with real trainings of a tiny backbone."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from model_store.backbones.tuned_layers import TunedLayers
from model_store.bundle.training_digests import short_digests
from model_store.commands import add_to
from model_store.training import decision_tuning, recipe_comparison, recipe_training, transfer
from model_store.training.decision_tuning import DecisionTuning
from model_store.training.fine_tuning import Frames
from shared.errors import BadDataset, BadSetting
from tests.model_store.tiny_backbone import picture, save_tiny_backbone, write_labeled

pytestmark = pytest.mark.training

CLASSES = dict.fromkeys(("good", "no cap", "pigmented"), 2)
KINDS = ("good", "no cap", "pigmented", "no cap|pigmented")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone, and a dataset of 48 images, 12 of them with two labels."""
    folder = tmp_path_factory.mktemp("recipes")
    save_tiny_backbone(folder / "backbone")
    write_labeled(folder / "dataset", {f"{index:03}.png": KINDS[index % 4] for index in range(48)})
    return folder


def run(place: Path, command: str, *arguments: str) -> str:
    return invoked(place, place / "dataset", command, *arguments).stdout


def invoked(place: Path, dataset: Path, command: str, *arguments: str) -> Result:
    app = typer.Typer()
    add_to(app)
    fixed = ["--backbone", str(place / "backbone"), "--cache-dir", str(place / "cache")]
    result = CliRunner().invoke(app, ["models", command, str(dataset), *fixed, *arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def write_folders(root: Path, **kinds: str) -> Path:
    """Write fifteen pictures of a kind into each folder; `_` in a folder's name stands for a space."""
    for number, (folder, kind) in enumerate(kinds.items()):
        path = root / folder.replace("_", " ")
        path.mkdir(parents=True)
        for index in range(15):
            (path / f"{index}.png").write_bytes(picture(kind, 100 * number + index))
    return root


def test_both_recipes_are_compared_on_the_same_images(place: Path) -> None:
    result: dict[str, Any] = json.loads(run(place, "compare-recipes", "--seeds", "123, 5", "--json"))
    assert (result["single"]["images"], result["multi"]["images"]) == (36, 48)
    for mode in ("single", "multi"):
        assert (result[mode]["seeds"], result[mode]["test"]) == ([123, 5], None)
        assert list(result[mode]["recipes"]) == ["plain", "default"]
        for metrics in result[mode]["recipes"].values():
            assert len(metrics["accuracy"]) == len(metrics["seconds"]) == 2
            assert metrics["accuracy_mean"] == pytest.approx(sum(metrics["accuracy"]) / 2, abs=1e-3)
            assert {name: len(each["f1"]) for name, each in metrics["per_class"].items()} == CLASSES
            # Thresholds are chosen only for a model that another dataset judges.
            assert {name: each["threshold"] for name, each in metrics["per_class"].items()} == {
                "good": [0.5 if mode == "single" else None] * 2,
                "no cap": [0.5] * 2,
                "pigmented": [0.5] * 2,
            }
    recipes = result["single"]["recipes"]
    assert recipes["plain"]["accuracy"] != recipes["default"]["accuracy"]


def test_unknown_labels_are_neither_learned_nor_evaluated(place: Path) -> None:
    both = "no cap|pigmented"  # the bottles have both defects, but a folder names only one of them
    dataset = write_folders(place / "unknown", good="good", no_cap=both, pigmented=both)
    flags = ("--recipes", "default", "--seeds", "1", "--json")
    result = json.loads(invoked(place, dataset, "compare-recipes", *flags).stdout)
    assert result["multi"]["recipes"]["default"]["exact_match"] == [1.0]
    assert result["single"]["recipes"]["default"]["exact_match"][0] < 1


def test_a_mode_that_cannot_be_trained_is_left_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_folders(place / "defects", no_cap="no cap", pigmented="pigmented")
    arguments = ("compare-recipes", "--recipes", "plain", "--seeds", "1")
    result = json.loads(invoked(place, dataset, *arguments, "--json").stdout)
    assert result["single"]["images"] == 30
    assert list(result["multi"]) == ["left_out"]
    assert "'no cap' 0, 'pigmented' 0" in result["multi"]["left_out"]
    with monkeypatch.context() as patch:
        patch.setattr(recipe_comparison, "compare_recipes", lambda *given, **more: result)
        shown = invoked(place, dataset, *arguments)
    assert "multi is not compared: " in shown.stderr
    assert "single" in shown.stdout and "multi" not in shown.stdout
    assert "plain" in shown.stdout and "no cap" in shown.stdout
    for index in range(14):
        (dataset / "no cap" / f"{index}.png").unlink()
    with pytest.raises(BadDataset, match="class 'no cap' has 1 usable image outside"):
        invoked(place, dataset, *arguments)


def test_images_that_are_not_used_are_reported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {f"{index:03}\x9b.png": KINDS[index % 4] for index in range(48)}
    dataset = write_labeled(place / "flawed", rows)
    (dataset / "000\x9b.png").write_bytes(b"no image")
    (dataset / "001\x9b.png").write_bytes(
        (dataset / "002\x9b.png").read_bytes()
    )  # the same picture as `no cap` and as `pigmented`
    (dataset / "held_out.txt").write_text("002\x9b.png\n")
    flags = ("--recipes", "plain", "--seeds", "1", "--json")
    result = json.loads(invoked(place, dataset, "compare-recipes", *flags).stdout)
    for mode, images in (("single", 33), ("multi", 45)):
        assert result[mode]["images"] == images
        assert [item["file"] for item in result[mode]["unreadable"]] == [r"000\x9b.png"]
        assert result[mode]["excluded"] == [r"001\x9b.png", r"002\x9b.png"]
    monkeypatch.setattr(recipe_comparison, "compare_recipes", lambda *given, **more: result)
    printed = invoked(place, dataset, "compare-recipes", "--seeds", "1").stderr
    assert printed.count(r"not used: 000\x9b.png") == 1
    assert r"not used: 001\x9b.png: a copy of it has labels that contradict its own (in multi)" in printed
    result["multi"]["excluded_reasons"] = {}  # as in the file of --out of an earlier release
    printed = invoked(place, dataset, "compare-recipes", "--seeds", "1").stderr
    assert r"not used: 001\x9b.png: an earlier release excluded it" in printed
    result["multi"]["excluded"] = [f"{index}.png" for index in range(20)]
    result["multi"]["excluded_reasons"] = dict.fromkeys(result["multi"]["excluded"], "a copy of it has other labels")
    printed = invoked(place, dataset, "compare-recipes", "--seeds", "1").stderr
    assert "not used: 0.png: a copy of it has other labels (in multi)" in printed
    assert printed.count("a copy of it has") < 10
    assert "more files; --json names them all" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seeds", "1,two"), "--seeds '1,two': give whole numbers"),
        (("--seeds", "4294967296"), "from 0 to 4294967295"),
        (("--seeds", "1,2,1"), "names a seed twice"),
        (("--modes", "both"), "--modes 'both': give single, multi"),
        (("--recipes", "plian"), "there is no recipe 'plian'. Did you mean plain"),
        (("--out", "labels.zip/x"), "--out labels.zip/x can't be written"),
    ],
)
def test_wrong_flags_are_refused_before_any_image_is_read(
    place: Path, arguments: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_comparison, "compare_recipes", None)
    with pytest.raises(BadSetting, match=re.escape(message)):
        run(place, "compare-recipes", *arguments)


def test_another_dataset_judges_models_that_know_nothing_of_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = write_labeled(place / "judge", {f"j{index}.png": KINDS[index % 4] for index in range(20)}, first_seed=900)
    learned: list[tuple[int, int]] = []

    def train_model(*given: Any, train: Frames, validation: Frames, **more: Any) -> Any:
        learned.append((len(train.images), len(validation.images)))
        return transfer.train_model(*given, train=train, validation=validation, **more)

    tuned: list[DecisionTuning] = []

    def tune_decisions(*given: Any, **more: Any) -> DecisionTuning:
        tuned.append(decision_tuning.tune_decisions(*given, **more))
        return tuned[-1]

    monkeypatch.setattr(recipe_training, "train_model", train_model)
    monkeypatch.setattr(recipe_training, "tune_decisions", tune_decisions)
    flags = ("--test", str(judge), "--seeds", "7", "--modes", "multi", "--json", "--out", str(place / "record.json"))
    result = json.loads(run(place, "compare-recipes", *flags))
    assert list(result) == ["multi"]
    assert result["multi"]["test"] == {"path": str(judge), "images": 20, "unreadable": []}
    assert learned == [(38, 10)]  # the images of the first dataset, and nothing else
    assert [len(tuning.before) for tuning in tuned] == [10]
    plain, default = result["multi"]["recipes"]["plain"], result["multi"]["recipes"]["default"]
    assert {each["support"] for each in plain["per_class"].values()} == {5, 10}
    assert [each["threshold"] for each in plain["per_class"].values()] == [[None], [0.5], [0.5]]
    thresholds = {name: each["threshold"][0] for name, each in default["per_class"].items()}
    assert thresholds == {"good": None, **tuned[0].policy.thresholds}
    monkeypatch.setattr(recipe_training.RecipeTrainer, "train_and_judge", None)
    assert json.loads(run(place, "compare-recipes", *flags)) == result  # no training is done again


@pytest.mark.parametrize("tuned_on", [True, False])
def test_images_that_tuned_a_recipes_layers_are_counted(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tuned_on: bool
) -> None:
    """Of the images that are used: those of each dataset that the layers' file names."""
    judge = write_labeled(tmp_path / "judge", {f"j{index}.png": KINDS[index % 4] for index in range(8)}, first_seed=700)
    names = [place / "dataset" / f"{index:03}.png" for index in range(12)] + [judge / "j1.png", judge / "j2.png"]
    digests = short_digests(hashlib.sha256(name.read_bytes()).hexdigest() for name in names)
    layers = TunedLayers("wheel:x", "s", {}, digests if tuned_on else None)
    monkeypatch.setattr(recipe_comparison, "layers_of", lambda handle: layers)
    flags = ["--recipes", "plain", "--seeds", "3", "--out", str(tmp_path / "r.json"), "--json", "--test", str(judge)]
    result = json.loads(run(place, "compare-recipes", *flags))
    found = {mode: each["recipes"]["plain"]["tuned_on"] for mode, each in result.items()}
    unknown = {"learn": None, "test": None}
    counts = {"single": {"learn": 9, "test": 2}, "multi": {"learn": 12, "test": 2}}
    assert found == (counts if tuned_on else dict.fromkeys(("single", "multi"), unknown))
    assert json.loads(run(place, "compare-recipes", *flags)) == result  # from the file
    monkeypatch.setattr(recipe_comparison, "layers_of", lambda handle: None)
    result = json.loads(run(place, "compare-recipes", *flags))
    assert [each["recipes"]["plain"]["tuned_on"] for each in result.values()] == [None, None]


def test_the_other_dataset_may_spell_the_classes_in_another_way(place: Path, tmp_path: Path) -> None:
    spelled = {"good": "Good", "no cap": "No_Cap", "pigmented": "PIGMENTED", "no cap|pigmented": "No_Cap|PIGMENTED"}
    judge = tmp_path / "judge"
    judge.mkdir()
    rows = [(f"j{index}.png", KINDS[index % 4]) for index in range(8)]
    for index, (name, kind) in enumerate(rows):
        (judge / name).write_bytes(picture(kind, 800 + index))
    (judge / "labels.csv").write_text("filename,labels\n" + "".join(f"{name},{spelled[kind]}\n" for name, kind in rows))
    flags = ("--recipes", "plain", "--seeds", "3", "--modes", "multi", "--json", "--test", str(judge))
    result = json.loads(run(place, "compare-recipes", *flags))
    per_class = result["multi"]["recipes"]["plain"]["per_class"]
    assert {name: each["support"] for name, each in per_class.items()} == {"good": 2, "no cap": 4, "pigmented": 4}


def test_a_file_whose_metrics_were_edited_is_refused_and_kept(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    flags = ("--recipes", "plain", "--seeds", "3", "--modes", "single", "--out", str(out))
    run(place, "compare-recipes", *flags)
    content = json.loads(out.read_text())
    del content["trainings"][0]["metrics"]["macro_f1_defects"]
    out.write_text(json.dumps(content))
    before = out.read_bytes()
    with pytest.raises(BadSetting, match=r"metrics\.macro_f1_defects is missing.*left as it is\. Name another file"):
        run(place, "compare-recipes", *flags)
    assert out.read_bytes() == before
