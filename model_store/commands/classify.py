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
from shared.messages import note, say

if TYPE_CHECKING:
    from model_store.bundle.files import Bundle
    from model_store.engines.protocol import Engine
    from model_store.evaluation.classify import Classified
    from shared.settings import Settings


def classify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="images, or folders of images")],
    model: ModelFlag = None,
    engine: EngineFlag = None,
    camera: Annotated[
        str, typer.Option(metavar="NAME", help="camera that took them; `*` is any camera without a region of its own")
    ] = "*",
    top: Annotated[int, typer.Option(min=0, metavar="N", help="also print the N most probable classes")] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="write the answers as CSV")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="write a page with the images and answers")] = None,
    grid: Annotated[Path | None, typer.Option("--grid", help="write one PNG with the images and answers")] = None,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Classify image files with a worker's decoder, model and policy, without a queue.

    A model that has a crop region per camera uses the region of --camera.

    A file that can't be used is reported with the reason. The others are still classified, and the exit code is 1. In
    folders, hidden files and those of the system such as @eaDir are left out, and counted.

    Example: sortline classify bottle.jpg photographs/ --model bottles@3 --grid answers.png
    """
    from model_store.evaluation.classify import classify_files, find_images
    from shared.settings import load_settings

    settings = load_settings(model=model, engine=engine, model_store=model_store)
    found = list(find_images(paths))
    _check_outputs(found, out=out, html=html, grid=grid)
    bundle, runner = open_model(settings)
    answers: Iterable[Classified] = classify_files(
        found, bundle=bundle, engine=runner, settings=settings, camera=camera, top=top
    )
    to_files = bool(out or html or grid)
    if to_files or as_json or not sys.stdout.isatty():  # otherwise the printed lines show the progress
        answers = with_progress(answers, total=len(found), what="classifying")
    written = list(answers) if to_files else []  # otherwise the answers need not stay in memory
    answers = written or answers
    try:
        failed = _print_answers_json(answers, bundle=bundle, engine=runner) if as_json else _print_answers(answers)
    finally:  # also if the reader of the printed lines has ended, e.g. `head`
        if to_files:
            _write(written, bundle, runner, settings=settings, out=out, html=html, grid=grid)
    if failed:
        raise typer.Exit(1)


def _check_outputs(images: list[Path], *, out: Path | None, html: Path | None, grid: Path | None) -> None:
    """Raise before the first image is read if one of the output files can't be written."""
    from importlib.util import find_spec

    from shared.errors import BadSetting, NotFound
    from shared.output_files import check_output_files

    outputs = {"--out": out, "--html": html, "--grid": grid}
    check_output_files(outputs, inputs=images, image_flags=("--grid",))
    # Names in /dev are outputs such as /dev/stdout.
    if grid is not None and grid.suffix.lower() != ".png" and not grid.is_relative_to("/dev"):
        raise BadSetting(f"--grid {grid} would be a PNG under another name. Name a file that ends in .png.")
    for flag, path, package in (("--html", html, "jinja2"), ("--grid", grid, "matplotlib")):
        if path is not None and not find_spec(package):
            raise NotFound(f"{flag} needs {package}, which is not installed: run pip install 'sortline[train]'.")


def _write(
    answers: list[Classified],
    bundle: Bundle,
    engine: Engine,
    *,
    settings: Settings,
    out: Path | None,
    html: Path | None,
    grid: Path | None,
) -> None:
    """Write the output files that the user asked for."""
    from model_store.bundle.preprocessing import decoder_of
    from model_store.reports.classified_output import write_csv, write_grid, write_html

    decoder, ref = decoder_of(bundle.manifest, settings), bundle.ref(engine.name)
    model = f"{ref.name}@{ref.version} ({ref.engine})"
    if out is not None:
        write_csv(out, answers)
    if html is not None:
        write_html(html, answers, model=model, decoder=decoder)
    if grid is not None:
        write_grid(grid, answers, model=model, decoder=decoder)


def _print_answers(answers: Iterable[Classified]) -> int:
    """Print one line per file, errors on standard error; returns the number of errors."""
    failed = 0
    for answer in answers:
        if answer.decision is None:
            failed += 1
            note(f"{answer.name}: {answer.error}")
        else:
            labels = ", ".join(f"{label} {probability:.3f}" for label, probability in answer.decision.labels)
            mark = "  (uncertain)" if answer.decision.uncertain else ""
            say(f"{answer.name}  {labels}  -> {answer.decision.lane}{mark}")
            for label, probability in answer.best:
                say(f"    {probability:.3f}  {label}")
    return failed


def _print_answers_json(answers: Iterable[Classified], *, bundle: Bundle, engine: Engine) -> int:
    """Print one JSON document with the model and every file; returns the number of errors."""
    images: list[dict[str, Any]] = []
    for answer in answers:
        labels = answer.decision.labels if answer.decision else ()
        images.append(
            {
                "file": answer.name,
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
