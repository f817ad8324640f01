"""What a worker's log says of a server that does not do what it is asked."""

from __future__ import annotations

import logging

import pytest
import redis

from shared.errors import RedisUnavailable
from shared.images.decode_memory import DECODE_MEMORY, UNCOUNTED_BYTES
from tests.worker.kit import PATIENCE_S, wait_until
from worker.observe import supervisor as loops_module
from worker.observe.metrics import Metrics
from worker.observe.supervisor import AWAY_LOG_INTERVAL_S, Loops

BUSY = redis.exceptions.ResponseError("BUSY Valkey is busy running a script.")
DENIED = redis.exceptions.NoPermissionError("User w has no permissions to run the 'evalsha' command")


def test_the_true_reason_is_logged_once_a_change_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(loops_module, "AWAY_WAIT_S", 0.0)
    now = 0.0
    loops = Loops(Metrics(), clock=lambda: now)

    def logged() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    for _ in range(3):
        loops.server_away("claim", BUSY)
        loops.server_away("leases", RedisUnavailable("away."))
    busy, away = logged()
    assert busy.startswith("claim: the Redis server is busy with a long script (BUSY).")
    assert away.startswith("leases: away.")
    loops.server_away("claim", DENIED)
    (denied,) = logged()
    assert "'evalsha' command" in denied
    assert "ACL SETUSER" in denied
    now += AWAY_LOG_INTERVAL_S + 1
    loops.server_away("claim", DENIED)
    assert logged() == [denied]


def test_a_decoder_that_waits_for_memory_does_not_hang() -> None:
    """What it waits for is another decoder's image, which may hang."""
    now = 0.0
    loops = Loops(Metrics(), clock=lambda: now)

    def decode() -> None:
        with DECODE_MEMORY.hold(UNCOUNTED_BYTES + 1, limit_bytes=1):
            pass

    with DECODE_MEMORY.hold(UNCOUNTED_BYTES + 1, limit_bytes=1):
        loops.start("decode-0", decode)
        wait_until(lambda: DECODE_MEMORY.waiting_threads() == {"decode-0"}, "it waits for memory")
        now = 1000.0
        assert loops.silent(longer_than_s=60.0) == {}
    assert loops.join(PATIENCE_S)
