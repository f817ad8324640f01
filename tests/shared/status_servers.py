"""What the status server is tested with: probes and a collector that the test controls, and requests to the server."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterable

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

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
