"""`sortline torture`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.terminal import JsonFlag, print_json

CAMPAIGNS = ("kills", "stops", "server", "overload", "poison", "forged")
ENGINES = ("null", "real")


def add_to(app: typer.Typer) -> None:
    """Add `torture`."""
    app.command("torture")(torture)


def torture(
    campaigns: Annotated[list[str] | None, typer.Argument(help=f"which: {', '.join(CAMPAIGNS)}, or all")] = None,
    kills: Annotated[int, typer.Option(min=1, help="`kills`: how many processes are killed")] = 100,
    seconds: Annotated[float, typer.Option(min=1, help="how long each of the other campaigns lasts")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="makes the random choices of an earlier run again")] = None,
    engine: Annotated[str, typer.Option(help="null or real")] = "null",
    redis_url: Annotated[str | None, typer.Option(help="an EMPTY server; an embedded one by default")] = None,
    flush: Annotated[bool, typer.Option("--flush", help="empty the server that --redis-url names")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="keep logs and ledgers here; without it they go when every promise was kept")
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """Kill, stop and cut workers, producers and the server while they sort, and check every image.

    Each image whose submission was acknowledged must have exactly one result, and nothing may be left behind. Exit code
    1 when a promise was broken.

    Example: sortline torture kills --kills 1000
    """
    import secrets
    import shutil
    import tempfile

    from rich.console import Console

    from torture.campaigns.base import Limits
    from torture.report import as_json, print_reports
    from torture.run import run_campaigns

    chosen = list(CAMPAIGNS) if not campaigns or "all" in campaigns else campaigns
    if unknown := [name for name in chosen if name not in CAMPAIGNS]:
        raise typer.BadParameter(f"no campaign {unknown[0]!r}: choose of {', '.join(CAMPAIGNS)}, or all.")
    if engine not in ENGINES:
        raise typer.BadParameter(f"no engine {engine!r}: choose of {', '.join(ENGINES)}.")
    seed = secrets.randbits(32) if seed is None else seed
    kept = folder or Path(tempfile.mkdtemp(prefix="sortline-torture-"))
    with Console(stderr=True).status("torture") as status:
        reports = run_campaigns(
            chosen,
            Limits(kills=kills, seconds=seconds),
            engine=engine,
            seed=seed,
            flags={"redis_url": redis_url, "flush": flush},
            folder=kept,
            say=status.update,
        )
    if json_output:
        print_json(as_json(reports, seed=seed))
    else:
        print_reports(reports, seed=seed)
    if any(report.breaches for report in reports):
        Console(stderr=True).print(f"logs and ledgers: {kept}", highlight=False)
        raise typer.Exit(1)
    if folder is None:
        shutil.rmtree(kept)
