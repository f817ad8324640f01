"""What the tests of the producer's commands share: a command in this process, and the code of one as a process."""

from __future__ import annotations

import typer
from typer.testing import CliRunner, Result

import producer.commands

# The commands without the other packages' ones, which sortline.cli adds.
# A shell that runs the tests in the background has them ignore Ctrl-C, and their processes would inherit that.
ALONE = (
    "import signal, typer, producer.commands as c; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "app = typer.Typer(); c.add_to(app); app()"
)


def run(*arguments: str) -> Result:
    app = typer.Typer()
    producer.commands.add_to(app)
    return CliRunner().invoke(app, list(arguments))
