"""The status server: for scrapers and orchestrators, and under hostile clients."""

from __future__ import annotations

import gzip
import http.client
import logging
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from shared import status_server
from shared.errors import BadSetting
from shared.status_server import MAX_SCRAPES, StatusServer
from tests.shared.server.held_connections import held
from tests.worker import kit

PATIENCE_S = kit.PATIENCE_S
FULL_REQUEST = b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n"


class Problems:
    """What the probes answer with; the one for readiness waits for `goes_on`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.health: str | None = None
        self.readiness: str | None = "the model is being loaded"
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.asked = 0

    def ready(self) -> str | None:
        self.asked += 1
        self.goes_on.wait(PATIENCE_S)
        return self.readiness


class SlowCollector(Collector):
    """A collector that waits, as one does that asks a server which is away; its one metric has a text of any size."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.entered = threading.Semaphore(0)
        self.text = ""

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterable[Metric]:
        self.entered.release()
        self.goes_on.wait(PATIENCE_S)
        return [Metric("slow", self.text, "gauge")]


@pytest.fixture(scope="module")
def problems() -> Problems:
    return Problems()


@pytest.fixture(scope="module")
def collector() -> SlowCollector:
    return SlowCollector()


@pytest.fixture(autouse=True)
def all_is_well(problems: Problems, collector: SlowCollector) -> Iterator[None]:
    """Most tests share a server, because each takes a quarter of a second to stop."""
    problems.reset()
    collector.reset()
    yield
    problems.goes_on.set()
    collector.goes_on.set()


@pytest.fixture(scope="module")
def start(problems: Problems, collector: SlowCollector) -> Iterator[Callable[[str], StatusServer]]:
    with ExitStack() as stack:

        def start(host: str) -> StatusServer:
            registry = CollectorRegistry()
            Counter("apples", "Apples", registry=registry).inc(3)
            Counter("pears", "Pears", registry=registry)
            registry.register(collector)
            probes = {"/healthz": lambda: problems.health, "/readyz": problems.ready}
            server = StatusServer(host=host, port=0, registry=registry, probes=probes)
            server.start()
            stack.callback(server.stop)
            return server

        yield start


@pytest.fixture(scope="module")
def port(start: Callable[[str], StatusServer]) -> int:
    return start("127.0.0.1").port


def ask(
    port: int, path: str, *, method: str = "GET", host: str = "127.0.0.1", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, {name.title(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def read_to_end(connection: socket.socket) -> bytes:
    """All that comes until the server closes; raises TimeoutError if it doesn't."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionResetError:  # it closed while something that we sent was unread
        pass
    return received


def is_open(connection: socket.socket) -> bool:
    """Whether the server has left it open, having sent nothing."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


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


def test_probes_say_what_is_wrong(port: int, problems: Problems) -> None:
    assert ask(port, "/healthz")[::2] == (200, b"ok\n")
    assert ask(port, "/readyz/?verbose")[::2] == (503, b"the model is being loaded\n")
    problems.health, problems.readiness = "stück since noon", None
    assert ask(port, "/healthz")[::2] == (503, "stück since noon\n".encode())
    assert ask(port, "/readyz")[::2] == (200, b"ok\n")


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


# connections that are held ──────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_probes_are_answered_beside_2000_held_connections(port: int, problems: Problems) -> None:
    """With one thread per connection and no bound, the process ran out of descriptors and a core spun."""
    problems.readiness = None
    with held(port, 2_000) as connections:
        assert len(connections) > status_server.MAX_CONNECTIONS
        for path in ("/healthz", "/readyz", "/metrics"):
            assert ask(port, path)[0] == 200
        assert sum(is_open(connection) for connection in connections) <= status_server.MAX_CONNECTIONS


def test_the_oldest_connection_without_a_request_is_closed_first(
    port: int, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_server, "MAX_CONNECTIONS", 3)
    problems.goes_on.clear()
    with connect(port) as waiting, connect(port) as oldest, connect(port) as newer:
        waiting.sendall(FULL_REQUEST % b"/readyz")
        kit.wait_until(lambda: problems.asked == 1, "the first connection has sent its request")
        with connect(port):
            assert read_to_end(oldest) == b""
            assert is_open(newer)
            problems.goes_on.set()
            assert read_to_end(waiting).endswith(b"the model is being loaded\n")


def test_what_sends_no_whole_request_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_server, "CONNECTION_S", 0.1)
    with connect(port) as silent, connect(port) as slow:
        with suppress(ConnectionError):  # closed by then, on a busy machine
            slow.sendall(b"GET /met")
        assert read_to_end(silent) == read_to_end(slow) == b""


def test_what_does_not_take_its_answer_is_closed(
    port: int, collector: SlowCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_server, "CONNECTION_S", 0.1)
    collector.goes_on.clear()
    with connect(port) as connection:
        with suppress(ConnectionError):  # as above
            connection.sendall(FULL_REQUEST % b"/metrics")
        assert read_to_end(connection) == b""
    monkeypatch.undo()
    collector.goes_on.set()
    assert ask(port, "/metrics")[0] == 200, "which waits until the scrape before it is rendered"


def test_scrapes_that_wait_hold_up_no_probe(port: int, collector: SlowCollector, problems: Problems) -> None:
    collector.goes_on.clear()
    problems.readiness = None
    with ExitStack() as stack:
        scrapers = [stack.enter_context(connect(port)) for _ in range(MAX_SCRAPES)]
        for scraper in scrapers:
            scraper.sendall(FULL_REQUEST % b"/metrics")
        assert collector.entered.acquire(timeout=PATIENCE_S)
        assert ask(port, "/healthz")[0] == ask(port, "/readyz")[0] == 200
        collector.goes_on.set()
        for scraper in scrapers:
            assert b"apples_total 3.0" in read_to_end(scraper)


def test_scrapes_are_bounded_and_the_oldest_gives_way(port: int, collector: SlowCollector) -> None:
    """Each holds megabytes until it is sent: 256 of them were more than the worker's memory."""
    collector.goes_on.clear()
    with ExitStack() as stack:
        oldest, *others = [stack.enter_context(connect(port)) for _ in range(MAX_SCRAPES + 1)]
        oldest.sendall(FULL_REQUEST % b"/metrics")
        assert collector.entered.acquire(timeout=PATIENCE_S)
        for scraper in others:
            scraper.sendall(FULL_REQUEST % b"/metrics")
        assert read_to_end(oldest).startswith(b"HTTP/1.1 503 ")
        collector.goes_on.set()
        for scraper in others:
            assert b"apples_total 3.0" in read_to_end(scraper)


@pytest.mark.slow
def test_answers_that_nobody_takes_are_bounded_too(port: int, collector: SlowCollector) -> None:
    """Otherwise each waits in memory, whole, until its connection is closed."""
    collector.text = "x" * 32_000_000  # more than the kernel keeps for both ends
    with ExitStack() as stack:
        oldest, *others = [stack.enter_context(connect(port)) for _ in range(MAX_SCRAPES + 1)]
        for scraper in (oldest, *others):
            scraper.sendall(FULL_REQUEST % b"/metrics")
            assert scraper.recv(12) == b"HTTP/1.1 200"
        assert len(read_to_end(oldest)) < len(collector.text)
        assert len(read_to_end(others[0])) > len(collector.text)


def test_requests_that_come_while_a_probe_runs_share_its_answer(port: int, problems: Problems) -> None:
    """A probe waits 2 s for a server that hangs: one after the other, a dozen took half a minute."""
    problems.goes_on.clear()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(port)) for _ in range(12)]
        for client in clients:
            client.sendall(FULL_REQUEST % b"/readyz")
        assert ask(port, "/healthz")[0] == 200, "which comes after the twelve, so they are waiting now"
        problems.goes_on.set()
        assert all(b"503" in read_to_end(client) for client in clients)
    assert problems.asked == 1


def test_without_descriptors_it_waits_and_says_so_once(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """The kernel goes on reporting the connection that can't be accepted: a server that retries at once spins."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert ask(port, "/healthz")[0] == 200
    with socket.socket() as client:
        client.settimeout(PATIENCE_S)
        lowest_free = os.dup(client.fileno())
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            client.connect(("127.0.0.1", port))
            client.sendall(FULL_REQUEST % b"/healthz")
            kit.wait_until(lambda: caplog.records, "the server says that it has no descriptors")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert b"200 OK" in read_to_end(client)
    assert [(record.levelno, record.exc_info) for record in caplog.records] == [(logging.WARNING, None)]
    assert "Too many open files" in caplog.text


def test_a_process_that_may_open_few_files_keeps_most_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, most in ((1024, 256), (64, 16), (3, 1), (1_000_000, 256), (resource.RLIM_INFINITY, 256)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert status_server._max_connections() == most


@pytest.mark.parametrize("soft", [1024, 256, 64, 16])
def test_a_burst_of_connections_leaves_descriptors(monkeypatch: pytest.MonkeyPatch, soft: int) -> None:
    """One is counted up to three turns of the event loop after it was accepted: at 64 a turn, 256 were used up."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert status_server._max_connections() + 4 * status_server._config(lambda: None).backlog <= soft / 2


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
        ("0.0.0.0", ["127.0.0.1"], "http://0.0.0.0:{}/metrics"),
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
