"""The command line: puts together the commands of all packages."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Annotated

import typer

import model_store.commands
import producer.commands
import producer.demo.commands
import shared.commands
import worker.commands
from shared.errors import BadSetting, SortlineError

app = typer.Typer(
    name="sortline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # imported here because it takes about 20 ms

        print(f"sortline {version('sortline')}")
        raise typer.Exit


@app.callback()
def _main(
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Streaming batch-sorting for recycling lines: cameras to queues to a batched model to ejector lanes."""


for commands in (producer.commands, producer.demo.commands, worker.commands, model_store.commands, shared.commands):
    commands.add_to(app)
for name in ("bench", "torture"):  # the worker's container images don't have these packages
    if importlib.util.find_spec(name) is not None:
        importlib.import_module(f"{name}.commands").add_to(app)


def main() -> None:
    """Run the command line. A SortlineError is printed as one line, with exit code 2 for a BadSetting, else 1."""
    try:
        app()
    except SortlineError as error:
        print(f"sortline: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BadSetting) else 1)
