"""Connections: lazy, separate pools, and errors that name the server but never its password."""

from __future__ import annotations

import socket

import pytest

from shared.connection import check, connect
from shared.embedded import embedded_server
from shared.errors import BadSetting, ServerAway


def test_connects_on_first_use(redis_url: str) -> None:
    client = connect(redis_url)
    check(client, redis_url)
    client.set("a", "1")
    assert client.get("a") == b"1"


def test_each_client_has_a_pool_and_timeout_of_its_own(redis_url: str) -> None:
    first, second = connect(redis_url, socket_timeout_s=0.5), connect(redis_url)
    first.connection_pool.connection_kwargs["socket_timeout"] = 400  # what RQ does to a pool that it is handed
    assert second.connection_pool.connection_kwargs["socket_timeout"] == 10.0


def test_nobody_there() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, never listening: refused, and nobody else takes the port
        host = f"127.0.0.1:{closed.getsockname()[1]}"
        url = f"redis://:hunter2@{host}/0"
        with pytest.raises(ServerAway, match="SORTLINE_REDIS_URL") as caught:
            check(connect(url), url)
    assert host in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_server_that_accepts_and_says_nothing_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with pytest.raises(ServerAway):
            check(connect(url, socket_timeout_s=0.2), url)


@pytest.mark.parametrize("url", ["http://host", "host:6379", "redis://:hun/ter2@host:6379", "redis://host:port"])
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(BadSetting, match="redis_url") as caught:
        connect(url)
    assert "hun" not in str(caught.value)


def test_a_database_that_is_not_there_is_a_setting_to_mend() -> None:
    with embedded_server() as url:
        wrong = f"{url.rpartition('/')[0]}/9999"
        with pytest.raises(BadSetting, match="has no such database"):
            check(connect(wrong), wrong)


def test_a_refused_login_is_a_setting_to_mend() -> None:
    with embedded_server() as url:
        with connect(url) as client:
            client.config_set("requirepass", "hunter2")
        right = url.replace("redis://", "redis://:hunter2@")
        check(connect(right), right)
        wrong = url.replace("redis://", "redis://:letmein@")
        for refused in (url, wrong):
            with pytest.raises(BadSetting, match="refuses the login") as caught:
                check(connect(refused), refused)
            assert "letmein" not in str(caught.value)
