"""The users of the torture's own server."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from shared.masking import masked_text, secrets_of
from shared.server.connection import connect
from shared.server.roles import Role
from torture.server.server import TortureServer
from torture.server.users import denials, url_as


def test_a_role_has_its_rights_and_each_denial_is_found_also_after_a_restart(tmp_path: Path) -> None:
    with TortureServer(tmp_path) as server:
        server.kill()
        server.start()
        with server.client() as everything, connect(url_as(Role.WORKER, server.url)) as worker:
            assert worker.hset("rq:job:x", "status", "queued") == 1
            assert denials(everything) == []
            with pytest.raises(redis.exceptions.NoPermissionError):
                worker.flushall()
            assert denials(everything) == ["worker: command flushall"]


def test_a_password_is_no_word_of_a_log() -> None:
    """It was "worker", and "worker vm-1 sorts live" was logged as "*** vm-1 sorts live", which told no name."""
    log = "worker vm-1-0a1b2c3d sorts live,bulk; the producer of line-1; viewer, admin"
    for role in Role:
        assert masked_text(log, secrets_of(url_as(role, "redis://127.0.0.1:1/0"))) == log


def test_a_producer_may_try_to_load_its_functions(tmp_path: Path) -> None:
    with (
        TortureServer(tmp_path) as server,
        server.client() as everything,
        connect(url_as(Role.PRODUCER, server.url)) as producer,
    ):
        with pytest.raises(redis.exceptions.NoPermissionError):
            producer.function_load("#!lua name=x\n")
        assert denials(everything) == []
