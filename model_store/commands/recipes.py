"""`sortline models compare-recipes` and `models time-head`: recipes for training compared, and a head timed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_store.commands.options import (
    BACKBONE_HELP,
    DEFAULT_BACKBONE,
    CacheFlag,
    DatasetArgument,
    GoodClassFlag,
    InsecureHttpFlag,
    check_training_installed,
    load_labeled,
)
from model_store.commands.output import print_unused
from model_store.commands.recipe_tables import print_recipes
from shared.cli import JsonFlag, print_json
from shared.messages import note, say

if TYPE_CHECKING:
    from model_store.bundle.policy import Mode
    from model_store.datasets.dataset import Dataset


def compare_recipes(
    dataset: DatasetArgument,
    test: Annotated[
        Path | None,
        typer.Option(
            metavar="DATASET",
            help="labeled frames of another belt, light or bottles to judge by; nothing of it is used in training "
            "(default: a fifth of DATASET, chosen by each seed)",
        ),
    ] = None,
    recipes: Annotated[
        str | None,
        typer.Option(
            help="recipes to compare: plain, mobilenet, lite0-plain, default "
            "(default: plain,default, or only those of --recipe)"
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=BACKBONE,CROP,FINE-TUNE",
            help="another recipe, with crop and method as in `sortline train`, or method plain; once for each, e.g. "
            "mine=./net.npz,full,top",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="seeds of the splits and the trainings")] = "123,1,2,3,4",
    modes: Annotated[str, typer.Option(help="modes to train in")] = "single,multi",
    backbone: Annotated[
        str | None, typer.Option(help="backbone of the recipes plain and default, as in `sortline train`")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="file that each finished training is written to; if it exists, the comparison goes on from it",
        ),
    ] = None,
    good_class: GoodClassFlag = None,
    insecure_http: InsecureHttpFlag = False,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare recipes for training on a dataset; publishes nothing.

    `single` takes the images with exactly one label, `multi` all of them. Without --test, each training is judged by a
    fifth of the images that it did not see, and the images of held_out.txt, test/ and valid/ are used like all others.
    With --test, each recipe makes the model that `sortline train` would publish, and all images of the other dataset
    judge it. A mode that the datasets can't be used in is left out, with the reason.

    The default backbone was tuned on frames as `bench render-pairs` draws them, so `default` has seen the belts of
    every pair. docs/training.md, "Comparing recipes", says how to compare without that.

    Example: sortline models compare-recipes producer/bottles --test belt2 --seeds 1,2 --out belt2.json
    """
    from model_store.datasets.image_loading import DecodeSettings
    from model_store.runtime.progress import show_progress
    from model_store.training import recipe_comparison
    from model_store.training.recipes import choose_recipes
    from shared.output_files import check_output_files
    from shared.settings import load_settings
    from shared.termination import ended_by_sigterm

    options = recipe_comparison.ComparisonOptions(
        recipes=choose_recipes(_recipe_names(recipes), recipe or (), backbone=backbone),
        seeds=_seeds(seeds),
        modes=_modes(modes),
        out=out,
        insecure_http=insecure_http,
    )
    check_output_files({"--out": out}, inputs=[dataset, *([test] if test else [])])
    check_training_installed()
    settings = load_settings(cache_dir=cache_dir)
    learn, judge = _load_both(dataset, test, good_class=good_class)
    with ended_by_sigterm(), show_progress() as steps:
        results = recipe_comparison.compare_recipes(
            learn,
            options,
            test=judge,
            cache=settings.cache_path,
            decode_settings=DecodeSettings.of(settings),
            steps=steps,
        )
    print_json(results) if as_json else print_recipes(results)


def _load_both(path: Path, test: Path | None, *, good_class: str | None) -> tuple[Dataset, Dataset | None]:
    """The dataset to learn from and the one to judge by, with notes on how they were read.

    `good_class` is for those that have such a class: what one plant calls `ok`, another may call `good`.

    Raises:
        BadDataset: neither has one.
    """
    if test is None:
        learn = load_labeled(path, held_out=False, good_class=good_class)
        _note_all_used(learn, "without --test")
        return learn, None
    named = {each: good_class if _has_class(each, good_class) else None for each in (path, test)}
    if not any(named.values()):
        named[path] = good_class  # refused, with the names of its classes
    learn, judge = (load_labeled(each, held_out=False, good_class=named[each]) for each in (path, test))
    _note_all_used(judge, "to judge by")
    return learn, judge


def _has_class(path: Path, name: str | None) -> bool:
    from model_store.bundle.policy import GOOD
    from model_store.datasets.comparable import comparable
    from model_store.datasets.dataset import load_dataset

    return name is not None and comparable(name) in {GOOD, *map(comparable, load_dataset(path).classes)}


def _note_all_used(dataset: Dataset, when: str) -> None:
    """Say that held-out images are used after all: the lines on how the dataset was read speak of `train`."""
    if any(sample.held_out or sample.validation for sample in dataset.samples):
        note(
            f"sortline: {dataset.files.path}: {when}, all images are used alike, those of held_out.txt, test/ and "
            "valid/ too"
        )


def _recipe_names(text: str | None) -> list[str] | None:
    from shared.comma_lists import split_list

    return None if text is None else split_list(text)


def _seeds(text: str) -> tuple[int, ...]:
    from shared.comma_lists import split_list
    from shared.errors import BadSetting

    numbers = [int(seed) for seed in split_list(text) if seed.isdecimal() and seed.isascii()]
    if not numbers or len(numbers) < len(split_list(text)) or max(numbers) >= 2**32:
        raise BadSetting(f"--seeds {text!r}: give whole numbers from 0 to {2**32 - 1}, e.g. 123,1,2.")
    if len({*numbers}) < len(numbers):
        raise BadSetting(f"--seeds {text!r} names a seed twice. Name it once.")
    return tuple(numbers)


def _modes(text: str) -> tuple[Mode, ...]:
    from shared.comma_lists import split_list
    from shared.errors import BadSetting

    known: tuple[Mode, ...] = ("single", "multi")
    names = split_list(text)
    if not names or not {*names} <= {*known}:
        raise BadSetting(f"--modes {text!r}: give single, multi, or both with a comma between them.")
    return tuple(mode for mode in known if mode in names)


def time_head(
    dataset: DatasetArgument,
    seed: Annotated[int, typer.Option(min=0, help="seed of the split and of the training")] = 123,
    backbone: Annotated[str, typer.Option(help=BACKBONE_HELP)] = DEFAULT_BACKBONE,
    good_class: GoodClassFlag = None,
    insecure_http: InsecureHttpFlag = False,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Time the training of a head on cached features, and with the backbone run again in every epoch.

    Both ways are timed in this run, on all images with exactly one label, those of held_out.txt, test/ and valid/ too,
    with the same split, epochs and seed.

    Example: sortline models time-head producer/bottles
    """
    from model_store.datasets.image_loading import DecodeSettings
    from model_store.runtime.progress import show_progress
    from model_store.training import head_timing
    from shared.settings import load_settings

    settings = load_settings(cache_dir=cache_dir)
    data = load_labeled(dataset, held_out=False, good_class=good_class)
    _note_all_used(data, "to time")
    with show_progress() as steps:
        timings = head_timing.time_head(
            data,
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
