"""The status server: what it answers to scrapers and orchestrators, what it refuses, and at which addresses."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from shared.errors import BadSetting
from shared.status_server import StatusServer
from tests.shared.status_servers import FULL_REQUEST, Problems, ask, connect, read_to_end

pytestmark = pytest.mark.usefixtures("all_is_well")


# what is answered ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/metrics?", "/metrics?x=1"])
def test_metrics(port: int, path: str) -> None:
    status, headers, body = ask(port, path)
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    assert b"apples_total 3.0\n" in body and b"pears_total" in body


def test_metrics_by_name(port: int) -> None:
    body = ask(port, "/metrics?name[]=apples_total")[2]
    assert b"apples_total 3.0\n" in body and b"pears" not in body


def test_open_metrics(port: int) -> None:
    _, headers, body = ask(port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


def test_a_format_that_the_client_library_raises_on_is_the_plain_one(port: int) -> None:
    status, headers, _ = ask(port, "/metrics", Accept="application/openmetrics-text; version=new")
    assert (status, headers["Content-Type"][:10]) == (200, "text/plain")


def test_metrics_are_compressed_when_asked(port: int) -> None:
    _, headers, body = ask(port, "/metrics", Accept_Encoding="deflate, gzip;q=1.0")
    assert headers["Content-Encoding"] == "gzip"
    assert b"apples_total 3.0\n" in gzip.decompress(body)


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "gzip; q=0.0, identity", "deflate"])
def test_metrics_are_not_compressed_when_refused(port: int, accepted: str) -> None:
    _, headers, body = ask(port, "/metrics", Accept_Encoding=accepted)
    assert "Content-Encoding" not in headers
    assert b"apples_total 3.0\n" in body


def test_probes_say_what_is_wrong(port: int, problems: Problems) -> None:
    assert ask(port, "/healthz")[::2] == (200, b"ok\n")
    assert ask(port, "/readyz/?verbose")[::2] == (503, b"the model is being loaded\n")
    problems.health, problems.readiness = "stück since noon", None
    assert ask(port, "/healthz")[::2] == (503, "stück since noon\n".encode())
    assert ask(port, "/readyz")[::2] == (200, b"ok\n")


def test_a_probe_quotes_others_in_one_line(port: int, problems: Problems) -> None:
    problems.health = "thread \x1b[2J\nok\udce9" + "x" * 5_000_000
    status, _, body = ask(port, "/healthz")
    assert status == 503
    assert body.startswith(rb"thread \x1b[2J\nok\xe9xxx")
    assert body.count(b"\n") == 1
    assert len(body) < 5_100


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/nothing"])
def test_head_is_get_without_a_body(port: int, path: str) -> None:
    status, headers, body = ask(port, path, method="HEAD")
    with_body = ask(port, path)
    assert (status, headers) == with_body[:2]
    assert int(headers["Content-Length"]) == len(with_body[2])
    assert body == b""


@pytest.mark.parametrize("path", ["/", "/metric", "//metrics", "/../etc/passwd", "/metrics/x", "/%00"])
def test_any_other_path_is_not_found(port: int, path: str) -> None:
    status, _, body = ask(port, path)
    assert (status, body) == (404, b"see /metrics, /healthz, /readyz\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_any_other_method_is_not_allowed(port: int, method: str) -> None:
    status, headers, _ = ask(port, "/metrics", method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_client_that_ends_its_side_gets_its_answer(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(FULL_REQUEST % b"/healthz")
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection).endswith(b"ok\n")


def test_a_probe_that_raises_is_an_answer_and_is_logged(
    port: int, problems: Problems, caplog: pytest.LogCaptureFixture
) -> None:
    del problems.goes_on
    assert ask(port, "/readyz")[::2] == (500, b"see the log\n")
    assert "/readyz can't be answered" in caplog.text
    problems.goes_on = threading.Event()


# requests that are none ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz\r\n\r\n",  # HTTP/0.9
        b"GET /healthz HTTP/1.1\r\n\r\n",  # no Host
        b"G\x1bET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\nabc",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000,
        b"a" * 1_000_000,
    ],
    ids=lambda request_bytes: request_bytes[:20].decode(errors="replace"),
)
def test_what_is_no_request_is_closed_without_a_word_in_the_log(
    port: int, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(port) as connection:
        try:
            connection.sendall(request_bytes)
        except ConnectionError:  # closed before it had all of it
            return
        assert read_to_end(connection)[:10] in (b"HTTP/1.1 4", b"")
    assert ask(port, "/healthz")[0] == 200
    assert caplog.records == []


def test_of_several_requests_on_a_connection_one_is_answered(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(FULL_REQUEST % b"/healthz" * 3)
        assert read_to_end(connection).count(b"HTTP/1.1 200 OK") == 1


# addresses ──────────────────────────────────────────────────────────────────────────────────────────


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="the kernel has no IPv6")


@pytest.mark.parametrize(
    ("host", "reached_at", "url"),
    [
        ("127.0.0.1", ["127.0.0.1"], "http://127.0.0.1:{}/metrics"),
        ("0.0.0.0", ["127.0.0.1"], "http://0.0.0.0:{}/metrics"),  # noqa: S104  # what is tested
        ("localhost", ["localhost", "127.0.0.1"], "http://localhost:{}/metrics"),
        pytest.param("::1", ["::1"], "http://[::1]:{}/metrics", marks=needs_ipv6),
        pytest.param("::", ["::1", "127.0.0.1"], "http://[::]:{}/metrics", marks=needs_ipv6),
    ],
)
def test_any_address_can_be_served(
    start: Callable[[str], StatusServer], host: str, reached_at: list[str], url: str
) -> None:
    server = start(host)
    for address in reached_at:
        assert ask(server.port, "/healthz", host=address)[0] == 200
    assert server.url == url.format(server.port)


def test_a_name_with_addresses_that_are_doubled_or_not_here(
    start: Callable[[str], StatusServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /etc/hosts may have them: `localhost` twice, or with an IPv6 address where the kernel has no IPv6."""

    def found(address: str) -> tuple[object, ...]:
        return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 0))

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: [*map(found, ["192.0.2.1", *2 * ["127.0.0.1"]])])
        server = start("plant-7")
    assert ask(server.port, "/healthz")[0] == 200


def test_a_port_that_is_taken_is_a_setting_to_fix(port: int) -> None:
    with pytest.raises(BadSetting, match=rf"metrics_port {port}: Address already in use.*--metrics-port"):
        StatusServer(host="127.0.0.1", port=port, registry=CollectorRegistry())


@pytest.mark.parametrize("host", ["192.0.2.1", "a..b", "x" * 64])
def test_an_address_that_this_machine_lacks_is_a_setting_to_fix(host: str) -> None:
    with pytest.raises(BadSetting, match=rf"metrics_host '{host}'.*Set metrics_host to an address of this machine"):
        StatusServer(host=host, port=0, registry=CollectorRegistry())


def test_an_unknown_host_name_is_a_setting_to_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(BadSetting, match=r"metrics_host 'plant-7'.*Name or service not known. Set metrics_host to"):
        StatusServer(host="plant-7", port=0, registry=CollectorRegistry())


@pytest.mark.slow
def test_a_stopped_server_has_closed_its_port_and_its_connections() -> None:
    server = StatusServer(host="127.0.0.1", port=0, registry=CollectorRegistry(), probes={"/healthz": lambda: None})
    server.start()
    with connect(server.port) as held_open:
        assert ask(server.port, "/healthz")[0] == 200
        server.stop()
        assert read_to_end(held_open) == b""
        with pytest.raises(ConnectionRefusedError):
            connect(server.port)
