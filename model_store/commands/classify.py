"""`sortline classify`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_store.commands.options import EngineFlag, ModelFlag, StoreFlag, open_model
from model_store.commands.output import with_progress
from shared.cli import JsonFlag, print_json

if TYPE_CHECKING:
    from model_store.bundle.files import Bundle
    from model_store.engines.protocol import Engine
    from model_store.evaluation.classify import Classified


def classify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="images, or folders of images")],
    model: ModelFlag = None,
    engine: EngineFlag = None,
    camera: Annotated[
        str, typer.Option(metavar="NAME", help="camera that took them; `*` is any camera without a region of its own")
    ] = "*",
    top: Annotated[int, typer.Option(min=0, metavar="N", help="also print the N most probable classes")] = 0,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Classify image files with a worker's decoder, model and policy, without a queue.

    A model that has a crop region per camera uses the region of --camera.

    A file that can't be used is reported with the reason. The others are still classified, and the exit code is 1.

    Example: sortline classify bottle.jpg photographs/ --model bottles@3
    """
    from model_store.evaluation.classify import classify_files, find_images
    from shared.settings import load_settings

    settings = load_settings(model=model, engine=engine, model_store=model_store)
    bundle, runner = open_model(settings)
    found = list(find_images(paths))
    answers = classify_files(found, bundle=bundle, engine=runner, settings=settings, camera=camera, top=top)
    if as_json or not sys.stdout.isatty():  # on a terminal, the printed lines show the progress
        answers = with_progress(answers, total=len(found), what="classifying")
    failed = _print_answers_json(answers, bundle=bundle, engine=runner) if as_json else _print_answers(answers)
    if failed:
        raise typer.Exit(1)


def _print_answers(answers: Iterable[Classified]) -> int:
    """Print one line per file, errors on standard error; returns the number of errors."""
    failed = 0
    for answer in answers:
        if answer.decision is None:
            failed += 1
            typer.echo(f"{answer.path}: {answer.error}", err=True)
        else:
            labels = ", ".join(f"{label} {probability:.3f}" for label, probability in answer.decision.labels)
            note = "  (uncertain)" if answer.decision.uncertain else ""
            print(f"{answer.path}  {labels}  -> {answer.decision.lane}{note}")
            for label, probability in answer.best:
                print(f"    {probability:.3f}  {label}")
    return failed


def _print_answers_json(answers: Iterable[Classified], *, bundle: Bundle, engine: Engine) -> int:
    """Print one JSON document with the model and every file; returns the number of errors."""
    images: list[dict[str, Any]] = []
    for answer in answers:
        labels = answer.decision.labels if answer.decision else ()
        images.append(
            {
                "file": str(answer.path),
                "labels": _labels_json(labels),
                "best": _labels_json(answer.best),
                "lane": answer.decision.lane if answer.decision else None,
                "uncertain": answer.decision.uncertain if answer.decision else None,
                "error": answer.error,
            }
        )
    print_json({"model": bundle.ref(engine.name).model_dump(), "images": images})
    return sum(image["error"] is not None for image in images)


def _labels_json(labels: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"label": label, "probability": probability} for label, probability in labels]
