"""What the tables of `compare-recipes` say below them."""

from __future__ import annotations

from typing import Any

import pytest

from model_store.commands.recipe_tables import print_recipes, tuned_note
from model_store.training.comparison_metrics import METRICS

ALONE: dict[str, Any] = {"images": 1_376, "test": None}
JUDGED: dict[str, Any] = {"images": 1_376, "test": {"path": "belt2", "images": 420, "unreadable": []}}

UNKNOWN = "it isn't known which images tuned the layers of mine.npz. If they are among these, its figures are too good."


def recipe(**tuned_on: int | None) -> dict[str, Any]:
    return {"backbone": "mine.npz", "tuned_on": tuned_on or None}


@pytest.mark.parametrize(
    ("summary", "found", "text"),
    [
        (recipe(), JUDGED, ""),
        (recipe(learn=0, test=0), JUDGED, ""),
        (recipe(learn=0, test=None), ALONE, ""),
        (
            recipe(learn=1_300, test=None),
            ALONE,
            "1,300 of these 1,376 images tuned the layers of mine.npz, so its figures are too good.",
        ),
        (
            recipe(learn=5, test=7),
            JUDGED,
            "7 of the 420 images to judge by, and 5 of the 1,376 to learn from, tuned the layers of mine.npz, so its "
            "figures are too good.",
        ),
        (
            recipe(learn=5, test=0),
            JUDGED,
            "0 of the 420 images to judge by, and 5 of the 1,376 to learn from, tuned the layers of mine.npz, so its "
            "thresholds and calibration may suit other images less.",
        ),
        (
            recipe(learn=None, test=None),
            ALONE,
            UNKNOWN,
        ),
        (
            recipe(learn=5, test=None),  # only an edited file says so
            JUDGED,
            UNKNOWN,
        ),
    ],
)
def test_images_that_tuned_the_layers_of_a_recipe_are_told(
    summary: dict[str, Any], found: dict[str, Any], text: str
) -> None:
    assert tuned_note(summary, found) == text


def test_the_notes_stand_below_the_tables_of_their_mode(capsys: pytest.CaptureFixture[str]) -> None:
    scores: dict[str, Any] = {f"{metric}_mean": 0.9 for metric in METRICS} | {"per_class": {"good": {"f1_mean": 0.5}}}
    recipes = {
        name: {"title": "", "crop": "full", "fine_tune": "none", **scores, **summary}
        for name, summary in (("mine", recipe(learn=9, test=None)), ("other", recipe()))
    }
    print_recipes({"multi": {**ALONE, "unreadable": [], "excluded": [], "seeds": [1], "recipes": recipes}})
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "- mine: 9 of these 1,376 images tuned the layers of mine.npz, so its figures are too good."
