"""`sortline models canary`: try a version on a share of the images before it is promoted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from model_store.commands.options import StoreFlag, open_store_with_load_check
from shared.cli import JsonFlag, RedisUrl, print_json
from shared.messages import note, say

if TYPE_CHECKING:
    from model_store.registry.canary import Canary
    from model_store.registry.canary_totals import CanaryTotals
    from model_store.registry.store import ModelStore

# The counts are an addition to what the store says, so the command doesn't wait long for them: this time for the
# connection, and again for the answer.
_COUNTS_TIMEOUT_S = 2.0


def canary(
    model: Annotated[
        str,
        typer.Argument(metavar="NAME[@VERSION]", help="version to try; without --share or --stop: show the canary"),
    ],
    share: Annotated[float | None, typer.Option(help="share of the images, above 0 up to 1")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="only record its answers; don't act on them")] = False,
    max_disagreement: Annotated[
        float,
        typer.Option(help="end by itself when more than this share of the compared images is answered differently"),
    ] = 0.1,
    min_images: Annotated[
        int, typer.Option(help="until this many images are compared, the share is taken of this number")
    ] = 200,
    lines: Annotated[str | None, typer.Option(help="only on these lines, e.g. line-1,line-2 (default: all)")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="end the canary")] = False,
    model_store: StoreFlag = None,
    redis_url: RedisUrl = None,
    as_json: JsonFlag = False,
) -> None:
    """Try a version on a share of the images before it is promoted. With --shadow its answers are only recorded.

    The current version also answers each of these images, and the answers are compared. Promoting the version ends the
    canary. With only the model's name, the command shows how many images were compared and how many of them were
    answered differently; when no canary is running, it shows this for the one that ended last, and why it was stopped.

    Example: sortline models canary bottles@4 --share 0.1 --lines line-1; sortline models canary bottles --stop
    """
    from model_store.registry.store import parse_spec
    from shared.errors import BadSetting
    from shared.settings import load_settings

    settings = load_settings(model_store=model_store, redis_url=redis_url)
    store = open_store_with_load_check(settings)
    name, version = parse_spec(model)
    if stop and share is not None:
        raise BadSetting("--stop ends a canary and --share starts one: give one of them.")
    if stop:
        _stop_canary(store, name, as_json=as_json)
    elif share is None:
        _show_canary(store, settings.redis_url, name=name, as_json=as_json)
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
        _show_canary(store, settings.redis_url, name=name, as_json=as_json)


def _checked_canary(
    *, version: int, share: float, shadow: bool, max_disagreement: float, min_images: int, lines: tuple[str, ...]
) -> Canary:
    from pydantic import ValidationError

    from model_store.registry.canary import Canary
    from shared.errors import BadSetting
    from shared.validation_messages import describe_problem

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
        raise BadSetting(f"--{flag} {problem['input']!r}: {describe_problem(problem)}.") from error


def _stop_canary(store: ModelStore, name: str, *, as_json: bool) -> None:
    stopped = store.clear_canary(name)
    if as_json:
        print_json({"name": name, "stopped": stopped})
    else:
        say(f"stopped the canary of {name}" if stopped else f"{name} has no canary")


def _show_canary(store: ModelStore, redis_url: str, *, name: str, as_json: bool) -> None:
    current, running = store.current(name), store.canary(name)
    shown = running or store.ended_canary(name)
    totals = _totals(shown, redis_url, name=name) if shown else None
    counted = totals if totals and totals.compared else None  # 0 would say that nothing was compared on any server
    if as_json:
        print_json(
            {
                "name": name,
                "current": current,
                "canary": running and running.model_dump(mode="json"),
                "ended": shown.model_dump(mode="json") if shown and not running else None,
                "compared": counted and counted.compared,
                "disagreed": counted and counted.disagreed,
                "stopped": totals and totals.stopped,
            }
        )
    elif running is None:
        say(f"{name} has no canary; {name}@{current} is current")
        if shown is not None and totals is not None:
            say(f"{name}@{shown.version} was tried before: {_describe_ended(totals)}")
    else:
        _print_running(running, totals, name=name, current=current)


def _print_running(canary: Canary, totals: CanaryTotals | None, *, name: str, current: int | None) -> None:
    lines = ", ".join(canary.lines) or "every line"
    acts = "only recorded and compared" if canary.shadow else "compared"
    say(f"{name}@{canary.version} takes {canary.share:.1%} of the images of {lines}, {acts} with {name}@{current}")
    if totals is not None and (reason := _reason(totals)):
        say(f"{reason}. The store still names it; to remove it: sortline models canary {name} --stop")
        return
    if totals is not None:
        say(f"so far {totals}")
    least = math.floor(canary.max_disagreement * canary.min_images) + 1
    say(
        f"it is stopped when more than {100 * canary.max_disagreement:g}% of the compared images, at least "
        f"{least:,} of them, are answered differently"
    )


def _describe_ended(totals: CanaryTotals) -> str:
    from model_store.registry.canary_totals import KEEP_S

    kept = "" if totals.compared else f" (they are kept for {KEEP_S // 86_400} days)"
    return _reason(totals) or f"{totals}{kept}"


def _reason(totals: CanaryTotals) -> str:
    """Why the workers stopped the canary; empty if they did not."""
    reason, _, words = (totals.stopped or "").partition(": ")
    return f"the workers stopped it ({reason}): {words}" if reason else ""


def _totals(canary: Canary, redis_url: str, *, name: str) -> CanaryTotals | None:
    """Read the counts from the Redis server. If that fails, says why on standard error and returns None."""
    from model_store.registry.canary_totals import read_totals
    from shared.errors import SortlineError
    from shared.server.connection import connect
    from shared.server.error_translation import server_errors

    try:
        with connect(redis_url, socket_timeout_s=_COUNTS_TIMEOUT_S) as client, server_errors(redis_url):
            return read_totals(client, name, canary)
    except SortlineError as error:
        note(f"the number of compared images can't be read: {error}")
        return None
