"""How long work shows what it is doing: a spinner or a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Advance = Callable[[int], None]


class Steps:
    """The named steps of one long command, shown as they go and timed."""

    def __init__(self, progress: Progress | None = None) -> None:
        """Without `progress` nothing is shown; the times are kept all the same."""
        self._progress = progress
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, what: str, *, total: int | None = None) -> Iterator[Advance]:
        """One step; the block calls what it is given with the number of items done."""
        started = time.perf_counter()
        progress = self._progress
        if progress is None:
            yield _ignore
        else:
            task = progress.add_task(what, total=total)
            yield lambda count: progress.advance(task, count)
            progress.update(task, total=total or 1, completed=total or 1)
        self.seconds[what] = round(self.seconds.get(what, 0.0) + time.perf_counter() - started, 2)


@contextlib.contextmanager
def shown_steps() -> Iterator[Steps]:
    """Steps drawn on standard error when it is a terminal.

    Drawn through a descriptor of their own: `tf.quiet_native` turns descriptor 2 away for a while.
    """
    if not sys.stderr.isatty():
        yield Steps()
        return
    with os.fdopen(os.dup(2), "w") as stderr:
        columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, TimeElapsedColumn(), console=Console(file=stderr)) as progress:
            yield Steps(progress)


def _ignore(_: int) -> None:
    """Nobody is watching."""
