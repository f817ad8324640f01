"""The command line: puts together the commands of all packages."""

from __future__ import annotations

import errno
import importlib
import importlib.util
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import model_store.commands
import producer.commands
import producer.demo.commands
import shared.commands
import shared.server.commands
import worker.commands
from shared.cli import warn_of_misspelled_variables
from shared.errors import BadSetting, SortlineError
from shared.masking import masked_text
from shared.messages import mask_tracebacks, note, note_lines, open_messages, open_output, say
from shared.printable import printable


class _Commands(TyperGroup):
    """Shows switches in the help without a type. Typer shows `--json <bool>`, as if the switch took a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types_of_switches(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        for one in (command, *getattr(command, "commands", {}).values()):
            if one is not None:
                _without_types_of_switches(one.get_params(ctx))
        return command


def _without_types_of_switches(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


app = typer.Typer(
    name="sortline",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # joins the lines of a paragraph, which are too long for a terminal
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # imported here because it takes about 20 ms

        say(f"sortline {version('sortline')}")
        raise typer.Exit


# These commands name misspelled variables in their logs.
_LOGGING_COMMANDS = ("worker", "camera")
# The disk or a quota is full, the file is too large, or the file system is read-only.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@app.callback()
def _main(
    context: typer.Context,
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Streaming batch-sorting for recycling lines: cameras to queues to a batched model to ejector lanes."""
    is_help_asked = not set(context.help_option_names).isdisjoint(sys.argv)  # it needs no settings, which load slowly
    if context.invoked_subcommand not in _LOGGING_COMMANDS and not is_help_asked:
        warn_of_misspelled_variables()


for commands in (
    producer.commands,
    producer.demo.commands,
    worker.commands,
    model_store.commands,
    shared.commands,
    shared.server.commands,
):
    commands.add_to(app)
for name in ("bench", "torture"):  # the worker's container images don't have these packages
    if importlib.util.find_spec(name) is not None:
        importlib.import_module(f"{name}.commands").add_to(app)


def main() -> None:
    """Run the command line. A SortlineError is printed as one line, with exit code 2 for a BadSetting, else 1.

    So is the error of a file, such as one that may not be read, wherever it is raised.
    """
    _prepare_output()
    mask_tracebacks()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # if the interpreter flushes at exit, an error has no message of ours
    except SortlineError as error:
        note_lines(f"sortline: {masked_text(str(error))}")
        sys.exit(2 if isinstance(error, BadSetting) else 1)
    except BrokenPipeError:  # the reader of the output has ended, e.g. `head`
        _discard_output()
        sys.exit(1)
    except OSError as error:
        if (text := explain(error)) is None:
            raise
        _discard_output()
        note(f"sortline: {text}")
        sys.exit(1)


def explain(error: OSError) -> str | None:
    """What can't be read or written, and why; None for errors that are not about a file."""
    name = None if error.filename is None else printable(str(error.filename))
    if error.errno in _FULL:
        return f"{name or 'the output'} can't be written: {error.strerror}."
    if name is not None:
        return f"{name}: {error.strerror}."
    if "temporary directory" in str(error):  # from tempfile, which TensorFlow uses too
        return f"{error.strerror}: set TMPDIR to a folder that can be written to."
    return None


def _prepare_output() -> None:
    """Discard what is written to a closed output. Escape control characters, and those that the terminal lacks.

    Messages that can't be written are no failure of the command.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell has closed it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # open until the process ends
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = open_output(sys.stdout)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(errors="backslashreplace")
    opened = sys.__stderr__
    if opened is not None and sys.stderr is opened:  # a caller in this process may have put its own stream there
        sys.stderr = open_messages(opened.fileno(), encoding=opened.encoding, closefd=False)


def _discard_output() -> None:
    """Redirect standard output to nowhere, so that the flush at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
