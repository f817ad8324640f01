"""The status server with many, slow and silent clients: probes are answered, connections and memory are bounded."""

from __future__ import annotations

import logging
import os
import resource
import socket
from contextlib import ExitStack, suppress

import pytest

from shared import status_server
from shared.status_server import MAX_SCRAPES
from tests.shared.server.held_connections import held
from tests.shared.status_servers import (
    FULL_REQUEST,
    PATIENCE_S,
    Problems,
    SlowCollector,
    ask,
    connect,
    is_open,
    read_to_end,
)
from tests.worker import kit

pytestmark = pytest.mark.usefixtures("all_is_well")


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
    """The kernel goes on reporting the connection that can't be accepted: retrying at once would take a core."""
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
