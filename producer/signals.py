"""How Ctrl-C and SIGTERM end the producer's commands."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from types import FrameType


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set. For the main thread, which may wait for it.

    A thread of its own sets it. A handler runs between two steps of the main thread, which may hold the event's lock
    just then: setting it there would wait for itself for ever. A `SimpleQueue` may be written from a handler.
    """
    stop = threading.Event()
    received: SimpleQueue[int] = SimpleQueue()

    def set_stop() -> None:
        received.get()
        stop.set()

    threading.Thread(target=set_stop, name="stop-on-signals", daemon=True).start()
    try:
        with _handled_by(lambda number, _: received.put(number)):
            yield stop
    finally:
        received.put(0)  # ends the thread


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block at once, also while it waits for a server that does not answer."""
    with suppress(KeyboardInterrupt), _handled_by(signal.default_int_handler):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `handler`; their former handlers are back afterwards."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, former in zip(signals, before, strict=True):
            signal.signal(number, former)
