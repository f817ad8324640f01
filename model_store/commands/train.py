"""`sortline train`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from model_store.commands.options import (
    BACKBONE_HELP,
    DEFAULT_BACKBONE,
    CacheFlag,
    DatasetArgument,
    GoodClassFlag,
    InsecureHttpFlag,
    StoreFlag,
    check_training_installed,
    decide_promotion,
    missing_classes_notes,
    open_store_with_load_check,
)
from model_store.commands.output import print_metrics, print_unused
from shared.cli import JsonFlag, print_json
from shared.messages import say

if TYPE_CHECKING:
    from model_store.datasets.audit import DatasetReport
    from model_store.datasets.reading import Reading
    from model_store.publishing.publish import PublishedVersion
    from model_store.publishing.train_options import TrainOptions
    from model_store.registry.store import ModelStore
    from shared.images.crop_regions import Region
    from shared.settings import Settings


def train(
    dataset: DatasetArgument,
    name: Annotated[str, typer.Option(help="model to publish a version of")] = "bottles",
    mode: Annotated[
        Literal["single", "multi"] | None,
        typer.Option(help="one class per image, or all that apply (default: multi if any image has several labels)"),
    ] = None,
    size: Annotated[
        Literal["normal", "small"] | None,
        typer.Option(help="small: a network with half the work per image, and more errors (default: normal)"),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help=f"{BACKBONE_HELP} (default: {DEFAULT_BACKBONE}, or as --size says)")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="passes over the training images")] = 25,
    fine_tune: Annotated[
        Literal["auto", "none", "top", "all", "scratch"],
        typer.Option(
            metavar="METHOD",
            help="auto, none, top, all or scratch: the layers of the backbone to train; auto measures what suits the "
            "data, and says why",
        ),
    ] = "auto",
    crop: Annotated[
        Literal["auto", "detected", "full"] | None,
        typer.Option(
            help="detected: the bottle, cropped and turned upright; full: the full frame "
            "(default: auto: full, or with MobileNetV2 and InceptionV3 what measures better)"
        ),
    ] = None,
    look: Annotated[
        Literal["auto", "found", "whole"] | None, typer.Option(help="the former name of --crop", hidden=True)
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[CAMERA=]L,T,R,B",
            help="part of the pictures to keep, as fractions, e.g. 0.1,0,0.9,1; once for each camera, or for all",
        ),
    ] = None,
    good_class: GoodClassFlag = None,
    objective: Annotated[
        str, typer.Option(help="goal of the thresholds: f1, precision:0.98, recall:0.95, cost:5 or confidence:0.95")
    ] = "f1",
    seed: Annotated[int, typer.Option(min=0, help="seed of the split and of the training")] = 123,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="learning rate of the fine-tuned layers, or of the head if none are fine-tuned "
            "(default: 3e-4 for top, 1e-4 for all, 1e-3 for scratch, 5e-3 for the head)"
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="images per step (default: 32 for the head, 16 for fine-tuning)")
    ] = None,
    save_layers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="also write the fine-tuned layers; later trainings start from --backbone FILE.npz"
        ),
    ] = None,
    insecure_http: InsecureHttpFlag = False,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="publish without making it current")] = False,
    model_store: StoreFlag = None,
    cache_dir: CacheFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Train a model by transfer learning, evaluate it on a held-back fifth, and publish it as the next version.

    First prints what is noteworthy about the dataset. Files named in the dataset's held_out.txt, or in its folder
    test/, are used neither for training nor for validation. A folder valid/ is used for validation in place of a fifth.

    Example: sortline train producer/bottles --name bottles
    """
    from model_store.publishing.train_options import TrainOptions
    from shared.settings import load_settings

    check_training_installed()
    settings = load_settings(model_store=model_store, cache_dir=cache_dir)
    store = open_store_with_load_check(settings)
    options = TrainOptions(
        name=name,
        mode=mode,
        backbone=_backbone(backbone, size),
        epochs=epochs,
        fine_tune=fine_tune,
        crop=_crop(crop, look),
        objective=objective,
        regions=_regions(region or []),
        seed=seed,
        learning_rate=learning_rate,
        batch_size=batch_size,
        save_layers=save_layers,
        good_class=good_class,
        insecure_http=insecure_http,
        promote=decide_promotion(store, no_promote=no_promote),
    )
    trained, reading = _train(dataset, options, store=store, settings=settings)
    if options.promote:
        trained = replace(trained, notes=(*trained.notes, *missing_classes_notes(store, trained.manifest)))
    if as_json:
        print_json(_trained_json(trained) | {"reading": asdict(reading)})
    else:
        _print_trained(trained, promoted=options.promote)


def _train(
    dataset: Path, options: TrainOptions, *, store: ModelStore, settings: Settings
) -> tuple[PublishedVersion, Reading]:
    """Train with a progress display, and show the report on the dataset before. Also returns how the dataset was read.

    Raises:
        the errors of `train_and_publish`.
    """
    from model_store.datasets.image_loading import DecodeSettings
    from model_store.publishing.train import train_and_publish
    from model_store.runtime.progress import show_progress
    from shared.termination import ended_by_sigterm

    reports: list[DatasetReport] = []
    with ended_by_sigterm(), show_progress() as steps:

        def show(report: DatasetReport) -> None:
            reports.append(report)
            report.show(steps.console)

        trained = train_and_publish(
            dataset,
            options,
            store=store,
            cache=settings.cache_path,
            decode_settings=DecodeSettings.of(settings),
            steps=steps,
            show=show,
        )
    return trained, reports[-1].reading


def _backbone(backbone: str | None, size: Literal["normal", "small"] | None) -> str:
    """The handle that --backbone or --size names."""
    from model_store.backbones.resolve import HANDLES_BY_SIZE
    from shared.errors import BadSetting

    if backbone is not None and size is not None:
        raise BadSetting(f"--backbone {backbone} and --size {size}: a size stands for a backbone. Give one of them.")
    return backbone or HANDLES_BY_SIZE[size or "normal"]


def _crop(
    crop: Literal["auto", "detected", "full"] | None, look: Literal["auto", "found", "whole"] | None
) -> Literal["auto", "detected", "full"]:
    """The value of --crop, which may also be given by its former name, --look auto|found|whole."""
    from shared.errors import BadSetting

    if crop is not None and look is not None:
        raise BadSetting(f"--crop {crop} and --look {look}: --look is the former name of --crop. Give only --crop.")
    former: dict[str, Literal["auto", "detected", "full"]] = {"auto": "auto", "found": "detected", "whole": "full"}
    return former[look] if look is not None else crop or "auto"


def _regions(texts: list[str]) -> dict[str, Region]:
    """Regions by camera; a region without a camera applies to all other cameras."""
    from shared.errors import BadSetting
    from shared.images.crop_regions import ANY_CAMERA, parse_region
    from shared.schemas import NAME_RULE, is_name

    regions: dict[str, Region] = {}
    for text in texts:
        camera, named, sides = text.rpartition("=")
        camera = camera if named else ANY_CAMERA
        if camera in regions:
            raise BadSetting(f"--region is given twice for {'all cameras' if camera == ANY_CAMERA else camera}.")
        if camera != ANY_CAMERA and not is_name(camera):
            raise BadSetting(f"--region {text}: {camera!r} can't be a camera's name: {NAME_RULE}.")
        regions[camera] = parse_region(sides)
    return regions


def _trained_json(trained: PublishedVersion) -> dict[str, Any]:
    manifest = trained.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "path": str(trained.path),
        "mode": manifest.mode,
        "classes": list(manifest.classes),
        "dataset": manifest.dataset.model_dump() | {"held_out": trained.held_out},
        "unreadable": [item.as_dict() for item in trained.unreadable],
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


def _print_trained(trained: PublishedVersion, *, promoted: bool) -> None:
    manifest, data = trained.manifest, trained.manifest.dataset
    print_unused([item.as_dict() for item in trained.unreadable], list(trained.unlabelled))
    left_out = f"; {trained.held_out} held out" if trained.held_out else ""
    say(
        f"{manifest.mode}: trained on {data.train} images, validated on {data.validation} (seed "
        f"{manifest.training.seed}){left_out}"
    )
    print_metrics(manifest.metrics, title="validation, out of fold")
    parity = manifest.parity
    say(
        f"parity on {parity['images']:.0f} images that were not trained on: "
        f"SavedModel differs by at most {parity['saved_model_max_difference']:.1e}, "
        f"LiteRT fp32 by {parity['fp32_max_difference']:.1e}"
    )
    views = f" and {parity['views']:.0f} views of them" if "views" in parity else ""
    say(
        f"int8 on the same images{views}: "
        f"the same most probable class as fp32 on {parity['int8_class_agreement']:.1%}, "
        f"the same decided labels on {parity['int8_labels_agreement']:.1%}"
    )
    if manifest.calibration is not None and manifest.calibration.is_applied:
        before, after = manifest.calibration.ece_before, manifest.calibration.ece_after
        say(
            f"expected calibration error {before:.3f} before calibration, {after:.3f} after (out of fold;"
            " slightly too good, because the lower of the two was chosen)"
        )
    for note in trained.notes:
        say(f"- {note}")
    say(f"{sum(trained.seconds.values()):.0f} s; published {manifest.name}@{manifest.version}: {trained.path}")
    say(f"report: {trained.path / 'report' / 'index.html'}")
    version = f"{manifest.name}@{manifest.version}"
    if promoted:
        say(f"next: sortline classify PHOTO.jpg --model {version}; sortline worker --model {manifest.name}")
    else:
        say(f"next: {version} is not current; try sortline models compare, then sortline models promote {version}")
