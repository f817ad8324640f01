"""Calls over one connection: to a server that comes, goes and forgets."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from shared.server.connection import connect
from shared.server.embedded import embedded_server
from shared.server.raw_connection import Wire, WireScript


def test_answers_come_as_they_are(redis_url: str) -> None:
    wire = Wire(connect(redis_url))
    assert wire.call("SET", "a", b"\xff\x00") == b"OK"
    assert wire.call("MGET", "a", "b") == [b"\xff\x00", None]


def test_what_the_server_refuses_is_said_and_the_next_call_goes_on(redis_url: str) -> None:
    wire = Wire(connect(redis_url))
    wire.call("SET", "a", "text")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        wire.call("LPUSH", "a", "1")
    assert wire.call("GET", "a") == b"text"


def test_a_script_that_the_server_forgot_is_sent_again(redis_url: str, client: redis.Redis) -> None:
    script = WireScript(Wire(connect(redis_url)), "return {ARGV[1], 7}")
    assert script(args=["x"]) == [b"x", 7]
    client.script_flush()
    assert script(args=["y"]) == [b"y", 7]


def test_a_script_is_run_while_somebody_flushes_scripts(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was loaded, and then called: forgotten again in between, the worker said that the server refuses a command."""
    wire = Wire(connect(redis_url))
    script = WireScript(wire, "return ARGV[1]")
    send = wire.send

    def flush_and_send(*args: Any, **fields: Any) -> Any:
        wire._call(["SCRIPT", "FLUSH"])
        return send(*args, **fields)

    monkeypatch.setattr(wire, "send", flush_and_send)
    assert script(args=["x"]) == b"x"


def test_a_connection_that_was_closed_is_made_anew(redis_url: str, client: redis.Redis) -> None:
    wire = Wire(connect(redis_url))
    wire.call("PING")
    client.client_kill_filter(_type="normal", skipme=True)
    assert wire.call("PING") == b"PONG"


@pytest.mark.parametrize("is_script", [False, True])
def test_a_server_that_became_a_replica_is_connected_to_anew(
    client: redis.Redis, redis_url: str, is_script: bool
) -> None:
    """Where its name leads to by then: to the new master."""
    wire = Wire(connect(redis_url))
    script = WireScript(wire, "return redis.call('SET', 'a', ARGV[1])")
    before = wire.call("CLIENT", "ID")
    client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(redis.exceptions.ReadOnlyError):
            script(args=["text"]) if is_script else wire.call("SET", "a", "text")
        assert wire.call("CLIENT", "ID") != before
    finally:
        client.replicaof("NO", "ONE")
    assert script(args=["text"]) == b"OK"


def test_a_late_answer_is_not_taken_for_the_next_calls(redis_url: str, client: redis.Redis) -> None:
    wire = Wire(connect(redis_url, socket_timeout_s=2.0))  # the answer to ECHO has no more time than this, either
    with pytest.raises(redis.exceptions.TimeoutError):
        wire.call("BLPOP", "nothing", 10)
    assert wire.call("ECHO", "after") == b"after"


def test_an_absent_server_is_an_error_until_it_is_there() -> None:
    with embedded_server() as url:
        wire = Wire(connect(url))
        assert wire.call("PING") == b"PONG"
    with pytest.raises(redis.exceptions.ConnectionError):
        wire.call("PING")


def test_threads_take_turns(redis_url: str) -> None:
    wire = Wire(connect(redis_url))
    wrong: list[object] = []

    def ask(name: str) -> None:
        for number in range(200):
            answer = wire.call("ECHO", f"{name}{number}")
            if answer != f"{name}{number}".encode():
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
