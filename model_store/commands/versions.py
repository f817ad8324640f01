"""The commands that change which versions a store has: `models publish`, `promote`, `rollback` and `prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model_store.commands.options import StoreFlag, decide_promotion, missing_classes_warning, open_store_by_flag
from shared.cli import JsonFlag, print_json
from shared.messages import note, say

if TYPE_CHECKING:
    from model_store.registry.store import ModelStore

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="model in the store")]
VersionArgument = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="published version, see `models list`")]


def publish_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="folder of a version, as in another store")],
    name: Annotated[str | None, typer.Option(help="model to publish it as (default: the bundle's own name)")] = None,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="publish without making it current")] = False,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Publish a bundle that was made elsewhere as the model's next version, after checking all of its files.

    It gets a name, number and parent in this store; everything else stays as it is.

    Example: sortline models publish /mnt/stick/models/bottles/000003 --no-promote
    """
    from model_store.bundle.files import read_manifest
    from model_store.registry.store import copy_bundle

    _check_is_bundle(folder)
    store = open_store_by_flag(model_store)
    chosen = name if name is not None else read_manifest(folder).name
    previous = store.pointer(chosen)
    promote = decide_promotion(store, no_promote=no_promote)
    path = store.publish(chosen, copy_bundle(folder, chosen), promote=promote)
    manifest = read_manifest(path)
    published = f"{chosen}@{manifest.version}"
    warnings = [] if not promote else _promotion_warnings(store, chosen, version=manifest.version, previous=previous)
    for warning in warnings:
        note(f"sortline: {warning}")
    if as_json:
        print_json(
            {
                "name": chosen,
                "version": manifest.version,
                "parent": manifest.parent,
                "previous": previous,
                "promoted": promote,
                "path": str(path),
                "warning": " ".join(warnings) or None,
            }
        )
    elif not promote:
        say(f"published {published}: {path}")
        if store.keys:
            say(f"next: sortline models sign {published} --key FILE (and --passphrase-file FILE, if it has one)")
        say(f"next: sortline models canary {published} --share 0.1, or sortline models promote {published}")
    else:
        say(f"published {published}, now current{_instead_of(chosen, previous)}: {path}")


def promote(model: VersionArgument, model_store: StoreFlag = None, as_json: JsonFlag = False) -> None:
    """Make a version current, after checking every byte of it; running workers switch to it within seconds.

    Example: sortline models promote bottles@3
    """
    store = open_store_by_flag(model_store)
    name, version = _name_and_version(model)
    previous = store.pointer(name)
    warnings = _promotion_warnings(store, name, version=version, previous=previous)
    store.promote(name, version)
    for warning in warnings:
        note(f"sortline: {warning}")
    if as_json:
        joined = " ".join(warnings) or None
        print_json({"name": name, "version": version, "previous": previous, "warning": joined})
    else:
        say(f"{name}@{version} is now current{_instead_of(name, previous if previous != version else None)}")


def rollback(name: NameArgument, model_store: StoreFlag = None, as_json: JsonFlag = False) -> None:
    """Go back to the newest earlier version whose files are all as they were published.

    A second rollback goes further back. To undo a rollback, promote the version again.

    Example: sortline models rollback bottles
    """
    store = open_store_by_flag(model_store)
    previous = store.pointer(name)
    version = store.rollback(name)
    if as_json:
        print_json({"name": name, "version": version, "previous": previous})
    else:
        say(f"{name}@{version} is now current{_instead_of(name, previous)}")


def prune(
    name: NameArgument,
    keep: Annotated[int, typer.Option(min=1, help="newest versions to keep")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only print what would be deleted")] = False,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete old versions.

    The current version, the target of a rollback, and a canary always stay. A worker that has loaded a deleted version
    keeps serving it.

    Example: sortline models prune bottles --keep 5 --dry-run
    """
    store = open_store_by_flag(model_store)
    deleted = store.prune(name, keep, dry_run=dry_run)
    kept = [version for version in store.versions(name) if version not in deleted]
    if as_json:
        print_json({"name": name, "deleted": deleted, "kept": kept, "dry_run": dry_run})
        return
    what = "would delete" if dry_run else "deleted"
    say(f"{what} {_join(name, deleted)}; {'would keep' if dry_run else 'kept'} {_join(name, kept)}")


def _check_is_bundle(folder: Path) -> None:
    from model_store.bundle.manifest import MANIFEST_FILE
    from shared.errors import BadBundle, NotFound
    from shared.file_kind import FileKind, kind_of

    advice = "Give a version's folder, such as models/bottles/000003 in another store."
    try:
        is_folder = kind_of(folder) is FileKind.FOLDER
        has_manifest = is_folder and kind_of(folder / MANIFEST_FILE) is FileKind.FILE
    except OSError as error:
        raise BadBundle(f"{folder} can't be read: {error.strerror}. {advice}") from error
    if not is_folder:
        raise NotFound(f"{folder} doesn't exist or is not a folder. {advice}")
    if not has_manifest:
        raise BadBundle(f"{folder} is not a bundle: it has no {MANIFEST_FILE}. {advice}")


def _name_and_version(model: str) -> tuple[str, int]:
    from model_store.registry.store import parse_spec
    from shared.errors import BadSetting

    name, version = parse_spec(model)
    if version is None:
        raise BadSetting(f"model {model!r}: name the version too, e.g. {name}@3; see `sortline models list`.")
    return name, version


def _promotion_warnings(store: ModelStore, name: str, *, version: int, previous: int | None) -> list[str]:
    """What to know before a version replaces the previous one on the lines."""
    found = (of(store, name, version=version, previous=previous) for of in (_lower_f1_warning, missing_classes_warning))
    return [warning for warning in found if warning]


def _lower_f1_warning(store: ModelStore, name: str, *, version: int, previous: int | None) -> str | None:
    """A warning if the promoted version has a lower macro F1 than the current one, by their manifests; else None."""
    scores = []
    for number in (version, previous):
        manifest = None if number is None else store.manifest(name, number)
        scores.append(None if manifest is None else manifest.metrics.get("macro_f1"))
    new, old = scores
    if new is None or old is None or new >= old:
        return None
    return (
        f"{name}@{version} has a macro F1 of {new:.3f}, {name}@{previous} had {old:.3f}, each on its own validation "
        "images. Use `sortline models compare` to compare them on the same images."
    )


def _instead_of(name: str, previous: int | None) -> str:
    return "" if previous is None else f" instead of {name}@{previous}"


def _join(name: str, versions: list[int]) -> str:
    return ", ".join(f"{name}@{version}" for version in versions) or "nothing"
