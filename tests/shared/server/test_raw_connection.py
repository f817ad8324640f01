"""Calls over one connection: to a server that comes, goes and forgets."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from shared.server.connection import connect
from shared.server.embedded import embedded_server
from shared.server.raw_connection import RawConnection, RawScript


def test_answers_come_as_they_are(redis_url: str) -> None:
    connection = RawConnection(connect(redis_url))
    assert connection.call("SET", "a", b"\xff\x00") == b"OK"
    assert connection.call("MGET", "a", "b") == [b"\xff\x00", None]


def test_what_the_server_refuses_is_reported_and_the_next_call_goes_on(redis_url: str) -> None:
    connection = RawConnection(connect(redis_url))
    connection.call("SET", "a", "text")
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        connection.call("LPUSH", "a", "1")
    assert connection.call("GET", "a") == b"text"


def test_a_script_that_the_server_forgot_is_sent_again(redis_url: str, client: redis.Redis) -> None:
    script = RawScript(RawConnection(connect(redis_url)), "return {ARGV[1], 7}")
    assert script(args=["x"]) == [b"x", 7]
    client.script_flush()
    assert script(args=["y"]) == [b"y", 7]


def test_a_script_is_run_while_somebody_flushes_scripts(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If loading and calling the script were two requests, a flush between them would make the call fail."""
    connection = RawConnection(connect(redis_url))
    script = RawScript(connection, "return ARGV[1]")
    send = connection.send

    def flush_and_send(*args: Any, **fields: Any) -> Any:
        connection._call(["SCRIPT", "FLUSH"])
        return send(*args, **fields)

    monkeypatch.setattr(connection, "send", flush_and_send)
    assert script(args=["x"]) == b"x"


def test_a_connection_that_was_closed_is_made_anew(redis_url: str, client: redis.Redis) -> None:
    connection = RawConnection(connect(redis_url))
    connection.call("PING")
    client.client_kill_filter(_type="normal", skipme=True)
    assert connection.call("PING") == b"PONG"


@pytest.mark.parametrize("is_script", [False, True])
def test_a_server_that_became_a_replica_is_connected_to_anew(
    client: redis.Redis, redis_url: str, is_script: bool
) -> None:
    """The new connection goes where the server's name leads by then: to the new master."""
    connection = RawConnection(connect(redis_url))
    script = RawScript(connection, "return redis.call('SET', 'a', ARGV[1])")
    before = connection.call("CLIENT", "ID")
    client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(redis.exceptions.ReadOnlyError):
            script(args=["text"]) if is_script else connection.call("SET", "a", "text")
        assert connection.call("CLIENT", "ID") != before
    finally:
        client.replicaof("NO", "ONE")
    assert script(args=["text"]) == b"OK"


@pytest.mark.slow
def test_a_late_answer_is_not_taken_for_the_next_calls(redis_url: str, client: redis.Redis) -> None:
    # The timeout is not shorter because it holds for ECHO, too.
    connection = RawConnection(connect(redis_url, socket_timeout_s=2.0))
    with pytest.raises(redis.exceptions.TimeoutError):
        connection.call("BLPOP", "nothing", 10)
    assert connection.call("ECHO", "after") == b"after"


def test_an_absent_server_is_an_error_until_it_is_there() -> None:
    with embedded_server() as url:
        connection = RawConnection(connect(url))
        assert connection.call("PING") == b"PONG"
    with pytest.raises(redis.exceptions.ConnectionError):
        connection.call("PING")


def test_threads_take_turns(redis_url: str) -> None:
    connection = RawConnection(connect(redis_url))
    wrong: list[object] = []

    def ask(name: str) -> None:
        for number in range(200):
            answer = connection.call("ECHO", f"{name}{number}")
            if answer != f"{name}{number}".encode():
                wrong.append(answer)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
