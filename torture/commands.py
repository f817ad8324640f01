"""`sortline torture`."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from shared.cli import ARGUMENTS_ARE_PUBLIC, JsonFlag, print_json
from shared.messages import note

CAMPAIGNS = ("kills", "stops", "server", "overload", "poison", "forged", "files", "fuzz")
ENGINES = ("null", "real")


def add_to(app: typer.Typer) -> None:
    """Add `torture`."""
    app.command("torture")(torture)


def torture(
    campaigns: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(CAMPAIGNS)}, or all (default)")] = None,
    kills: Annotated[int, typer.Option(min=1, help="how many processes the campaign `kills` kills")] = 100,
    seconds: Annotated[float, typer.Option(min=1, help="how long each of the other campaigns lasts")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="repeats the random choices of an earlier run")] = None,
    engine: Annotated[str, typer.Option(help="null (costs nothing) or real (the model of your settings)")] = "null",
    redis_url: Annotated[
        str | None,
        typer.Option(
            help=f"an EMPTY database (not for the campaign `server`); default: embedded; {ARGUMENTS_ARE_PUBLIC}"
        ),
    ] = None,
    flush: Annotated[
        bool, typer.Option("--flush", help="first DELETE everything in the database of --redis-url")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="keep logs and ledgers here; by default they are kept only after a failure")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Kill and stop workers, producers and the server while they sort, send hostile files, and check every image.

    Every acknowledged image must end in exactly one result, and nothing may be left behind.
    The exit code is 1 if a promise was broken.

    Example: sortline torture kills --kills 1000
    """
    import secrets

    from shared.output_files import check_output_folder
    from shared.progress import show_status
    from torture.campaigns.base import Limits
    from torture.report import as_dict, print_reports
    from torture.run import run_campaigns

    chosen = _chosen(campaigns or ["all"], has_own_server=redis_url is None)
    if engine not in ENGINES:
        raise typer.BadParameter(f"no engine {engine!r}: choose one of {', '.join(ENGINES)}.")
    if folder is not None:
        check_output_folder(folder, flag="--folder")
    seed = secrets.randbits(32) if seed is None else seed
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)  # in good order, as Ctrl-C does: processes end, and the database is emptied
    with _logs(folder, seed=seed) as kept:
        with show_status("torture") as on_progress:
            reports = run_campaigns(
                chosen,
                Limits(kills=kills, seconds=seconds),
                engine=engine,
                seed=seed,
                redis_url=redis_url,
                flush=flush,
                folder=kept,
                on_progress=on_progress,
            )
        if as_json:
            print_json(as_dict(reports, seed=seed))
        else:
            print_reports(reports, seed=seed)
        if any(report.breaches for report in reports):
            raise typer.Exit(1)


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _chosen(campaigns: list[str], *, has_own_server: bool) -> list[str]:
    """The campaigns to run, each once. `all` leaves out what can't run on a server that the user has named."""
    if unknown := [name for name in campaigns if name not in (*CAMPAIGNS, "all")]:
        raise typer.BadParameter(f"no campaign {unknown[0]!r}: choose from {', '.join(CAMPAIGNS)}, or all.")
    everything = [name for name in CAMPAIGNS if has_own_server or name != "server"]
    return everything if "all" in campaigns else list(dict.fromkeys(campaigns))


@contextlib.contextmanager
def _logs(folder: Path | None, *, seed: int) -> Iterator[Path]:
    """The folder for logs and ledgers. Prints its path after a failure; deletes a temporary one after a success."""
    import tempfile

    kept = folder or Path(tempfile.mkdtemp(prefix="sortline-torture-"))
    is_in_use = _has_files(kept)  # it will be refused, and its files are not from this run
    try:
        yield kept
    except BaseException:
        if is_in_use:
            raise
        if _has_files(kept):
            note(f"seed {seed}; logs and ledgers: {kept}")
        elif folder is None:
            shutil.rmtree(kept)
        raise
    if folder is None:
        shutil.rmtree(kept)


def _has_files(folder: Path) -> bool:
    return any(path.is_file() for path in folder.rglob("*"))
