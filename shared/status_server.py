"""`/metrics` and probes over HTTP, on a thread of its own: for workers and cameras.

asyncio accepts the connections and h11 parses the requests. In the images the port is open to the whole network, so
each resource has a bound, and a bound that is reached closes the oldest connection instead of refusing the newest.
That keeps probes answered while somebody holds thousands of connections open:

- A connection carries one request. It has REQUEST_S to send it, and ANSWER_S more to take the answer.
- At most MAX_CONNECTIONS are open, fewer where the process may open few files. The first to be closed are those that
  have not sent their request.
- At most MAX_SCRAPES answers of `/metrics` are rendered or sent at a time: each may be megabytes.

Probes and scrapes run on threads of their own, because both may wait for a server that does not answer.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import logging
import resource
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs

import h11
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from shared.errors import BadSetting

log = logging.getLogger("sortline.status")

# None when all is well, else what is wrong.
Probe = Callable[[], str | None]

METRICS_PATH = "/metrics"
REQUEST_S = 5.0
ANSWER_S = 10.0
MAX_CONNECTIONS = 256
MAX_SCRAPES = 4
MAX_HEADER_BYTES = 16_384
# Connections that the kernel completes and keeps until they are accepted. When this queue is full, the kernel drops
# the handshake of a probe, whose client tries again only after a second.
LISTEN_BACKLOG = 1024
# Accepted in one turn of the event loop: each holds a descriptor before it is counted and bounded.
ACCEPT_BATCH = 64
STOP_S = 5.0

_TEXT = (("Content-Type", "text/plain; charset=utf-8"),)
# Not on this machine: `localhost` may have an IPv6 address where the kernel has no IPv6.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class _Answer(NamedTuple):
    """What goes back for one request."""

    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...] = _TEXT


class StatusServer:
    """Serves a registry and probes; `port` is the one it got."""

    def __init__(
        self, *, host: str, port: int, registry: CollectorRegistry, probes: Mapping[str, Probe] | None = None
    ) -> None:
        """Binds the port. `probes` are by path.

        Raises:
            BadSetting: the address can't be had.
        """
        self._sockets = _listen(host, port)
        self.port = int(self._sockets[0].getsockname()[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}{METRICS_PATH}"
        self._registry = registry
        self._probes = dict(probes or {})
        self._running_probes: dict[str, asyncio.Future[str | None]] = {}
        # One thread a probe, so that none waits behind another.
        self._probe_threads = ThreadPoolExecutor(max(1, len(self._probes)), thread_name_prefix="probe")
        self._scrape_thread = ThreadPoolExecutor(1, thread_name_prefix="scrape")
        self._connections = _Connections(limit=_max_connections())
        self._told: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Answer requests until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port and all connections."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(STOP_S)
        self._probe_threads.shutdown(wait=False, cancel_futures=True)
        self._scrape_thread.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop.set_exception_handler(self._on_loop_error)
        servers = []
        for listener in self._sockets:
            servers.append(
                await self._loop.create_server(
                    lambda: _Connection(self._connections, self._reply), sock=listener, backlog=ACCEPT_BATCH
                )
            )
            listener.listen(LISTEN_BACKLOG)  # asyncio takes its `backlog` for this number too
        await self._stopping.wait()
        for server in servers:
            server.close()
        self._connections.abort_all()

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Said once: without descriptors asyncio reports each connection that it can't accept, then waits a second."""
        error = context.get("exception")
        text = f"{context['message']}: {error}"
        if text not in self._told:
            self._told.add(text)
            log.warning("status server: %s", text, exc_info=None if isinstance(error, OSError) else error)

    # What is answered ───────────────────────────────────────────────────────────────────────────────────

    async def _reply(self, connection: _Connection, request: h11.Request) -> _Answer:
        path, _, query = request.target.decode().partition("?")
        path = path.removesuffix("/")
        if path != METRICS_PATH and path not in self._probes:
            paths = ", ".join([METRICS_PATH, *self._probes])
            return _Answer(HTTPStatus.NOT_FOUND, f"see {paths}\n".encode())
        if request.method not in (b"GET", b"HEAD"):
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET or HEAD\n", (*_TEXT, ("Allow", "GET, HEAD")))
        if path != METRICS_PATH:
            problem = await self._probe(path)
            status = HTTPStatus.OK if problem is None else HTTPStatus.SERVICE_UNAVAILABLE
            return _Answer(status, f"{problem or 'ok'}\n".encode())
        self._connections.scrape(connection)
        return await self._loop.run_in_executor(self._scrape_thread, self._scrape, query, _headers(request))

    async def _probe(self, path: str) -> str | None:
        """Requests that come while a probe runs share its answer, so that many cost as much as one."""
        running = self._running_probes.get(path)
        if running is None:
            running = self._loop.run_in_executor(self._probe_threads, self._probes[path])
            self._running_probes[path] = running
            running.add_done_callback(lambda _: self._running_probes.pop(path))
        return await asyncio.shield(running)

    def _scrape(self, query: str, headers: Mapping[str, str]) -> _Answer:
        """As the client's own WSGI app answers, which has no public function for it."""
        names = parse_qs(query).get("name[]")
        registry = cast(CollectorRegistry, self._registry.restricted_registry(names)) if names else self._registry
        try:
            encoder, content_type = choose_encoder(headers.get("accept", ""))
        except (TypeError, ValueError):  # it raises on a version that is not a number
            encoder, content_type = choose_encoder("")
        body = encoder(registry)
        if not _takes_gzip(headers.get("accept-encoding", "")):
            return _Answer(HTTPStatus.OK, body, (("Content-Type", content_type),))
        packed = gzip.compress(body, compresslevel=1)
        return _Answer(HTTPStatus.OK, packed, (("Content-Type", content_type), ("Content-Encoding", "gzip")))


class _Connections:
    """The open connections, oldest first. Used by the event loop alone."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        # Dicts for their order: a set has none.
        self._silent: dict[_Connection, None] = {}  # no complete request yet
        self._answering: dict[_Connection, None] = {}
        self._scraping: dict[_Connection, None] = {}
        self._is_told = False

    def add(self, connection: _Connection) -> None:
        """A new one; at the limit the oldest is closed for it."""
        if len(self._silent) + len(self._answering) >= self._limit:
            if not self._is_told:
                self._is_told = True
                log.warning(
                    "the metrics port has %d open connections, its limit: each new one closes the oldest", self._limit
                )
            next(iter(self._silent or self._answering)).abort()
        self._silent[connection] = None

    def answer(self, connection: _Connection) -> None:
        """It has sent its request."""
        self._silent.pop(connection, None)
        self._answering[connection] = None

    def scrape(self, connection: _Connection) -> None:
        """It is to be sent the metrics; at the limit the oldest such connection is closed for it."""
        if len(self._scraping) >= MAX_SCRAPES:
            next(iter(self._scraping)).abort()
        self._scraping[connection] = None

    def remove(self, connection: _Connection) -> None:
        """It is closed; again does no harm."""
        for connections in (self._silent, self._answering, self._scraping):
            connections.pop(connection, None)

    def abort_all(self) -> None:
        """Close every one."""
        for connection in [*self._silent, *self._answering]:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection: one request, one answer, closed."""

    def __init__(
        self, connections: _Connections, reply: Callable[[_Connection, h11.Request], Awaitable[_Answer]]
    ) -> None:
        self._connections = connections
        self._reply = reply
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(REQUEST_S, self.abort)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._task is not None or self._transport.is_closing():
            return  # a body, or a second request: neither is read
        self._http.receive_data(data)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._send(_Answer(HTTPStatus(error.error_status_hint), f"{error}\n".encode()))
            return
        if isinstance(event, h11.Request):
            self._timer.cancel()
            self._timer = self._loop.call_later(ANSWER_S, self.abort)
            self._connections.answer(self)
            self._task = self._loop.create_task(self._answer(event))

    def eof_received(self) -> bool:
        """A client may close its side once it has asked; the transport then stays open for the answer."""
        return self._task is not None

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self._connections.remove(self)
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """Close it now, whatever is unsent."""
        self._connections.remove(self)
        self._transport.abort()

    async def _answer(self, request: h11.Request) -> None:
        try:
            answer = await self._reply(self, request)
        except Exception:
            log.exception("%s can't be answered", request.target.decode())
            answer = _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n")
        self._send(answer, is_head=request.method == b"HEAD")

    def _send(self, answer: _Answer, *, is_head: bool = False) -> None:
        headers = [*answer.headers, ("Content-Length", str(len(answer.body))), ("Connection", "close")]
        events: list[h11.Event] = [
            h11.Response(status_code=answer.status, reason=answer.status.phrase.encode(), headers=headers)
        ]
        if not is_head:
            events.append(h11.Data(data=answer.body))
        events.append(h11.EndOfMessage())
        self._transport.write(b"".join(self._http.send(event) or b"" for event in events))
        self._transport.close()


def _headers(request: h11.Request) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in request.headers}


def _takes_gzip(accept_encoding: str) -> bool:
    return any(coding.split(";")[0].strip().lower() == "gzip" for coding in accept_encoding.split(","))


def _max_connections() -> int:
    """A quarter of the files that the process may open, at most: Redis, images and models need theirs."""
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft_limit == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, max(1, soft_limit // 4))


def _listen(host: str, port: int) -> list[socket.socket]:
    """Listens at all addresses of a host, on one port.

    Raises:
        BadSetting: the address can't be had.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                listeners.append(_bind(family, address, port))
                port = listeners[0].getsockname()[1]  # for 0, the other addresses get the same free port
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if absent is not None and not listeners:
            raise absent
    except (OSError, UnicodeError) as error:
        for listener in listeners:
            listener.close()
        raise BadSetting(_describe(error, host=host, port=port)) from error
    return listeners


def _bind(family: int, address: tuple[Any, ...], port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` takes IPv4 too.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        listener.bind((address[0], port, *address[2:]))
        listener.listen(LISTEN_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _describe(error: OSError | UnicodeError, *, host: str, port: int) -> str:
    reason = error.strerror if isinstance(error, OSError) else "not a host name"
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        mend = "Another worker or camera on this machine? Give each its own --metrics-port, or 0 for a free one."
    elif code == errno.EACCES:
        mend = "Choose a --metrics-port above 1023."
    else:
        mend = "Set metrics_host to an address of this machine: 127.0.0.1, or 0.0.0.0 or :: for all of its addresses."
    return f"metrics_host {host!r}, metrics_port {port}: {reason}. {mend}"
