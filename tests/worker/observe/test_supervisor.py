"""The log of a worker whose server fails or refuses its calls."""

from __future__ import annotations

import logging

import pytest
import redis

from shared.errors import RedisUnavailable
from shared.images.decode_memory import DECODE_MEMORY, UNCOUNTED_BYTES
from tests.kit import PATIENCE_S, wait_until
from worker.observe import supervisor as supervisor_module
from worker.observe.metrics import Metrics
from worker.observe.supervisor import UNAVAILABLE_LOG_INTERVAL_S, Supervisor

BUSY = redis.exceptions.ResponseError("BUSY Valkey is busy running a script.")
DENIED = redis.exceptions.NoPermissionError("User w has no permissions to run the 'evalsha' command")


def test_the_reason_is_logged_when_it_changes_and_then_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(supervisor_module, "RETRY_WAIT_S", 0.0)
    now = 0.0
    supervisor = Supervisor(Metrics(), redis_url="redis://here", clock=lambda: now)

    def logged() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    for _ in range(3):
        supervisor.redis_unavailable("claim", BUSY)
        supervisor.redis_unavailable("leases", RedisUnavailable("away."))
    busy, away = logged()
    assert busy.startswith("claim: the Redis server at redis://here is busy with a long script (BUSY).")
    assert away.startswith("leases: away.")
    supervisor.redis_unavailable("claim", DENIED)
    (denied,) = logged()
    assert "'evalsha' command" in denied
    assert "ACL SETUSER" in denied
    now += UNAVAILABLE_LOG_INTERVAL_S + 1
    supervisor.redis_unavailable("claim", DENIED)
    assert logged() == [denied]


def test_a_reason_that_all_steps_have_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "RETRY_WAIT_S", 0.0)
    supervisor = Supervisor(Metrics(), redis_url="redis://:secret@here")
    for step in ("leases", "claim", "finish"):
        supervisor.redis_unavailable(step, redis.exceptions.ConnectionError("Connection refused."))
    (record,) = caplog.records
    assert record.getMessage() == (
        "leases: no Redis server answers at redis://:***@here: Connection refused. Start one, or set "
        "SORTLINE_REDIS_URL or --redis-url. Trying again until it works."
    )


def test_a_decoder_that_waits_for_memory_does_not_count_as_hanging() -> None:
    """It waits for another decoder to free memory, and that decoder may hang."""
    now = 0.0
    supervisor = Supervisor(Metrics(), redis_url="redis://here", clock=lambda: now)

    def decode() -> None:
        with DECODE_MEMORY.hold(UNCOUNTED_BYTES + 1, limit_bytes=1):
            pass

    with DECODE_MEMORY.hold(UNCOUNTED_BYTES + 1, limit_bytes=1):
        supervisor.start("decode-0", decode)
        wait_until(lambda: DECODE_MEMORY.waiting_threads() == {"decode-0"}, "it waits for memory")
        now = 1000.0
        assert supervisor.silent(longer_than_s=60.0) == {}
    assert supervisor.join(PATIENCE_S)
