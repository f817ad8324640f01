"""Comparing two recipes, and two ways to train a head, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from model_store.commands import add_to
from model_store.training import recipe_comparison
from shared.errors import BadDataset, BadSetting
from tests.model_store.tiny_backbone import picture, save_tiny_backbone, write_labeled

pytestmark = pytest.mark.training

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
        assert result[mode]["seeds"] == [123, 5]
        for recipe in ("tutorial", "ours"):
            metrics = result[mode][recipe]
            assert len(metrics["accuracy"]) == 2
            assert metrics["accuracy_mean"] == pytest.approx(sum(metrics["accuracy"]) / 2, abs=1e-3)
    assert result["single"]["tutorial"] != result["single"]["ours"]


def test_unknown_labels_are_neither_learned_nor_evaluated(place: Path) -> None:
    both = "no cap|pigmented"  # the bottles have both defects, but a folder names only one of them
    dataset = write_folders(place / "unknown", good="good", no_cap=both, pigmented=both)
    result = json.loads(invoked(place, dataset, "compare-recipes", "--seeds", "1", "--json").stdout)
    assert result["multi"]["ours"]["exact_match"] == [1.0]
    assert result["single"]["ours"]["exact_match"][0] < 1


def test_a_mode_that_cannot_be_trained_is_left_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = write_folders(place / "defects", no_cap="no cap", pigmented="pigmented")
    arguments = ("compare-recipes", "--seeds", "1")
    result = json.loads(invoked(place, dataset, *arguments, "--json").stdout)
    assert result["single"]["images"] == 30
    assert list(result["multi"]) == ["untrainable"]
    assert "'no cap' 0, 'pigmented' 0" in result["multi"]["untrainable"]
    with monkeypatch.context() as patch:
        patch.setattr(recipe_comparison, "compare_recipes", lambda *given, **more: result)
        shown = invoked(place, dataset, *arguments)
    assert "multi is not compared: " in shown.stderr
    assert "single" in shown.stdout and "multi" not in shown.stdout
    assert "plain" in shown.stdout and "tutorial" not in shown.stdout
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
    result = json.loads(invoked(place, dataset, "compare-recipes", "--seeds", "1", "--json").stdout)
    for mode, images in (("single", 33), ("multi", 45)):
        assert result[mode]["images"] == images
        assert [item["file"] for item in result[mode]["unreadable"]] == [r"000\x9b.png"]
        assert result[mode]["excluded"] == [r"001\x9b.png", r"002\x9b.png"]
    monkeypatch.setattr(recipe_comparison, "compare_recipes", lambda *given, **more: result)
    printed = invoked(place, dataset, "compare-recipes", "--seeds", "1").stderr
    assert printed.count(r"not used: 000\x9b.png") == 1
    assert r"not used: 001\x9b.png: a copy of it has labels that contradict its own (in multi)" in printed
    result["multi"]["excluded"] = [f"{index}.png" for index in range(20)]
    printed = invoked(place, dataset, "compare-recipes", "--seeds", "1").stderr
    assert "not used: 0.png: a copy" in printed
    assert printed.count("a copy of it has") < 10
    assert "more files; --json names them all" in printed
    timings = json.loads(invoked(place, dataset, "time-head", "--json").stdout)
    assert [item["file"] for item in timings["unreadable"]] == [r"000\x9b.png"]
    monkeypatch.setattr(recipe_comparison, "time_head", lambda *given, **more: timings)
    assert r"not used: 000\x9b.png" in invoked(place, dataset, "time-head").stderr


def test_seeds_are_whole_numbers(place: Path) -> None:
    with pytest.raises(BadSetting, match="--seeds '1,two'"):
        run(place, "compare-recipes", "--seeds", "1,two")


def test_cached_and_recomputed_features_give_the_same_head(place: Path) -> None:
    timings = json.loads(run(place, "time-head", "--seed", "5", "--json"))
    assert (timings["images"], timings["epochs"]) == (36, 25)
    # Both start with the same weights and take the same steps, so the heads are equal except for rounding.
    assert timings["accuracy_recomputed"] == timings["accuracy_cached"]
    assert min(timings[name] for name in ("recomputed_s", "cached_s", "head_s", "ratio", "head_ratio")) > 0
