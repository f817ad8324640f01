"""Processes that end when the caller ends, however it ends: servers, and processes of our own command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

# A file, run by its path: it imports nothing of ours.
_SUPERVISOR = Path(__file__).with_name("child_supervisor.py")
_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
# Exit code of a child that SIGTERM ended before it had a handler for it: it had not begun to work.
NOT_BEGUN = 128 + signal.SIGTERM
# The supervisor gives its child 20 s and then kills it.
_END_TIMEOUT_S = 30.0


def ours(*arguments: str, module: str = "sortline") -> list[str]:
    """The command line `sortline ARGUMENTS…`, or another module's, of this very installation.

    `-P`: a folder that is called `sortline`, such as the one above a clone has, must not be taken for it.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


class SupervisedProcess:
    """A command, as a process that ends with the block, or when the caller is killed.

    Ctrl-C goes to the caller alone, which decides in what order its processes end. A process forked off the caller
    keeps the command running until it ends or execs.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        output: IO[bytes],
        errors: IO[bytes],
        variables: Mapping[str, str] = _NO_VARIABLES,
        remove: Path | None = None,
    ) -> None:
        """Starts it.

        Args:
            command: the program and its arguments.
            output: a file for its standard output.
            errors: a file for its standard error.
            variables: added to the caller's environment.
            remove: a folder to delete when the command has ended.
        """
        options = [] if remove is None else [f"--remove={remove}"]
        self._supervisor = subprocess.Popen(
            [sys.executable, "-P", str(_SUPERVISOR), *options, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            env={**os.environ, **variables},
            process_group=0,  # a terminal sends Ctrl-C to the caller's group
        )

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._supervisor.poll()

    def end(self) -> int:
        """Tell it to end (SIGTERM) and wait until it has; returns its exit code."""
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
        """Starts it (`ours`). Standard error goes to the file `log`; standard output to `out`, or to `log` as well."""
        self.log = log
        with log.open("wb") as errors, (out or log).open("ab") as output:
            super().__init__(ours(*arguments, module=module), output=output, errors=errors, variables=variables)
