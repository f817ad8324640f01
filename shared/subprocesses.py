"""Processes of our own command line whose life is tied to the caller's: the demo's worker and cameras."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType

# A file, run by its path: it imports nothing of ours.
_KEEPER = Path(__file__).with_name("child_supervisor.py")
# Exit code of a child that SIGTERM ended before it had a handler for it: it had not begun to work.
NOT_BEGUN = 128 + signal.SIGTERM
# The keeper gives its child 20 s and then kills it.
_END_TIMEOUT_S = 30.0


def ours(*arguments: str, module: str = "sortline") -> list[str]:
    """The command line `sortline ARGUMENTS…`, or another module's, of this very installation.

    `-P`: a folder that is called `sortline`, such as the one above a clone has, must not be taken for it.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


class Child:
    """`sortline ARGUMENTS…`, or another module's, as a process that ends with the block, or when the caller is killed.

    Ctrl-C goes to the caller alone, which decides in what order its children end.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        out: Path | None = None,
        module: str = "sortline",
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Starts it (`ours`), with `variables` in its environment beside the caller's.

        Standard error goes to the file `log`; standard output to `out`, or to `log` as well.
        """
        self.log = log
        with log.open("wb") as errors, (out or log).open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-P", str(_KEEPER), *ours(*arguments, module=module)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env={**os.environ, **variables},
                process_group=0,
            )

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._keeper.poll()

    def end(self) -> int:
        """Tell it to end (SIGTERM), wait until it has; its exit code."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        return self._keeper.wait(_END_TIMEOUT_S)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()
