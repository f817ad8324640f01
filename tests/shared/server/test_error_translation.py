"""What real servers answer, made into our errors: the same for a transaction, a pipeline, a script and one command."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import redis

from shared.errors import BadSetting, CommandRefused, QueueFull, RedisUnavailable, SortlineError
from shared.ports import free_port
from shared.server.connection import check, connect
from shared.server.embedded import embedded_server
from shared.server.error_translation import explain, is_wrong_type, server_errors, translate
from shared.server.raw_connection import RawConnection
from torture.server.states import busy, configured, replica, replica_that_refuses_reads, unable_to_save

State = Callable[[redis.Redis], AbstractContextManager[None]]

# Refusals that end by themselves, and full memory: each with the state of the server and what the error must say.
STATES = {
    "OOM": (partial(configured, name="maxmemory", value="1"), QueueFull, "its memory is full"),
    "NOREPLICAS": (
        partial(configured, name="min-replicas-to-write", value="1"),
        RedisUnavailable,
        "too few of its replicas",
    ),
    "MISCONF": (unable_to_save, RedisUnavailable, "can't save its data to disk"),
    "READONLY": (replica, RedisUnavailable, "is a replica and refuses writes"),
    "MASTERDOWN": (replica_that_refuses_reads, RedisUnavailable, "has lost its primary"),
    "BUSY": (busy, RedisUnavailable, "busy with a long script"),
}


def in_a_transaction(client: redis.Redis) -> None:
    with client.pipeline(transaction=True) as pipe:
        pipe.mset({"sortline:image:a": b"\xff\x00) of pipeline caused error: READONLY\n" * 50})
        pipe.eval("return redis.call('SET', KEYS[1], 'x')", 1, "sortline:b")
        pipe.execute()


def in_a_pipeline(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        pipe.hset("rq:job:a", "status", "queued")
        pipe.execute()


def in_a_script(client: redis.Redis) -> None:
    RawConnection(client).call("EVAL", "return redis.call('SET', KEYS[1], 'x')", 1, "sortline:c")


def alone(client: redis.Redis) -> None:
    client.set("sortline:d", "x")


WAYS = (in_a_transaction, in_a_pipeline, in_a_script, alone)


def raised(url: str, way: Callable[[redis.Redis], Any]) -> SortlineError:
    with connect(url) as client, pytest.raises(SortlineError) as caught, server_errors(url):
        way(client)
    message = str(caught.value)
    assert "\n" not in message
    assert "Command #" not in message  # that text would include the image
    return caught.value


@pytest.mark.parametrize("state", STATES)
def test_a_state_of_the_server_has_its_true_name(client: redis.Redis, redis_url: str, state: str) -> None:
    enter, kind, words = STATES[state]
    with enter(client):
        check(connect(redis_url), redis_url)  # the server is there
        errors = [raised(redis_url, way) for way in WAYS]
    for error in errors:
        assert type(error) is kind
        assert words in str(error)
        assert f"({state})" in str(error)
        assert redis_url in str(error)


@pytest.mark.parametrize("state", ["OOM", "NOREPLICAS", "READONLY", "MISCONF"])
def test_a_state_that_begins_between_multi_and_exec_has_its_true_name(
    client: redis.Redis, redis_url: str, state: str
) -> None:
    """The commands are queued by then, and EXEC is refused as a whole: EXECABORT."""
    enter, kind, words = STATES[state]
    connection = RawConnection(connect(redis_url))
    connection.call("MULTI")
    connection.call("SET", "a", "x")
    with enter(client), pytest.raises(redis.exceptions.ExecAbortError) as aborted:
        connection.call("EXEC")
    error = translate(aborted.value, redis_url)
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("rights", "way", "named"),
    [
        ("~* &* +@all -eval", in_a_transaction, "'eval' command"),
        ("~* &* +@all -multi -exec", in_a_transaction, "'multi' command"),
        ("~other:* &* +@all", in_a_transaction, "a key (in MSET)"),
        ("~other:* &* +@all", in_a_pipeline, "a key (in HSET)"),
        ("~* &* +@all -set", alone, "'set' command"),
    ],
)
def test_a_missing_right_is_named(
    client: redis.Redis, redis_url: str, rights: str, way: Callable[[redis.Redis], None], named: str
) -> None:
    client.execute_command("ACL", "SETUSER", "worker", "reset", "on", "nopass", *rights.split())
    try:
        error = raised(redis_url.replace("://", "://worker:secret@"), way)
    finally:
        client.acl_deluser("worker")
    assert type(error) is BadSetting
    assert named in str(error)
    assert "ACL SETUSER" in str(error)
    assert "secret" not in str(error)


def test_a_password_in_the_users_place_is_masked_in_the_servers_own_text(client: redis.Redis, redis_url: str) -> None:
    """The server names the user in its refusal."""
    client.execute_command("ACL", "SETUSER", "hunter2", "reset", "on", "nopass", "~*", "+@all", "-set")
    try:
        error = raised(redis_url.replace("://", "://hunter2@"), alone)
    finally:
        client.acl_deluser("hunter2")
    assert "hunter2" in str(error.__cause__)
    assert "User *** has no permissions to run the 'set' command" in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("has_its_slots", [True, False])
def test_a_cluster_is_refused_by_its_name(has_its_slots: bool) -> None:
    """When it answers CLUSTERDOWN, CROSSSLOT or MOVED, and by the check at a command's start, which sends no key."""
    with embedded_server(cluster_enabled="yes", cluster_port=str(free_port())) as url:
        with connect(url) as client:
            if has_its_slots:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            with pytest.raises(BadSetting, match="cluster mode"):
                check(client, url)
        error = raised(url, in_a_transaction)
        assert type(error) is BadSetting
        assert "Redis Cluster" in str(error)


@pytest.mark.parametrize("level", ["1", "0"], ids=["with the place", "without"])
@pytest.mark.parametrize(("code", "kind"), [("NOREPLICAS", RedisUnavailable), ("WRONGTYPE", CommandRefused)])
def test_an_answer_that_a_script_raised_again_keeps_its_meaning(
    client: redis.Redis, code: str, kind: type[SortlineError], level: str
) -> None:
    """The server may put the place in the script before its error code. The worker took this for a script's fault."""
    client.lpush("a", "x")
    with (
        configured(client, "min-replicas-to-write", "1" if code == "NOREPLICAS" else "0"),
        pytest.raises(redis.exceptions.ResponseError, match=code) as caught,
    ):
        client.eval(f"local _, e = pcall(function() redis.call('INCR', 'a') end) error(e, {level})", 0)
    assert type(translate(caught.value)) is kind
    assert is_wrong_type(caught.value) == (code == "WRONGTYPE")


def test_a_key_of_another_type_does_not_mean_that_the_server_is_away(client: redis.Redis, redis_url: str) -> None:
    client.lpush("rq:job:a", "x")
    error = raised(redis_url, in_a_pipeline)
    assert type(error) is CommandRefused
    assert "WRONGTYPE" in str(error)
    with pytest.raises(redis.exceptions.ResponseError) as caught:
        client.hget("rq:job:a", "status")
    assert is_wrong_type(caught.value)
    assert not is_wrong_type(redis.exceptions.ConnectionError("WRONGTYPE"))


def test_no_connection_left_is_waited_for(redis_url: str, client: redis.Redis) -> None:
    client.ping()
    with configured(client, "maxclients", "1"):
        error = raised(redis_url, alone)
    assert type(error) is RedisUnavailable
    assert "maxclients" in str(error)


ANSWERED = redis.exceptions.ResponseError


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), RedisUnavailable, "(LOADING)"),
        (
            ANSWERED("UNBLOCKED force unblock from blocking operation, instance state changed"),
            RedisUnavailable,
            "replica",
        ),
        (ANSWERED("DENIED Redis is running in protected mode because"), BadSetting, "protected mode"),
        (ANSWERED("unknown command 'HELLO', with args beginning with: "), BadSetting, "Redis 6.2"),
        # Redis 6, within a script.
        (
            ANSWERED("Error running script (call to f_2f): @user_script:1: -OOM command not allowed when used memory"),
            QueueFull,
            "(OOM)",
        ),
        # Raised again by a script, with its place and without.
        (ANSWERED("user_script:9: ERR ACL failure in script: No permissions to access a key"), BadSetting, "a key"),
        (ANSWERED("ERR ACL failure in script: No permissions to access a key"), BadSetting, "a key"),
        # MULTI was refused as BUSY while what followed it, a large image, was still on its way.
        (ANSWERED("EXEC without MULTI"), RedisUnavailable, "part of a transaction"),
        (redis.exceptions.MovedError("3999 127.0.0.1:6381"), BadSetting, "Redis Cluster"),
        (redis.exceptions.InvalidResponse('Protocol error, got "H" as reply type byte'), BadSetting, "not a Redis"),
        (ANSWERED("something new"), CommandRefused, "something new"),
    ],
)
def test_answers_that_are_hard_to_provoke(error: redis.RedisError, kind: type[SortlineError], words: str) -> None:
    ours = translate(error, "redis://:secret@host")
    assert type(ours) is kind
    assert words in str(ours)
    assert "secret" not in str(ours)


def test_a_log_names_no_server_and_takes_our_own_errors_as_they_are() -> None:
    assert "at redis" not in explain(redis.exceptions.ConnectionError("refused"))
    assert explain(RedisUnavailable("gone.")) == "gone."


def test_what_is_not_the_clients_error_passes() -> None:
    with pytest.raises(KeyError), server_errors("redis://host"):
        raise KeyError("a")
    with contextlib.suppress(SortlineError), server_errors("redis://host"):
        raise BadSetting("as it is")
