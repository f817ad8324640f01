"""`sortline models canary`: try a version on a share of the images before it is promoted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from model_store.commands.options import StoreFlag, open_store_of
from shared.cli import JsonFlag, print_json

if TYPE_CHECKING:
    from model_store.registry.canary import Canary
    from model_store.registry.store import ModelStore


def canary(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME[@VERSION]", help="version to try; without --share or --stop: show the canary"),
    ],
    share: Annotated[float | None, typer.Option(help="share of the images, above 0 up to 1")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="only record its answers; don't act on them")] = False,
    max_disagreement: Annotated[
        float, typer.Option(help="end by itself when more than this share is answered differently")
    ] = 0.1,
    min_images: Annotated[
        int, typer.Option(help="compare at least this many images before it may end by itself")
    ] = 200,
    lines: Annotated[str | None, typer.Option(help="only on these lines, e.g. line-1,line-2 (default: all)")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="end the canary")] = False,
    model_store: StoreFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Try a version on a share of the images before it is promoted. With --shadow its answers are only recorded.

    The current version also answers each of these images, and the answers are compared. Promoting the version ends the
    canary.

    Example: sortline models canary bottles@4 --share 0.1 --lines line-1; sortline models canary bottles --stop
    """
    from model_store.registry.store import parse_spec
    from shared.errors import BadSetting

    store = open_store_of(model_store)
    name, version = parse_spec(model)
    if stop and share is not None:
        raise BadSetting("--stop ends a canary and --share starts one: give one of them.")
    if stop:
        _stop_canary(store, name, as_json=as_json)
    elif share is None:
        _show_canary(store, name, as_json=as_json)
    elif version is None:
        raise BadSetting(f"canary {model!r}: name the version to try, e.g. {name}@4.")
    else:
        intent = _checked_canary(
            version=version,
            share=share,
            shadow=shadow,
            max_disagreement=max_disagreement,
            min_images=min_images,
            lines=tuple(line.strip() for line in (lines or "").split(",") if line.strip()),
        )
        store.set_canary(name, intent)
        _show_canary(store, name, as_json=as_json)


def _checked_canary(
    *, version: int, share: float, shadow: bool, max_disagreement: float, min_images: int, lines: tuple[str, ...]
) -> Canary:
    from pydantic import ValidationError

    from model_store.registry.canary import Canary
    from shared.errors import BadSetting

    try:
        return Canary(
            version=version,
            share=share,
            shadow=shadow,
            max_disagreement=max_disagreement,
            min_images=min_images,
            lines=lines,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        flag = str(problem["loc"][0]).replace("_", "-")
        raise BadSetting(f"--{flag} {problem['input']!r}: {problem['msg']}.") from error


def _stop_canary(store: ModelStore, name: str, *, as_json: bool) -> None:
    stopped = store.clear_canary(name)
    if as_json:
        print_json({"name": name, "stopped": stopped})
    else:
        print(f"stopped the canary of {name}" if stopped else f"{name} has no canary")


def _show_canary(store: ModelStore, name: str, *, as_json: bool) -> None:
    current, intent = store.current(name), store.canary(name)
    if as_json:
        print_json({"name": name, "current": current, "canary": intent and intent.model_dump(mode="json")})
    elif intent is None:
        print(f"{name} has no canary; {name}@{current} is current")
    else:
        lines = ", ".join(intent.lines) or "every line"
        acts = "only recorded and compared" if intent.shadow else "compared"
        print(
            f"{name}@{intent.version} takes {intent.share:.1%} of the images of {lines}, {acts} with {name}@{current}"
        )
        print(f"it ends when more than {intent.max_disagreement:.1%} of at least {intent.min_images} answers differ")
