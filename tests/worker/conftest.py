"""Fixtures of the worker's tests."""

from __future__ import annotations

import importlib
import pkgutil
import signal
from collections.abc import Iterator

import pytest
import redis

from worker import pipeline, steps
from worker.rq import registration

STEPS = [importlib.import_module(f"worker.steps.{found.name}") for found in pkgutil.iter_modules(steps.__path__)]


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits of idle workers in this process, so that hundreds of short runs end sooner."""
    for module in (pipeline, *STEPS):
        if hasattr(module, "IDLE_WAIT_S"):
            monkeypatch.setattr(module, "IDLE_WAIT_S", 0.05)
    monkeypatch.setattr(registration, "LISTEN_S", 0.05)


@pytest.fixture(autouse=True)
def connections_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the connections of a test and its workers after the test, not when they happen to be garbage-collected.

    Only for the worker's tests, where no thread outlives its test. A torture campaign goes on during several tests.
    """
    made: list[redis.Connection] = []
    make_connection = redis.ConnectionPool.make_connection

    def make_and_note(pool: redis.ConnectionPool) -> redis.Connection:
        made.append(connection := make_connection(pool))
        return connection

    monkeypatch.setattr(redis.ConnectionPool, "make_connection", make_and_note)
    yield
    for connection in made:
        connection.disconnect()


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Restore the signal handlers that workers in this process replace."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
