"""Prints what `sortline models compare-recipes` found, for people."""

from __future__ import annotations

from typing import Any

from model_store.commands.output import print_unused
from shared.messages import note, say

# Columns beside the recipe's name. More classes get further tables.
_CLASSES_PER_TABLE = 6
_REASON_UNKNOWN = "an earlier release excluded it, and the file of --out doesn't say why"
_HEADINGS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "macro_f1_defects": "F1 of defects",
    "map": "mAP",
    "exact_match": "exact match",
    "ece": "ECE",
    "seconds": "seconds",
}


def print_recipes(results: dict[str, Any]) -> None:
    """Print the unused files, what each recipe is, and the means over the seeds: two tables for each mode."""
    compared = {mode: found for mode, found in results.items() if "left_out" not in found}
    _print_unused(compared)
    for mode, found in results.items():
        if mode not in compared:
            note(f"{mode} is not compared: {found['left_out']}")
        elif refused := found.get("validation_refused"):
            note(f"{mode}: {refused}")
    if compared:
        _print_choices(next(iter(compared.values()))["recipes"])
    for mode, found in compared.items():
        say("")
        _print_means(found, title=_title(mode, found))
        _print_classes(found["recipes"])
        for name, recipe in found["recipes"].items():
            if text := tuned_note(recipe, found):
                say(f"- {name}: {text}")


def tuned_note(recipe: dict[str, Any], found: dict[str, Any]) -> str:
    """What to say about images of a mode that tuned the layers which a recipe starts from; "": nothing.

    Args:
        recipe: the recipe's summary.
        found: that of its mode.
    """
    tuned, backbone, test = recipe.get("tuned_on"), recipe.get("backbone"), found["test"]
    if tuned is None:
        return ""
    learn, judge = tuned["learn"], tuned["learn"] if test is None else tuned["test"]
    if learn is None or judge is None:
        return (
            f"it isn't known which images tuned the layers of {backbone}. If they are among these, its figures are too "
            "good."
        )
    if not learn and not judge:
        return ""
    if test is None:
        images = f"{learn:,} of these {found['images']:,} images"
        return f"{images} tuned the layers of {backbone}, so its figures are too good."
    effect = "its figures are too good" if judge else "its thresholds and calibration may suit other images less"
    return (
        f"{judge:,} of the {test['images']:,} images to judge by, and {learn:,} of the {found['images']:,} to learn "
        f"from, tuned the layers of {backbone}, so {effect}."
    )


def _print_choices(recipes: dict[str, Any]) -> None:
    from shared.tables import plain_console, print_table

    columns = ("backbone", "crop", "fine_tune", "title")
    rows = [(name, *(recipe[column] for column in columns)) for name, recipe in recipes.items()]
    print_table(plain_console(), ("recipe", "backbone", "crop", "fine-tune", ""), rows, text=range(5))


def _print_unused(compared: dict[str, Any]) -> None:
    unused: dict[str, dict[str, str]] = {}
    for found in compared.values():
        unused |= {item["file"]: item for item in found["unreadable"]}
        if test := found["test"]:
            items = ({**item, "file": f"{test['path']}/{item['file']}"} for item in test["unreadable"])
            unused |= {item["file"]: item for item in items}
    rows = list(unused.values())
    for mode, found in compared.items():
        reasons = found.get("excluded_reasons", {})
        for name in found["excluded"]:
            rows.append({"file": name, "reason": f"{reasons.get(name, _REASON_UNKNOWN)} (in {mode})"})
    print_unused(rows, [])


def _title(mode: str, found: dict[str, Any]) -> str:
    seeds = f"means over {len(found['seeds'])} seeds" if len(found["seeds"]) > 1 else f"seed {found['seeds'][0]}"
    if found["test"] is None:
        return f"{mode}: {found['images']:,} images, a fifth to judge by; {seeds}"
    test = found["test"]
    return (
        f"{mode}: {found['images']:,} images to learn from, {test['images']:,} of {test['path']} to judge by; {seeds}"
    )


def _print_means(found: dict[str, Any], *, title: str) -> None:
    from shared.tables import plain_console, print_table

    rows = [
        (name, *(_format(metric, recipe[f"{metric}_mean"]) for metric in _HEADINGS))
        for name, recipe in found["recipes"].items()
    ]
    print_table(plain_console(), ("recipe", *_HEADINGS.values()), rows, title=title)


def _print_classes(recipes: dict[str, Any]) -> None:
    from shared.tables import plain_console, print_table

    classes = list(next(iter(recipes.values()))["per_class"])
    for start in range(0, len(classes), _CLASSES_PER_TABLE):
        shown = classes[start : start + _CLASSES_PER_TABLE]
        rows = [
            (name, *(_format("f1", recipe["per_class"][each]["f1_mean"]) for each in shown))
            for name, recipe in recipes.items()
        ]
        print_table(plain_console(), ("F1 of", *shown), rows)


def _format(metric: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if metric == "seconds" else f"{value:.3f}"
