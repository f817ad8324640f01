"""Messages for people, on standard error. Those that can't be written are dropped: a full disk ends no command."""

from __future__ import annotations

import io
import sys
import threading
import traceback
from typing import TYPE_CHECKING

from shared.masking import masked_text

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _DroppingFile(io.FileIO):
    """A file whose writes never fail: what can't be written is dropped."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:  # the disk is full, the pipe's reader has ended, the terminal was closed
            return memoryview(data).nbytes


def open_messages(descriptor: int, *, encoding: str, closefd: bool = True) -> io.TextIOWrapper:
    """Open a descriptor for messages: writing to it never fails, and characters that it lacks are escaped."""
    raw = io.BufferedWriter(_DroppingFile(descriptor, "w", closefd=closefd))
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", line_buffering=True)


def mask_tracebacks() -> None:
    """Mask the secrets of URLs in the tracebacks of errors that nobody expected, in any thread."""
    sys.excepthook = lambda kind, error, trace: _print_traceback(error)
    threading.excepthook = lambda failed: _print_traceback(failed.exc_value)


def _print_traceback(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit):
        note(masked_text("".join(traceback.format_exception(error)).rstrip()))


def note(text: str) -> None:
    """Print one line to standard error, at once."""
    print(text, file=sys.stderr, flush=True)
