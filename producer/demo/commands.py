"""`sortline demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.cli import ARGUMENTS_ARE_PUBLIC, JsonFlag


def add_to(app: typer.Typer) -> None:
    """Add `demo`."""
    app.command("demo")(demo)


def demo(
    seconds: Annotated[float, typer.Option(min=1, help="how long the cameras run")] = 30.0,
    rate: Annotated[float, typer.Option(min=0.1, help="bottles per second on each line")] = 20.0,
    lines: Annotated[int, typer.Option(min=1, max=16, help="number of simulated lines")] = 2,
    out: Annotated[Path, typer.Option(help="folder for logs and the contact sheet")] = Path("demo-out"),
    model: Annotated[str, typer.Option(help="model to serve; trained on first use")] = "demo",
    redis_url: Annotated[
        str | None, typer.Option(help=f"use this server instead of an embedded one; {ARGUMENTS_ARE_PUBLIC}")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the whole system at work on this machine: server, model, worker, cameras, results.

    Trains the model on first use. The cameras show rendered bottles that were held out from training, and each result
    is checked against the true labels. Ctrl-C ends the demo early and leaves no process behind.

    Example: sortline demo --seconds 60 --rate 50
    """
    import contextlib
    from dataclasses import asdict

    from producer.demo.session import Demo, DemoOptions, ensure_model
    from producer.demo.summary import show
    from shared.cli import print_json
    from shared.output_files import check_output_folder
    from shared.server.connection import check, connect
    from shared.server.embedded import embedded_server
    from shared.settings import NO_PASSWORD, load_settings
    from shared.tables import drawing_console

    console = drawing_console()
    options = DemoOptions(seconds=seconds, rate_hz=rate, lines=lines, out=out)
    check_output_folder(out, flag="--out")
    ensure_model(load_settings(redis_url=redis_url, model=model), console=console)
    server = contextlib.nullcontext(redis_url) if redis_url else embedded_server()
    with server as url:
        settings = load_settings(redis_url=url, model=model, **({} if redis_url else NO_PASSWORD))
        check(connect(settings.redis_url), settings.redis_url)
        summary = Demo(settings, options, console=console).run()
    print_json(asdict(summary)) if as_json else show(summary)
    raise typer.Exit(0 if summary.complete else 1)
