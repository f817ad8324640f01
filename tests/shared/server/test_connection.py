"""Connections: lazy, separate pools, and errors that name the server but never its password."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from shared.errors import BadSetting, RedisUnavailable
from shared.ports import free_port
from shared.server.connection import check, connect
from shared.server.embedded import embedded_server
from shared.server.raw_connection import RawConnection
from tests.shared.server.servers import debian_server, self_signed_certificate


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
        with pytest.raises(RedisUnavailable, match="SORTLINE_REDIS_URL") as caught:
            check(connect(url), url)
    assert host in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("timeout_s", "connect_s"), [(0.1, 0.1), (60.0, 5.0)])
def test_the_timeout_also_bounds_the_connection(timeout_s: float, connect_s: float) -> None:
    client = connect("redis://127.0.0.1:1/0", socket_timeout_s=timeout_s)
    assert client.connection_pool.connection_kwargs["socket_connect_timeout"] == connect_s


def test_a_server_that_accepts_and_says_nothing_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.server.connection._TLS_PROBE_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with pytest.raises(RedisUnavailable):
            check(connect(url, socket_timeout_s=0.2), url)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("http://host", "redis://"),
        ("host:6379", "redis://"),
        ("", "redis://"),
        ("sentinel://host:26379/plant", "redis://"),
        ("redis://:hun/ter2@host:6379", "%2F"),
        ("redis://:123?hunter2@host:6379/0", "%2F"),
        ("redis://:123#hunter2@host:6379/0", "%2F"),
        ("redis://host:port", "host:port/db"),
        ("redis://host:99999/0", "host:port/db"),
        ("redis://host:0/0", "host:port/db"),
        ("redis://one:6379,two:6379/0", "one server"),
        ("redis://one,two/0", "one server"),
        ("redis://a..b:6379/0", "host:port/db"),
        ("unix://", "unix:///path"),
        ("unix://redis.sock", "unix:///path"),
        ("unix://tmp/redis.sock", "lacks a slash: write unix:///path"),
        ("redis://host/live", "ends with '/live'"),
        ("redis://host/0/1", "ends with '/0/1'"),
        ("redis://host/?db=live", "host:port/db"),
        ("redis://host?decode_responses=True", "'decode_responses'"),
        ("redis://host?socket_timeout=0.1", "'socket_timeout'"),
        ("redis://host?nonsense", "NAME=VALUE"),
        ("redis://host?ssl_cert_reqs=none", "TLS is rediss://"),
        ("rediss://host?ssl_cert_reqs=maybe", "required, optional, none"),
        ("rediss://host?ssl_ca_certs=/no/such/file", "is not a file"),
        ("rediss://host?ssl_ca_certs=", "give it a value"),
        (f"rediss://host?ssl_keyfile={__file__}", "name that too (ssl_certfile=FILE)"),
    ],
)
def test_urls_that_cannot_be_used(url: str, named: str) -> None:
    with pytest.raises(BadSetting, match="redis_url") as caught:
        connect(url)
    assert named in str(caught.value)
    assert "hun" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://host",
        "redis://[::1]:6379/0",
        "redis://user:p%40s%2F@host/0",
        "redis://host?db=3&client_name=line-1",
        "rediss://host:6380/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1&password=secret",
    ],
)
def test_urls_that_make_a_connection(url: str) -> None:
    connect(url).connection_pool.make_connection()  # raises if the client doesn't know an argument


def test_a_database_that_does_not_exist_is_a_setting_to_fix() -> None:
    with embedded_server() as url:
        wrong = f"{url.rpartition('/')[0]}/9999"
        with pytest.raises(BadSetting, match="has no such database"):
            check(connect(wrong), wrong)


def test_a_refused_login_is_a_setting_to_fix() -> None:
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
            # Only where a password is sent is it that of a user.
            assert ("names no user, so it logs in as `default`" in str(caught.value)) == (refused == wrong)
        named = url.replace("redis://", "redis://plant:letmein@")
        with pytest.raises(BadSetting, match="refuses the login") as caught:
            check(connect(named), named)
        assert "names no user" not in str(caught.value)


def test_a_unix_socket_works_for_the_client_and_the_raw_connection(tmp_path: Path) -> None:
    with debian_server(tmp_path):
        url = f"unix://{tmp_path}/socket?db=1"
        client = connect(url)
        check(client, url)
        assert RawConnection(client).call("SET", "a", "1") == b"OK"
        assert client.get("a") == b"1"


def test_tls_where_it_fits_and_where_it_does_not(tmp_path: Path) -> None:
    certificate, key = self_signed_certificate(tmp_path)
    tls, plain = free_port(), free_port()
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)]
    trusted, known = f"ssl_ca_certs={certificate}", f"ssl_certfile={certificate}&ssl_keyfile={key}"
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    with debian_server(tmp_path, "--tls-port", str(tls), "--port", str(plain), *files):
        good = f"rediss://127.0.0.1:{tls}/0?{trusted}&{known}"
        check(connect(good), good)
        for url, named in (
            (f"redis://127.0.0.1:{tls}/0", "speaks TLS"),
            (f"rediss://127.0.0.1:{tls}/0", "is not trusted"),
            (f"rediss://localhost:{tls}/0?{trusted}&{known}", "Hostname mismatch"),
            (f"rediss://127.0.0.1:{tls}/0?ssl_ca_certs={bad}", "must be a PEM file"),
        ):
            with pytest.raises(BadSetting, match=named):
                check(connect(url), url)
        unknown = f"rediss://127.0.0.1:{tls}/0?{trusted}"
        # BadSetting if the server's alert arrives before it closes the connection.
        with pytest.raises((BadSetting, RedisUnavailable), match="client certificate") as caught:
            check(connect(unknown), unknown)
        assert "Start one" not in str(caught.value)


def test_a_certificate_without_its_key_is_named(tmp_path: Path) -> None:
    """The client reads them once the port is open, whoever listens there."""
    (tmp_path / "other").mkdir()
    certificate, key = self_signed_certificate(tmp_path)
    _, other = self_signed_certificate(tmp_path / "other")
    both, bad = tmp_path / "both.pem", tmp_path / "bad.pem"
    both.write_text(certificate.read_text() + key.read_text())
    bad.write_text("no key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = f"rediss://127.0.0.1:{server.getsockname()[1]}/0?ssl_certfile="
        for named, words in (
            (f"{certificate}&ssl_keyfile={other}", "the key does not belong to the certificate"),
            (f"{certificate}", "If ssl_certfile does not hold its key too, name ssl_keyfile."),
            (f"{certificate}&ssl_keyfile={bad}", r"It must be a PEM file\.$"),
        ):
            url = start + named
            with pytest.raises(BadSetting, match=words):
                check(connect(url), url)
    connect(start + str(both))


def test_tls_to_a_port_without_it_is_reported(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server waits for the end of a command, and the client for an answer."""
    monkeypatch.setattr("shared.server.connection._CHECK_TIMEOUT_S", 0.2)
    url = redis_url.replace("redis://", "rediss://")
    with pytest.raises(BadSetting, match=r"does not speak TLS. Write redis://"):
        check(connect(url), url)


@pytest.mark.parametrize(
    "answer_bytes", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n", b"*1\r\n$1\r\nx\r\n", b":1\r\n"]
)
def test_what_is_no_redis_server_is_reported(answer_bytes: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            connection, _ = web.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer_bytes)

        threading.Thread(target=answer, daemon=True).start()
        url = f"redis://127.0.0.1:{web.getsockname()[1]}/0"
        with pytest.raises(BadSetting, match="not a Redis server"):
            check(connect(url), url)
