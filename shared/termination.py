"""How SIGTERM ends a long command, e.g. from `timeout` or a batch system: in good order, as Ctrl-C does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from shared.messages import note


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the `with` block by SystemExit, so that it keeps or deletes its files, and say so.

    The exit code is 143, as the shell reports for a command that SIGTERM killed. For use in the main thread.
    """
    former = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    except SystemExit:
        note("sortline: ended by SIGTERM.")
        raise
    finally:
        signal.signal(signal.SIGTERM, former)


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
