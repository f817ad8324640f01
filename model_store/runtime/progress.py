"""How a long command shows its progress: spinners and bars on a terminal, elsewhere lines of text."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shared.messages import note, open_messages
from shared.printable import one_line
from shared.progress import ProgressLines, ignore, spinner_name
from shared.tables import drawing_console, plain_console

OnProgress = Callable[[int], None]
"""Called with the number of items done since the previous call."""


class ProgressSteps:
    """The named steps of one long command, shown while they run, and timed."""

    def __init__(
        self,
        progress: Progress | None = None,
        *,
        print_line: Callable[[str], None] = ignore,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Store the arguments.

        Args:
            progress: shows each step; None: a line of text says that a step begins, and others how far it is.
            print_line: shows a line of text.
            clock: the time in seconds, from any start.
        """
        self._progress = progress
        self._clock = clock
        self.print_line = print_line
        self.seconds: dict[str, float] = {}

    @property
    def console(self) -> Console:
        """Prints on standard error, above the steps if they are drawn there."""
        return plain_console(stderr=True) if self._progress is None else self._progress.console

    @contextlib.contextmanager
    def step(self, title: str, *, total: int | None = None) -> Iterator[OnProgress]:
        """Run the block as one step. Yields a function for the block to call with the number of items done."""
        started = self._clock()
        progress = self._progress
        if progress is None:
            yield self._tell_step(title, total)
        else:
            task = progress.add_task(one_line(title), total=total)
            yield lambda count: progress.advance(task, count)
            progress.update(task, total=total or 1, completed=total or 1)
        self.seconds[title] = round(self.seconds.get(title, 0.0) + self._clock() - started, 2)

    def _tell_step(self, title: str, total: int | None) -> OnProgress:
        """Tell that a step begins; the returned function tells from time to time how far it is."""
        lines = ProgressLines(self.print_line, clock=self._clock)
        lines.show(title)
        if not total:
            return ignore
        done = 0

        def on_progress(count: int) -> None:
            nonlocal done
            done += count
            lines.show(f"{title}: {done / total:.0%}")

        return on_progress


@contextlib.contextmanager
def show_progress() -> Iterator[ProgressSteps]:
    """Yield steps that are shown on standard error: drawn if it is a terminal, and otherwise told in lines of text.

    They are drawn through a duplicate of descriptor 2, because `native_output.quiet_native` redirects descriptor 2.
    """
    if not sys.stderr.isatty():
        yield ProgressSteps(print_line=note)
        return
    with open_messages(os.dup(2), encoding=sys.stderr.encoding) as stderr:
        columns = (
            SpinnerColumn(spinner_name()),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
        )
        console = drawing_console(stderr)
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            yield ProgressSteps(progress, print_line=functools.partial(_print_line, console))


def _print_line(console: Console, text: str) -> None:
    """Print one line above the bars."""
    console.print(one_line(text), soft_wrap=True)
