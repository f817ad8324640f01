"""`sortline models list` and `models verify`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_store.commands.options import StoreFlag, open_store_of
from model_store.commands.output import with_progress
from shared.cli import JsonFlag, print_json
from shared.messages import say

if TYPE_CHECKING:
    from model_store.bundle.files import Bundle
    from model_store.engines.protocol import EngineName
    from model_store.registry.store import ModelStore

# More classes than this, as an imported classifier has, would fill the screen.
_MANY_CLASSES = 20


def list_models(model_store: StoreFlag = None, as_json: JsonFlag = False) -> None:
    """List the published versions of every model; a star marks the current one, and a canary is shown with its share.

    A model with a fault gets a row with the error. The other models are still listed, and the exit code is 1.

    Example: sortline models list
    """
    from model_store.registry.listing import list_versions

    store = open_store_of(model_store)
    rows = list_versions(store)
    if as_json:
        print_json(rows)
    elif rows:
        print_models(rows)
    else:
        say(f"The model store {store.location} is empty. Train a model with `sortline train`.")
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


def verify_models(
    model: Annotated[
        str | None, typer.Argument(metavar="[NAME[@VERSION]]", help="if left out, all versions of all models")
    ] = None,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Check every file's digest, and replay the golden images with every engine that can run here.

    Also finds versions that no other command shows because they are incomplete.

    Example: sortline models verify bottles@3
    """
    store = open_store_of(model_store)
    targets = _verify_targets(store, model)
    checks = [
        {"model": f"{name}@{version}", "check": check, "error": error}
        for name, version in with_progress(targets, total=len(targets), what="verifying")
        for check, error in _verify(store, name, version)
    ]
    if as_json:
        print_json(checks)
    else:
        for entry in checks:
            say(f"{entry['model']}  {entry['check']}: {entry['error'] or 'ok'}")
        if not checks:
            say(f"The model store {store.location} is empty. Train a model with `sortline train`.")
    if any(entry["error"] for entry in checks):
        raise typer.Exit(1)


def print_models(rows: list[dict[str, Any]]) -> None:
    from shared.tables import plain_console, print_table

    console = plain_console()
    headings = ("model", "current", "mode", "classes", "created (UTC)", "accuracy", "macro F1")
    shown = [
        (
            _spec(row),
            _mark(row),
            row["mode"] or "",
            _in_brief(row["classes"] or []),
            _format_time(row["created_at"]) if row["created_at"] else "",
            *("" if row[metric] is None else f"{row[metric]:.3f}" for metric in ("accuracy", "macro_f1")),
        )
        for row in rows
    ]
    print_table(console, headings, shown, text=range(5))
    for row in rows:
        if row["error"]:
            console.print(f"{_spec(row)}: {row['error']}", soft_wrap=True)


def _spec(row: dict[str, Any]) -> str:
    return str(row["name"]) if row["version"] is None else f"{row['name']}@{row['version']}"


def _mark(row: dict[str, Any]) -> str:
    if row["canary"]:
        return f"{'shadow' if row['canary']['shadow'] else 'canary'} {row['canary']['share']:.0%}"
    return "*" if row["current"] else ""


def _in_brief(classes: list[str]) -> str:
    """All classes; of more than _MANY_CLASSES only the number and the first few."""
    if len(classes) <= _MANY_CLASSES:
        return ", ".join(classes)
    return f"{len(classes):,} classes: {', '.join(classes[:3])}, …"


def _verify_targets(store: ModelStore, model: str | None) -> list[tuple[str, int]]:
    """(name, version) of the versions to verify, incomplete ones included."""
    from model_store.registry.store import parse_spec

    if model is None:
        return [(name, version) for name in store.model_folders() for version in store.version_numbers(name)]
    name, version = parse_spec(model)
    if version is None:
        version = store.current(name)
    if version not in store.version_numbers(name):
        store.resolve(model)  # raises, and lists what there is
    return [(name, version)]


def _verify(store: ModelStore, name: str, version: int) -> Iterator[tuple[str, str | None]]:
    """Yields (check, error or None) for each check of a version."""
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


def _format_time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
