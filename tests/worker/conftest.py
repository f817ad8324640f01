"""Fixtures of the worker's tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from worker import pipeline
from worker.rq import registration


@pytest.fixture(autouse=True)
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle steps of workers in this process look around often: hundreds of short runs end so much sooner."""
    monkeypatch.setattr(pipeline, "IDLE_WAIT_S", 0.05)
    monkeypatch.setattr(registration, "LISTEN_S", 0.05)


@pytest.fixture
def own_signals() -> Iterator[None]:
    """For workers run in this process: the signal handlers that they install are undone."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
