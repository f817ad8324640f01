"""`sortline models list` and `models verify`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_store.commands.options import StoreFlag, open_store_by_flag
from model_store.commands.output import with_progress
from shared.cli import JsonFlag, print_json
from shared.messages import say

if TYPE_CHECKING:
    from model_store.bundle.files import Bundle
    from model_store.engines.protocol import EngineName
    from model_store.registry.store import ModelStore

# More classes than this, as an imported classifier has, would fill the screen.
_MANY_CLASSES = 20
# Of a key's id, in the list: as many as the column's heading is wide.
_ID_DIGITS = 8


def list_models(model_store: StoreFlag = None, as_json: JsonFlag = False) -> None:
    """List the published versions of every model; a star marks the current one, and a canary is shown with its share.

    A model with a fault gets a row with the error. The other models are still listed, and the exit code is 1. The
    column `signed by` has the beginnings of keys' ids; `models verify` checks the signatures.

    Example: sortline models list
    """
    from model_store.registry.listing import list_versions

    store = open_store_by_flag(model_store)
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
    """Check every file's digest, the signatures, and replay the golden images with every engine that can run here.

    If trusted_keys is set, a version that none of these keys has signed is an error.
    Also finds versions that no other command shows because they are incomplete.

    Example: sortline models verify bottles@3
    """
    store = open_store_by_flag(model_store)
    targets = _verify_targets(store, model)
    checks = [
        {"model": f"{name}@{version}"} | check.as_dict()
        for name, version in with_progress(targets, total=len(targets), what="verifying")
        for check in _verify(store, name, version)
    ]
    if as_json:
        print_json(checks)
    else:
        for entry in checks:
            signed = f", signed by {', '.join(entry['signed_by'])}" if entry.get("signed_by") else ""
            say(f"{entry['model']}  {entry['check']}: {entry['error'] or 'ok'}{signed}")
        if not checks:
            say(f"The model store {store.location} is empty. Train a model with `sortline train`.")
    if any(entry["error"] for entry in checks):
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Check:
    """One check of a version: what was checked, why it failed if it did, and the ids of the keys that signed it."""

    check: str
    error: str | None = None
    signed_by: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        signed = {"signed_by": self.signed_by} if self.signed_by else {}
        return {"check": self.check, "error": self.error} | signed


def print_models(rows: list[dict[str, Any]]) -> None:
    from shared.tables import plain_console, print_table

    console = plain_console()
    headings = ["model", "current", "mode", "classes", "created (UTC)", "accuracy", "macro F1"]
    if has_signed := any(row["signed_by"] for row in rows):
        headings.append("signed by")
    shown = [
        (
            _spec(row),
            _mark(row),
            row["mode"] or "",
            _in_brief(row["classes"] or []),
            _format_time(row["created_at"]) if row["created_at"] else "",
            *("" if row[metric] is None else f"{row[metric]:.3f}" for metric in ("accuracy", "macro_f1")),
            *([_ids(row["signed_by"])] if has_signed else []),
        )
        for row in rows
    ]
    # What is shown of an id is like a figure: it stays whole, so that it can be copied.
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


def _ids(key_ids: list[str]) -> str:
    """The beginning of the first id, and how many more there are: `models show` and --json have them all."""
    more = len(key_ids) - 1
    return "".join(key_id[:_ID_DIGITS] for key_id in key_ids[:1]) + (f" +{more}" if more > 0 else "")


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


def _verify(store: ModelStore, name: str, version: int) -> Iterator[_Check]:
    """Yields each check of a version."""
    from model_store.bundle.files import signers
    from model_store.engines.loading import runnable_engines
    from shared.errors import BadSignature, SortlineError

    try:
        store.check(name, version)
        bundle = store.open(f"{name}@{version}")
        signed_by = [key.id for key in signers(bundle.path)]
    except BadSignature as error:
        yield _Check("signature", str(error))
        return
    except SortlineError as error:
        yield _Check("files", str(error))
        return
    yield _Check("files")
    if signed_by:
        yield _Check("signature", signed_by=signed_by)
    for engine in runnable_engines():
        yield _Check(engine, _engine_error(bundle, engine))


def _engine_error(bundle: Bundle, engine: EngineName) -> str | None:
    """Why the engine can't run the version. A process of its own loads it: a hostile model crashes its engine."""
    from model_store.engines.isolated_load import isolated_load_error
    from shared.errors import EngineFailed

    try:
        return isolated_load_error(bundle, engine)
    except EngineFailed as error:
        return str(error)


def _format_time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
