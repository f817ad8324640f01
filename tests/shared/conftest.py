"""Fixtures of the status server's tests: a running server, and what it answers with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Counter

from shared.status_server import StatusServer
from tests.shared.status_servers import Problems, SlowCollector


@pytest.fixture(scope="module")
def problems() -> Problems:
    return Problems()


@pytest.fixture(scope="module")
def collector() -> SlowCollector:
    return SlowCollector()


@pytest.fixture
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
