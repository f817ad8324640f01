"""Fixtures of the tests of worker/rq: a process that has ended, long leases, and a user with changing permissions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import redis

from shared.settings import Settings
from worker.rq.processes import ProcessId


@pytest.fixture(scope="module")
def ended() -> ProcessId:
    """A process that has ended. If its PID is used again, the new process has a later start time."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return ProcessId(process.pid, 1)


@pytest.fixture
def long(settings: Settings) -> Settings:
    """Settings with leases that do not run out during a test."""
    return settings.model_copy(update={"lease_s": 3600})


@pytest.fixture
def restricted(settings: Settings, client: redis.Redis) -> Iterator[Callable[[str], None]]:
    """A function that changes the permissions of the worker's user; they apply to open connections too."""
    client.execute_command("ACL", "SETUSER", "w", "reset", "on", ">secret", "~*", "&*", "+@all")
    yield lambda rule: client.execute_command("ACL", "SETUSER", "w", "resetkeys", *rule.split())
    client.execute_command("ACL", "DELUSER", "w")
