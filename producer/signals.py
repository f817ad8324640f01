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
    """Yield an event that Ctrl-C and SIGTERM set. For use in the main thread, which may wait for the event.

    The event is set in a separate thread, not in the signal handler. A handler interrupts the main thread, which may
    hold the event's lock at that moment; setting the event in the handler would then deadlock. A `SimpleQueue` can be
    written to from a handler.
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
    """Let Ctrl-C and SIGTERM end the `with` block at once, even while it waits for a server that does not answer."""
    with suppress(KeyboardInterrupt), _handled_by(signal.default_int_handler):
        yield


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM call `handler` during the `with` block; the former handlers are restored afterwards."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in signals]
    try:
        yield
    finally:
        for number, former in zip(signals, before, strict=True):
            signal.signal(number, former)
