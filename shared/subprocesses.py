"""Starts processes that end when the caller ends, for any reason: servers, and commands of `sortline` itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

# Run by its path, not as a module: it imports nothing from the project.
_SUPERVISOR = Path(__file__).with_name("child_supervisor.py")
_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
# Added to the number of a signal that ended a child: its supervisor's exit code, as in shells.
_SIGNAL_BASE = 128
# Exit code of a child that SIGTERM ended before the child had installed a handler: it had not begun to work.
NOT_BEGUN = _SIGNAL_BASE + signal.SIGTERM
# The supervisor gives its child 20 s and then kills it.
_END_TIMEOUT_S = 30.0


def own_command(*arguments: str, module: str = "sortline") -> list[str]:
    """The command line of `sortline ARGUMENTS…`, or of another module, in this installation.

    `-P` keeps the working directory off the import path: it may hold another folder that is named `sortline`, e.g. a
    clone.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def name_of_ending(returncode: int) -> str:
    """How a process ended, by the code that `subprocess` or a supervisor gives: `SIGKILL`, or `exit code 1`."""
    number = -returncode if returncode < 0 else returncode - _SIGNAL_BASE
    try:
        return signal.Signals(number).name
    except ValueError:  # most real-time signals have no name
        return f"exit code {returncode}" if returncode >= 0 else f"signal {number}"


class SupervisedProcess:
    """Runs a command as a process that ends with the `with` block, or when the caller is killed.

    Ctrl-C goes to the caller alone, which decides in what order its processes end. If the caller forks, the command
    runs until the fork ends or execs.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: IO[bytes],
        errors: IO[bytes],
        variables: Mapping[str, str] = _NO_VARIABLES,
        inherited: Mapping[str, str] | None = None,
        remove: Path | None = None,
    ) -> None:
        """Start the command.

        Args:
            command: the program and its arguments.
            output: a file for the command's standard output.
            errors: a file for the command's standard error.
            variables: added to the caller's environment.
            inherited: the part of the caller's environment that the command gets; None: all of it.
            remove: a folder to delete when the command has ended.
        """
        options = [] if remove is None else [f"--remove={remove}"]
        self._supervisor = subprocess.Popen(  # noqa: S603  # callers pass programs of ours, or the server's
            [sys.executable, "-P", str(_SUPERVISOR), *options, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env={**(os.environ if inherited is None else inherited), **variables},
            process_group=0,  # a terminal sends Ctrl-C to the caller's group
        )

    @property
    def pid(self) -> int:
        """The id of the process whose only child is the command."""
        return self._supervisor.pid

    def poll(self) -> int | None:
        """The command's exit code, or None while it runs."""
        return self._supervisor.poll()

    def end(self) -> int:
        """End the command with SIGTERM and wait until it has ended; returns its exit code."""
        assert self._supervisor.stdin is not None
        self._supervisor.stdin.close()
        return self._supervisor.wait(_END_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Child(SupervisedProcess):
    """`sortline ARGUMENTS…`, or another module's command line, as a supervised process with a log file."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        out: Path | None = None,
        module: str = "sortline",
        variables: Mapping[str, str] = _NO_VARIABLES,
    ) -> None:
        """Start the command line that `own_command` makes of `arguments`.

        Standard error goes to the file `log`; standard output goes to `out`, or to `log` as well.
        """
        self.log = log
        with log.open("wb") as errors, (out or log).open("ab") as output:
            super().__init__(own_command(*arguments, module=module), output=output, errors=errors, variables=variables)
