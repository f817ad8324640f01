"""Serves `/metrics` and health probes over HTTP, on a thread of its own, for workers and cameras.

The server is uvicorn. In the container images the port is open to the whole network, so each resource has a limit. When
a limit is reached, the oldest connection or scrape is closed, instead of refusing the newest. So probes are answered
even while somebody holds thousands of connections open:

- A connection carries one request, and is closed CONNECTION_S after it was opened.
- At most MAX_CONNECTIONS are open, or fewer if the process may open only a few files. Connections that have not sent
  their request are closed first.
- At most MAX_SCRAPES answers to `/metrics` are rendered or sent at a time: each may be megabytes long.

Probes and scrapes run on other threads than the connections, because both may wait for a Redis server that does not
answer.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import resource
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any, NamedTuple, cast
from urllib.parse import parse_qs

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from uvicorn.protocols.http.h11_impl import H11Protocol

from shared.printable import one_line
from shared.status_sockets import LISTEN_BACKLOG, listen

log = logging.getLogger("sortline.status")

# Returns None if all is well, else what is wrong.
Probe = Callable[[], str | None]
Send = Callable[[dict[str, Any]], Awaitable[None]]

METRICS_PATH = "/metrics"
CONNECTION_S = 15.0
MAX_CONNECTIONS = 256
MAX_SCRAPES = 4
MAX_HEADER_BYTES = 16_384
# Response bodies are sent in pieces of this size, so that the rest is held by the request's task, which can be
# canceled, and not by the connection's buffer.
PIECE_BYTES = 65_536
STOP_S = 5.0

_TEXT = ((b"content-type", b"text/plain; charset=utf-8"),)


class _Answer(NamedTuple):
    """The answer to one request."""

    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = _TEXT


class StatusServer:
    """Serves a metrics registry and probes; `port` is the port that it listens on."""

    def __init__(
        self, *, host: str, port: int, registry: CollectorRegistry, probes: Mapping[str, Probe] | None = None
    ) -> None:
        """Bind the port. `probes` maps paths to probes.

        Raises:
            BadSetting: the address can't be used.
        """
        self._sockets = listen(host, port)
        self.port = int(self._sockets[0].getsockname()[1])
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}{METRICS_PATH}"
        self._server = _Server(_config(_App(registry, probes or {})))
        self._logged: set[str] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="status", daemon=True)

    def start(self) -> None:
        """Answer requests until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Requests that are being answered have one second to finish."""
        self._server.should_exit = True
        self._thread.join(STOP_S)

    async def _serve(self) -> None:
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        await self._server.serve(self._sockets)

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log each text once: without free file descriptors, asyncio reports every connection that it can't accept."""
        error = context.get("exception")
        text = f"{context['message']}: {error}"
        if text not in self._logged:
            self._logged.add(text)
            log.warning("status server: %s", text, exc_info=None if isinstance(error, OSError) else error)


class _App:
    """The ASGI application."""

    def __init__(self, registry: CollectorRegistry, probes: Mapping[str, Probe]) -> None:
        self._registry = registry
        self._probes = probes
        self._running_probes: dict[str, asyncio.Future[str | None]] = {}
        self._running_scrapes: list[asyncio.Task[Any]] = []  # oldest first
        # One thread per probe, so that none waits for another.
        self._probe_threads = ThreadPoolExecutor(max(1, len(probes)), thread_name_prefix="probe")
        self._scrape_thread = ThreadPoolExecutor(1, thread_name_prefix="scrape")

    async def __call__(self, scope: dict[str, Any], _receive: object, send: Send) -> None:
        try:
            answer = await self._reply(scope)
        except asyncio.CancelledError:
            answer = _Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"newer scrapes arrived, or the process is stopping\n")
        except Exception:
            log.exception("%s can't be answered", scope["path"])
            answer = _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n")
        length = (b"content-length", str(len(answer.body)).encode())
        await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, length]})
        for start in range(0, len(answer.body), PIECE_BYTES):
            piece = answer.body[start : start + PIECE_BYTES]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    async def _reply(self, scope: dict[str, Any]) -> _Answer:
        path = scope["path"].removesuffix("/")
        if path != METRICS_PATH and path not in self._probes:
            paths = ", ".join([METRICS_PATH, *self._probes])
            return _Answer(HTTPStatus.NOT_FOUND, f"see {paths}\n".encode())
        if scope["method"] not in ("GET", "HEAD"):
            return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"GET or HEAD\n", (*_TEXT, (b"allow", b"GET, HEAD")))
        if path == METRICS_PATH:
            self._admit_scrape()
            return await asyncio.get_running_loop().run_in_executor(self._scrape_thread, self._scrape, scope)
        problem = await self._probe(path)
        status = HTTPStatus.OK if problem is None else HTTPStatus.SERVICE_UNAVAILABLE
        return _Answer(status, f"{one_line(problem or 'ok')}\n".encode())

    async def _probe(self, path: str) -> str | None:
        """Run a probe. Requests that arrive while it runs share its answer, so that many cost no more than one."""
        running = self._running_probes.get(path)
        if running is None or running.done():
            running = asyncio.get_running_loop().run_in_executor(self._probe_threads, self._probes[path])
            self._running_probes[path] = running
        return await running

    def _admit_scrape(self) -> None:
        """Register the calling request as a scrape; at the limit, cancel the oldest scrape."""
        self._running_scrapes = [scrape for scrape in self._running_scrapes if not scrape.done()]
        if len(self._running_scrapes) >= MAX_SCRAPES:
            self._running_scrapes.pop(0).cancel()
        self._running_scrapes.append(cast("asyncio.Task[Any]", asyncio.current_task()))

    def _scrape(self, scope: dict[str, Any]) -> _Answer:
        """Answer like prometheus_client's own ASGI app, which would render in the event loop and so block it."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        names = parse_qs(scope["query_string"].decode()).get("name[]")
        registry = cast(CollectorRegistry, self._registry.restricted_registry(names)) if names else self._registry
        try:
            encoder, content_type = choose_encoder(headers.get(b"accept", ""))
        except (TypeError, ValueError):  # raised for a version that is not a number
            encoder, content_type = choose_encoder("")
        body = encoder(registry)
        answer_headers = ((b"content-type", content_type.encode()),)
        if not _takes_gzip(headers.get(b"accept-encoding", "")):
            return _Answer(HTTPStatus.OK, body, answer_headers)
        packed = gzip.compress(body, compresslevel=1)
        return _Answer(HTTPStatus.OK, packed, (*answer_headers, (b"content-encoding", b"gzip")))


class _Server(uvicorn.Server):
    """Sets the length of the kernel's accept queue separately.

    asyncio uses one number, `backlog`, for that length and for how many connections it accepts in one turn.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(LISTEN_BACKLOG)


class _Connection(H11Protocol):
    """Adds two limits that uvicorn lacks: how long a connection may last, and how many may be open.

    At the second limit the oldest connection is closed; new ones are never refused.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        if len(self.connections) >= _max_connections():
            self._close_oldest()
        super().connection_made(transport)
        self._opened_at_s = self.loop.time()
        self._time_limit = self.loop.call_later(CONNECTION_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._time_limit.cancel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection open for the answer if the client closes its side after it has sent its request.

        Returning True tells asyncio to do so.
        """
        return self.cycle is not None

    def _close_oldest(self) -> None:
        """Close the oldest connection that has not sent its request, or else the oldest of all."""
        connections = cast("set[_Connection]", self.connections)
        oldest = min(connections, key=lambda connection: (connection.cycle is not None, connection._opened_at_s))
        oldest.transport.abort()
        connections.discard(oldest)  # now: uvicorn notices the loss only after it has accepted others
        if not self.app_state.get("is_full_logged"):  # one dict for all connections
            self.app_state["is_full_logged"] = True
            log.warning(
                "the metrics port has %d open connections, its limit: each new one closes the oldest",
                _max_connections(),
            )


def _config(app: _App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Connection,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ws="none",
        interface="asgi3",
        lifespan="off",
        proxy_headers=False,
        workers=1,  # else WEB_CONCURRENCY is read
        log_config=None,
        log_level="critical",  # below it uvicorn logs a line for each malformed request
        access_log=False,
        server_header=False,
        date_header=False,
        headers=[("connection", "close")],
        backlog=_accept_batch(),
        timeout_graceful_shutdown=1,
    )


def _takes_gzip(accept_encoding: str) -> bool:
    codings = (coding.replace(" ", "").lower().partition(";") for coding in accept_encoding.split(","))
    return any(name == "gzip" and not re.fullmatch(r"q=0(\.0*)?", weight) for name, _, weight in codings)


def _accept_batch() -> int:
    """How many connections are accepted in one turn of the event loop.

    An accepted connection is counted a few turns later, so one turn must not use up the file descriptors: without a
    free one, asyncio accepts nothing for a second, and sets a timer for each connection that it would have accepted.
    """
    return max(1, _max_connections() // 4)


def _max_connections() -> int:
    """The limit on open connections: at most a quarter of the files that the process may open.

    Redis connections, images and models need the rest.
    """
    soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft_limit == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, max(1, soft_limit // 4))
