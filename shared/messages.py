"""Lines for people, on standard output and standard error.

Each text may quote others: names, ids, errors. `say` and `note` print it as one line, without control characters and
not too long. Behind them, `open_output` and `open_messages` escape whatever else is written: only our own code controls
the terminal, through `for_drawing`.

Messages on standard error that can't be written are dropped: a full disk ends no command.
"""

from __future__ import annotations

import io
import os
import re
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, TextIO, cast

from shared.masking import masked_text
from shared.printable import CONTROLS, one_line, printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# What a terminal may get: lines, columns and, if it is one, colors and styles.
_PLAIN = re.compile(r"[\n\t]")
_COLORED = re.compile(r"[\n\t]|\x1b\[[0-9;]{0,32}m")
_UNSAFE = re.compile(f"[{CONTROLS}\ud800-\udfff]")
# Whoever sets one of these gets colors in a file too, from rich or typer.
_COLOR_VARIABLES = ("FORCE_COLOR", "TTY_COMPATIBLE", "PY_COLORS", "GITHUB_ACTIONS")


class _DroppingFile(io.FileIO):
    """A file whose writes never fail: what can't be written is dropped."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:  # the disk is full, the pipe's reader has ended, the terminal was closed
            return memoryview(data).nbytes


class _SafeText(io.TextIOWrapper):
    """Text output that escapes control characters, and characters that its encoding lacks."""

    opened: io.TextIOWrapper | None = None  # the output whose buffer it shares

    def __init__(self, buffer: Any, *, encoding: str, line_buffering: bool) -> None:
        super().__init__(buffer, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering)
        is_colored = self.isatty() or any(os.environ.get(name) for name in _COLOR_VARIABLES)
        self._allowed = _COLORED if is_colored else _PLAIN

    def write(self, text: str, /) -> int:
        super().write(text if _UNSAFE.search(text) is None else _escaped(text, self._allowed))
        return len(text)

    def draw(self, text: str) -> int:
        """Write a text of our own that controls the terminal, such as a progress bar."""
        return super().write(text)


class _Drawing:
    """A `_SafeText` whose writes are drawn."""

    def __init__(self, stream: _SafeText) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.draw(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _escaped(text: str, allowed: re.Pattern[str]) -> str:
    parts, at = [], 0
    for found in allowed.finditer(text):
        parts += [printable(text[at : found.start()]), found.group()]
        at = found.end()
    return "".join([*parts, printable(text[at:])])


def open_output(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same output, for standard output: what is written to it is escaped."""
    stream.flush()
    safe = _SafeText(stream.buffer, encoding=stream.encoding, line_buffering=stream.line_buffering)
    safe.opened = stream  # which would close the buffer if nothing held it any more
    return safe


def open_messages(descriptor: int, *, encoding: str, closefd: bool = True) -> io.TextIOWrapper:
    """Open a descriptor for messages: they are escaped, and writing them never fails."""
    raw = io.BufferedWriter(_DroppingFile(descriptor, "w", closefd=closefd))
    return _SafeText(raw, encoding=encoding, line_buffering=True)


def mask_tracebacks() -> None:
    """Mask the secrets of URLs in the tracebacks of errors that nobody expected, in any thread."""
    sys.excepthook = lambda kind, error, trace: _print_traceback(error)
    threading.excepthook = lambda failed: _print_traceback(failed.exc_value)


def _print_traceback(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit):
        note_lines(masked_text("".join(traceback.format_exception(error)).rstrip()))


def for_drawing(stream: TextIO) -> TextIO:
    """The same stream for a progress bar. Texts of others must be made printable before they are drawn."""
    return cast(TextIO, _Drawing(stream)) if isinstance(stream, _SafeText) else stream


def say(text: object = "") -> None:
    """Print one line to standard output."""
    print(one_line(text))


def note(text: object) -> None:
    """Print one line to standard error, at once."""
    print(one_line(text), file=sys.stderr, flush=True)


def note_lines(text: str) -> None:
    """Print a text of several lines to standard error. Its other lines are indented, so that none looks like a first.

    A name that it quotes may have begun one of them.
    """
    first, *others = text.split("\n")
    note(first)
    for line in others:
        note(f"  {line}")
