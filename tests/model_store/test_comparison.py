"""Recipes side by side, and the two ways to train a head, by their commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from model_store.commands import add_to
from shared.errors import BadSetting
from tests.model_store.tiny_backbone import save_tiny_backbone, write_labelled

KINDS = ("good", "no cap", "pigmented", "no cap|pigmented")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone, and a dataset of 48 images, 12 of them with two labels."""
    folder = tmp_path_factory.mktemp("recipes")
    save_tiny_backbone(folder / "backbone")
    write_labelled(folder / "dataset", {f"{index:03}.png": KINDS[index % 4] for index in range(48)})
    return folder


def run(place: Path, command: str, *arguments: str) -> str:
    app = typer.Typer()
    add_to(app)
    fixed = ["--backbone", str(place / "backbone"), "--cache-dir", str(place / "cache")]
    result = CliRunner().invoke(app, ["models", command, str(place / "dataset"), *fixed, *arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.stdout


def test_both_recipes_are_compared_on_the_same_images(place: Path) -> None:
    result: dict[str, Any] = json.loads(run(place, "compare-recipes", "--seeds", "123, 5", "--json"))
    assert (result["single"]["images"], result["multi"]["images"]) == (36, 48)
    for mode in ("single", "multi"):
        assert result[mode]["seeds"] == [123, 5]
        for recipe in ("tutorial", "ours"):
            figures = result[mode][recipe]
            assert len(figures["accuracy"]) == 2
            assert figures["accuracy_mean"] == pytest.approx(sum(figures["accuracy"]) / 2, abs=1e-3)
    assert result["single"]["tutorial"] != result["single"]["ours"]


def test_seeds_are_whole_numbers(place: Path) -> None:
    with pytest.raises(BadSetting, match="--seeds '1,two'"):
        run(place, "compare-recipes", "--seeds", "1,two")


def test_a_head_is_the_same_on_cached_features_as_with_the_base_in_every_epoch(place: Path) -> None:
    figures = json.loads(run(place, "time-head", "--seed", "5", "--json"))
    assert (figures["images"], figures["epochs"]) == (36, 25)
    # The same start, order and steps: but for rounding, the same head.
    assert figures["accuracy_recomputed"] == figures["accuracy_cached"]
    assert min(figures[name] for name in ("recomputed_s", "cached_s", "head_s", "ratio", "head_ratio")) > 0
