"""The commands that change the model store: `models publish`, `promote`, `rollback`, `prune`, `canary`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_store.commands.options import StoreFlag, open_store_of
from shared.cli import JsonFlag, print_json

if TYPE_CHECKING:
    from model_store.registry.canary import Canary
    from model_store.registry.store import ModelStore

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="model in the store")]
VersionArgument = Annotated[str, typer.Argument(metavar="NAME@VERSION", help="published version, see `models list`")]


def publish_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a version's folder, as another store holds it")],
    name: Annotated[str | None, typer.Option(help="model to publish it as (default: the bundle's own name)")] = None,
    no_promote: Annotated[bool, typer.Option("--no-promote", help="leave the current version as it is")] = False,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Publish a bundle that was made elsewhere as the model's next version, after checking every file of it.

    Its name, its number and its parent become those of this store; everything else stays.

    Example: sortline models publish /mnt/stick/models/bottles/000003 --no-promote
    """
    from model_store.bundle.files import read_manifest
    from model_store.registry.store import copy_bundle

    _must_hold_a_bundle(folder)
    store = open_store_of(model_store)
    chosen = name if name is not None else read_manifest(folder).name
    previous = store.pointer(chosen)
    path = store.publish(chosen, copy_bundle(folder, chosen), promote=not no_promote)
    manifest = read_manifest(path)
    published = f"{chosen}@{manifest.version}"
    if as_json:
        print_json(
            {
                "name": chosen,
                "version": manifest.version,
                "parent": manifest.parent,
                "previous": previous,
                "promoted": not no_promote,
                "path": str(path),
            }
        )
    elif no_promote:
        print(f"published {published}: {path}")
        print(f"next: sortline models canary {published} --share 0.1, or sortline models promote {published}")
    else:
        print(f"published {published}, current now{_instead_of(chosen, previous)}: {path}")


def promote(model: VersionArgument, model_store: StoreFlag = None, as_json: JsonFlag = False) -> None:
    """Make a version current, after checking every byte of it; running workers take it over within seconds.

    Example: sortline models promote bottles@3
    """
    store = open_store_of(model_store)
    name, version = _name_and_version(model)
    previous = store.pointer(name)
    doubt = _lower_f1(store, name, version, previous)
    store.promote(name, version)
    if doubt:
        typer.echo(f"sortline: {doubt}", err=True)
    if as_json:
        print_json({"name": name, "version": version, "previous": previous, "warning": doubt})
    else:
        print(f"{name}@{version} is current{_instead_of(name, previous, but=version)}")


def rollback(name: NameArgument, model_store: StoreFlag = None, as_json: JsonFlag = False) -> None:
    """Make current again what was so before: the newest earlier version whose every byte is as published.

    A second rollback goes further back. `models promote` undoes one.

    Example: sortline models rollback bottles
    """
    store = open_store_of(model_store)
    previous = store.pointer(name)
    version = store.rollback(name)
    if as_json:
        print_json({"name": name, "version": version, "previous": previous})
    else:
        print(f"{name}@{version} is current{_instead_of(name, previous)}")


def prune(
    name: NameArgument,
    keep: Annotated[int, typer.Option(min=1, help="newest versions to keep")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be deleted")] = False,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete old versions.

    Whatever their age, the current version, the one that a rollback goes to, and a canary stay. A worker that
    has a deleted version loaded goes on with it.

    Example: sortline models prune bottles --keep 5 --dry-run
    """
    store = open_store_of(model_store)
    deleted = store.prune(name, keep, dry_run=dry_run)
    kept = [version for version in store.versions(name) if version not in deleted]
    if as_json:
        print_json({"name": name, "deleted": deleted, "kept": kept, "dry_run": dry_run})
        return
    what = "would delete" if dry_run else "deleted"
    print(f"{what} {_listed(name, deleted)}; {'would keep' if dry_run else 'kept'} {_listed(name, kept)}")


def canary(
    model: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="version to try; without --share or --stop: what is on")
    ],
    share: Annotated[float | None, typer.Option(help="share of the images, above 0 up to 1")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="record its answers, don't act on them")] = False,
    max_disagreement: Annotated[
        float, typer.Option(help="ends by itself when more than this share is answered differently")
    ] = 0.1,
    min_images: Annotated[int, typer.Option(help="compared images that share is of, at the least")] = 200,
    lines: Annotated[str | None, typer.Option(help="only on these lines, e.g. line-1,line-2 (default: all)")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="end the trial that is on")] = False,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Try a version on a share of the images before it is promoted: acting on them, or with --shadow beside.

    Every such image is answered by the current version too, and the answers are compared. Promoting the version
    ends the trial.

    Example: sortline models canary bottles@4 --share 0.1 --lines line-1; sortline models canary bottles --stop
    """
    from model_store.registry.store import parse_spec
    from shared.errors import BadSetting

    store = open_store_of(model_store)
    name, version = parse_spec(model)
    if stop and share is not None:
        raise BadSetting("--stop ends a trial, --share starts one: give one of them.")
    if stop:
        _stop_canary(store, name, as_json=as_json)
    elif share is None:
        _show_canary(store, name, as_json=as_json)
    elif version is None:
        raise BadSetting(f"canary {model!r}: name the version to try, e.g. {name}@4.")
    else:
        intent = _canary(
            version=version,
            share=share,
            shadow=shadow,
            max_disagreement=max_disagreement,
            min_images=min_images,
            lines=tuple(line.strip() for line in (lines or "").split(",") if line.strip()),
        )
        store.set_canary(name, intent)
        _show_canary(store, name, as_json=as_json)


def _must_hold_a_bundle(folder: Path) -> None:
    from model_store.bundle.manifest import MANIFEST_FILE
    from shared.errors import BadBundle, NotFound

    wanted = "Give a version's folder, as models/bottles/000003 of another store."
    if not os.path.isdir(folder):
        raise NotFound(f"{folder} is not there, or is no folder. {wanted}")
    if not os.path.isfile(folder / MANIFEST_FILE):
        raise BadBundle(f"{folder} is no bundle: it has no {MANIFEST_FILE}. {wanted}")


def _name_and_version(model: str) -> tuple[str, int]:
    from model_store.registry.store import parse_spec
    from shared.errors import BadSetting

    name, version = parse_spec(model)
    if version is None:
        raise BadSetting(f"model {model!r}: name the version too, e.g. {name}@3; see `sortline models list`.")
    return name, version


def _lower_f1(store: ModelStore, name: str, version: int, previous: int | None) -> str | None:
    """A sentence when the manifests say that what is promoted does worse than what is current."""
    figures = []
    for number in (version, previous):
        manifest = None if number is None else store.manifest(name, number)
        figures.append(None if manifest is None else manifest.metrics.get("macro_f1"))
    new, old = figures
    if new is None or old is None or new >= old:
        return None
    return (
        f"{name}@{version} has a macro F1 of {new:.3f}, {name}@{previous} had {old:.3f}, each on validation images of "
        "its own: `sortline models compare` does on the same ones."
    )


def _canary(**values: Any) -> Canary:
    from pydantic import ValidationError

    from model_store.registry.canary import Canary
    from shared.errors import BadSetting

    try:
        return Canary(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        flag = str(problem["loc"][0]).replace("_", "-")
        raise BadSetting(f"--{flag} {problem['input']!r}: {problem['msg']}.") from error


def _stop_canary(store: ModelStore, name: str, *, as_json: bool) -> None:
    stopped = store.clear_canary(name)
    if as_json:
        print_json({"name": name, "stopped": stopped})
    else:
        print(f"the canary of {name} is stopped" if stopped else f"{name} has no canary")


def _show_canary(store: ModelStore, name: str, *, as_json: bool) -> None:
    current, intent = store.current(name), store.canary(name)
    if as_json:
        print_json({"name": name, "current": current, "canary": intent and intent.model_dump(mode="json")})
    elif intent is None:
        print(f"{name} has no canary; {name}@{current} is current")
    else:
        lines = ", ".join(intent.lines) or "every line"
        acts = f"compared with {name}@{current}, not acted on" if intent.shadow else f"beside {name}@{current}"
        print(f"{name}@{intent.version} takes {intent.share:.1%} of the images of {lines}, {acts}")
        print(f"it ends when more than {intent.max_disagreement:.1%} of at least {intent.min_images} images differ")


def _instead_of(name: str, previous: int | None, *, but: int | None = None) -> str:
    return "" if previous in (None, but) else f", {name}@{previous} was"


def _listed(name: str, versions: list[int]) -> str:
    return ", ".join(f"{name}@{version}" for version in versions) or "nothing"
