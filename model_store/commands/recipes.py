"""`sortline models compare-recipes` and `models time-head`: the plain recipe compared with Sortline's."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from model_store.commands.options import BACKBONE_HELP, DEFAULT_BACKBONE, CacheFlag, DatasetArgument, InsecureHttpFlag
from model_store.commands.output import print_unused
from shared.cli import JsonFlag, print_json
from shared.messages import note, say


def compare_recipes(
    dataset: DatasetArgument,
    seeds: Annotated[str, typer.Option(help="seeds of the splits to train and evaluate on")] = "123,1,2,3,4",
    backbone: Annotated[str, typer.Option(help=BACKBONE_HELP)] = DEFAULT_BACKBONE,
    insecure_http: InsecureHttpFlag = False,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare the plain recipe for training with Sortline's on the same splits of a dataset; publishes nothing.

    The plain recipe is a frozen backbone and one dense layer. `single` takes the images with exactly one label,
    `multi` all of them; each is evaluated on a fifth that was not trained on. A mode in which the dataset can't be
    trained is left out, with the reason.

    Example: sortline models compare-recipes producer/bottles --seeds 123,1,2
    """
    from model_store.datasets.image_loading import DecodeSettings
    from model_store.runtime.progress import show_progress
    from model_store.training import recipe_comparison
    from shared.errors import BadSetting
    from shared.settings import load_settings

    if not all(seed.strip().isdigit() for seed in seeds.split(",")):
        raise BadSetting(f"--seeds {seeds!r}: give whole numbers, e.g. 123,1,2.")
    settings = load_settings(cache_dir=cache_dir)
    numbers = [int(seed) for seed in seeds.split(",")]
    with show_progress() as steps:
        results = recipe_comparison.compare_recipes(
            dataset,
            numbers,
            cache=settings.cache_path,
            decode_settings=DecodeSettings.of(settings),
            backbone=backbone,
            insecure_http=insecure_http,
            steps=steps,
        )
    print_json(results) if as_json else print_recipes(results)


def time_head(
    dataset: DatasetArgument,
    seed: Annotated[int, typer.Option(min=0, help="seed of the split and of the training")] = 123,
    backbone: Annotated[str, typer.Option(help=BACKBONE_HELP)] = DEFAULT_BACKBONE,
    insecure_http: InsecureHttpFlag = False,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Time the training of a head on cached features, and with the backbone run again in every epoch.

    Both ways are timed in this run, on the images with exactly one label, with the same split, epochs and seed.

    Example: sortline models time-head producer/bottles
    """
    from model_store.datasets.image_loading import DecodeSettings
    from model_store.runtime.progress import show_progress
    from model_store.training import recipe_comparison
    from shared.settings import load_settings

    settings = load_settings(cache_dir=cache_dir)
    with show_progress() as steps:
        timings = recipe_comparison.time_head(
            dataset,
            cache=settings.cache_path,
            decode_settings=DecodeSettings.of(settings),
            seed=seed,
            backbone=backbone,
            insecure_http=insecure_http,
            steps=steps,
        )
    if as_json:
        print_json(timings)
        return
    print_unused(timings["unreadable"], [])
    say(f"{timings['images']} images, {timings['epochs']} epochs:")
    say(
        f"  backbone run in every epoch  {timings['recomputed_s']:.1f} s, accuracy {timings['accuracy_recomputed']:.4f}"
    )
    say(f"  features cached              {timings['head_s']:.1f} s, accuracy {timings['accuracy_cached']:.4f}")
    say(
        f"{timings['head_ratio']:.0f} times faster; {timings['ratio']:.1f} times if the time to compute the features "
        "counts too"
    )


def print_recipes(results: dict[str, Any]) -> None:
    from model_store.training.recipe_comparison import METRICS, RECIPES
    from shared.tables import plain_console, print_table

    compared = {mode: rows for mode, rows in results.items() if "untrainable" not in rows}
    unused = list({item["file"]: item for rows in compared.values() for item in rows["unreadable"]}.values())
    for mode, rows in compared.items():
        reason = f"a copy of it has labels that contradict its own (in {mode})"
        unused += [{"file": name, "reason": reason} for name in rows["excluded"]]
    print_unused(unused, [])
    for mode, rows in results.items():
        if mode not in compared:
            note(f"{mode} is not compared: {rows['untrainable']}")
    headings = ("mode", "images", "recipe", *(metric.replace("_", " ") for metric in METRICS))
    means = []
    for mode, rows in compared.items():
        for recipe, title in RECIPES.items():
            scores = (f"{rows[recipe][f'{metric}_mean']:.3f}" for metric in METRICS)
            means.append((mode, str(rows["images"]), title, *scores))
    print_table(plain_console(), headings, means, text=(0, 2))
