"""How long commands show what they are doing: a spinner on a terminal; elsewhere lines of text, which fit a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shared.messages import note
from shared.printable import one_line

# Lines that differ only in their figures come at most this often.
_LINE_S = 5.0


class ProgressLines:
    """Passes on lines of progress: the first of each phase at once, others at most every few seconds.

    Lines with the same words belong to one phase, whatever their figures are.
    """

    def __init__(self, tell: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._phases: set[str] = set()
        self._next_at = float("-inf")
        self._held_back: str | None = None

    def show(self, text: str) -> None:
        """Pass the text on, unless its phase is known and the previous line was passed on too recently."""
        now = self._clock()
        phase = "".join(filter(str.isalpha, text))
        if phase not in self._phases or now >= self._next_at:
            self._phases.add(phase)
            self._next_at = now + _LINE_S
            self._held_back = None
            self._tell(text)
        else:
            self._held_back = text

    def end(self) -> None:
        """Pass on the last text if it was held back, so that the last figures are the final ones."""
        if self._held_back is not None:
            self._tell(self._held_back)
            self._held_back = None


def ignore(_: object) -> None:
    """Do nothing: for callers that show no progress."""


def spinner_name() -> str:
    """The name of rich's spinner for standard error. rich draws its bars in ASCII if it has to, but not its spinner."""
    return "dots" if sys.stderr.encoding.lower().startswith("utf") else "line"


@contextmanager
def show_status(title: str) -> Iterator[Callable[[str], None]]:
    """Show what a command is doing. Yields a function that says so.

    On a terminal it is one line with a spinner, which begins with `title`; elsewhere, lines of text.
    """
    if not sys.stderr.isatty():
        yield ProgressLines(note).show
        return
    from rich.text import Text

    from shared.tables import drawing_console

    console = drawing_console()
    with console.status(Text(one_line(title)), spinner=spinner_name()) as status:
        yield lambda text: status.update(Text(one_line(text)))
