"""Signals that end a command, whatever its main thread is just doing."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from producer.signals import ended_by_signals, stop_on_signals
from tests.kit import PATIENCE_S, run_python

TRIES = 20
# Waits of zero length hold the event's lock most of the time, so a handler that took it would hang in the first tries.
STOPPED_WHILE_WAITING = f"""
import os, signal, threading
from producer.signals import stop_on_signals

for _ in range({TRIES}):
    with stop_on_signals() as stop:
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
        while not stop.wait(0):
            pass
print("stopped", {TRIES})
"""


def test_a_signal_in_the_middle_of_a_wait_stops() -> None:
    assert run_python(STOPPED_WHILE_WAITING) == f"stopped {TRIES}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_wakes_a_wait_and_its_handler_goes_with_the_block(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(PATIENCE_S)
    assert signal.getsignal(number) is before


def test_the_block_leaves_no_thread() -> None:
    with stop_on_signals():
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "stop-on-signals")
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_block_that_waits_for_something_else(number: signal.Signals) -> None:
    with ended_by_signals():
        os.kill(os.getpid(), number)
        threading.Event().wait(PATIENCE_S)
        pytest.fail("the block went on")
