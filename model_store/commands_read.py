"""`classify`, `models list` and `models verify`, and the flags of all commands that read the model store."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from shared.cli import JsonFlag, print_json

if TYPE_CHECKING:
    from model_store.bundle.files import Bundle
    from model_store.engines.loading import Engine, EngineName
    from model_store.evaluation.classify import Classified
    from model_store.registry.registry import ModelStore

T = TypeVar("T")

# More are an imported classifier's, and would fill a screen.
_MANY_CLASSES = 20

StoreFlag = Annotated[str | None, typer.Option("--model-store", help="folder or URL of published models")]
ModelFlag = Annotated[str | None, typer.Option("--model", help="NAME or NAME@VERSION")]
EngineFlag = Annotated[
    str | None, typer.Option("--engine", help="auto, litert, litert-fp32, tensorflow or tensorflow-mixed")
]
ModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME[@VERSION]]", help="NAME stands for its current version; the setting `model` if left out"
    ),
]


def add_to(app: typer.Typer) -> typer.Typer:
    """Register the commands; returns the sub-command `models`, for others to add to."""
    from model_store import (
        commands_compare,
        commands_dataset,
        commands_show,
        commands_store,
    )  # have their flags from here

    app.command("classify")(classify)
    models = typer.Typer(no_args_is_help=True, help="The published models.")
    models.command("list")(list_models)
    models.command("verify")(verify_models)
    commands_show.add_to(models)
    commands_compare.add_to(models)
    commands_dataset.add_to(models)
    commands_store.add_to(models)
    app.add_typer(models, name="models")
    return models


def classify(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="images, or folders of images")],
    model: ModelFlag = None,
    engine: EngineFlag = None,
    camera: Annotated[
        str, typer.Option(metavar="NAME", help="the camera that took them; `*` is any without a region of its own")
    ] = "*",
    top: Annotated[int, typer.Option(min=0, metavar="N", help="print the N most probable classes too")] = 0,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Classify image files, straight through decoder, model and policy, without a queue.

    A model that looks at another part of each camera's pictures takes that of --camera.

    A file that can't be used is reported with the reason, the others are still classified, and the exit
    code is 1.

    Example: sortline classify bottle.jpg photographs/ --model bottles@3
    """
    from model_store.bundle.files import open_bundle
    from model_store.engines.loading import open_engine
    from model_store.evaluation.classify import classify_files, find_images
    from model_store.registry.registry import open_store
    from shared.settings import load_settings

    settings = load_settings(model=model, engine=engine, model_store=model_store)
    bundle = open_bundle(open_store(settings).resolve(settings.model))
    runner = open_engine(
        bundle,
        settings.engine,
        threads=settings.engine_threads,
        max_batch=settings.max_batch,
        xla=settings.tensorflow_xla,
    )
    found = list(find_images(paths))
    answers = classify_files(found, bundle=bundle, engine=runner, settings=settings, camera=camera, top=top)
    if as_json or not sys.stdout.isatty():  # else the lines themselves show how far it is
        answers = _with_progress(answers, total=len(found), what="classifying")
    failed = _print_answers_json(answers, bundle=bundle, engine=runner) if as_json else _print_answers(answers)
    if failed:
        raise typer.Exit(1)


def list_models(model_store: StoreFlag = None, as_json: JsonFlag = False) -> None:
    """List the published versions of every model; a star marks the current one, and a canary its share.

    What is wrong with a model is a row of its own, the others are still listed, and the exit code is 1.

    Example: sortline models list
    """
    from model_store.registry.listing import listed

    store = _store(model_store)
    rows = listed(store)
    if as_json:
        print_json(rows)
    elif rows:
        _print_models(rows)
    else:
        print(f"The model store {store.where} is empty. Train a model with `sortline train`.")
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


def verify_models(
    model: Annotated[str | None, typer.Argument(metavar="[NAME[@VERSION]]", help="all versions if left out")] = None,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Check every file's digest, and replay the golden images with every engine that can run here.

    Also finds versions that no other command shows because they are incomplete.

    Example: sortline models verify bottles@3
    """
    store = _store(model_store)
    targets = _verify_targets(store, model)
    checks = [
        {"model": f"{name}@{version}", "check": check, "error": error}
        for name, version in _with_progress(targets, total=len(targets), what="verifying")
        for check, error in _verify(store, name, version)
    ]
    if as_json:
        print_json(checks)
    else:
        for entry in checks:
            print(f"{entry['model']}  {entry['check']}: {entry['error'] or 'ok'}")
        if not checks:
            print(f"The model store {store.where} is empty. Train a model with `sortline train`.")
    if any(entry["error"] for entry in checks):
        raise typer.Exit(1)


def _store(flag: str | None) -> ModelStore:
    from model_store.registry.registry import open_store
    from shared.settings import load_settings

    return open_store(load_settings(model_store=flag))


def _with_progress(items: Iterable[T], *, total: int, what: str) -> Iterator[T]:
    """The same items, with a bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    # By itself rich sends what is printed to standard output meanwhile to its own console: standard error.
    with Progress(console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal) as progress:
        yield from progress.track(items, total=total, description=what)


def _print_answers(answers: Iterable[Classified]) -> int:
    """One line per file as it comes, broken ones on standard error; how many were broken."""
    failed = 0
    for answer in answers:
        if answer.decision is None:
            failed += 1
            typer.echo(f"{answer.path}: {answer.error}", err=True)
        else:
            labels = ", ".join(f"{label} {probability:.3f}" for label, probability in answer.decision.labels)
            doubt = "  (uncertain)" if answer.decision.uncertain else ""
            print(f"{answer.path}  {labels}  -> {answer.decision.lane}{doubt}")
            for label, probability in answer.best:
                print(f"    {probability:.3f}  {label}")
    return failed


def _print_answers_json(answers: Iterable[Classified], *, bundle: Bundle, engine: Engine) -> int:
    """One document with the model and every file; how many were broken."""
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


def _print_models(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Where nobody looks (a pipe, a file) nothing is cut to a screen's width.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    table = Table("model", "current", "mode", "classes", "created (UTC)", "accuracy", "macro F1", box=None)
    if any(row["error"] for row in rows):
        table.add_column("error")
    for row in rows:
        table.add_row(
            row["name"] if row["version"] is None else f"{row['name']}@{row['version']}",
            _mark(row),
            row["mode"],
            _in_brief(row["classes"] or []),
            _when(row["created_at"]) if row["created_at"] else "",
            *("" if row[figure] is None else f"{row[figure]:.3f}" for figure in ("accuracy", "macro_f1")),
            *([escape(row["error"])] if row["error"] else []),
        )
    console.print(table)


def _mark(row: dict[str, Any]) -> str:
    if row["canary"]:
        return f"{'shadow' if row['canary']['shadow'] else 'canary'} {row['canary']['share']:.0%}"
    return "*" if row["current"] else ""


def _in_brief(classes: list[str]) -> str:
    """All of a line's classes; of a thousand only the first and how many."""
    if len(classes) <= _MANY_CLASSES:
        return ", ".join(classes)
    return f"{len(classes):,} classes: {', '.join(classes[:3])}, …"


def _verify_targets(store: ModelStore, model: str | None) -> list[tuple[str, int]]:
    """(name, version) of what to verify: incomplete versions too."""
    from model_store.registry.registry import parse_spec

    if model is None:
        return [(name, version) for name in store.folders() for version in store.numbers(name)]
    name, version = parse_spec(model)
    if version is None:
        version = store.current(name)
    if version not in store.numbers(name):
        store.resolve(model)  # raises, and lists what there is
    return [(name, version)]


def _verify(store: ModelStore, name: str, version: int) -> Iterator[tuple[str, str | None]]:
    """(what was checked, what is wrong with it or None), one after the other."""
    from model_store.bundle.files import open_bundle
    from model_store.engines.loading import runnable_engines
    from shared.errors import SortlineError

    try:
        store.check(name, version)
        bundle = open_bundle(store.resolve(f"{name}@{version}"))
    except SortlineError as error:
        yield "files", str(error)
        return
    yield "files", None
    for engine in runnable_engines():
        yield engine, _verify_engine(bundle, engine)


def _verify_engine(bundle: Bundle, name: EngineName) -> str | None:
    from model_store.engines.loading import open_engine
    from shared.errors import SortlineError

    try:
        open_engine(bundle, name, threads=0, max_batch=1)
    except SortlineError as error:
        return str(error)
    return None


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"
