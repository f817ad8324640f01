"""A TCP proxy between Redis clients and their server, to cause faults.

It slows, cuts, stalls and refuses connections, and acts on single requests and answers at fault points. It runs in one
thread of its own, with asyncio. The methods of `Proxy` may be called from any other thread.

A fault point (`Proxy.on`, `Proxy.drop_answers`) is a request at which the proxy runs an action. It is exact, whatever
TCP segments the bytes come in and however many requests are pipelined, because the proxy reads the protocol:
- A request is passed on once all of it has arrived, so "before" means that the server has no byte of it. In a pipeline,
  the requests before it have been passed on by then, and those after it have not.
- "After" means that all of the server's answer to this request has arrived, and that the client has no byte of it.
  Answers to earlier requests of the same pipeline may be held back with it.
The proxy counts one answer for each request, which is wrong for a connection that subscribes to channels with RESP2.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import socket
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from torture.server.resp import Answers, Requests

T = TypeVar("T")
Moment = Literal["before", "after"]

CHUNK_BYTES = 65536


@dataclass(slots=True)
class Link:
    """One direction of the network, shared by all connections. Set its fields at any time."""

    delay_s: float = 0.0
    bytes_per_s: float = math.inf
    _free_at: float = field(default=0.0, init=False)

    def arrives_at(self, size_bytes: int, *, now: float) -> float:
        """When bytes that are sent now arrive, on the clock of `now`."""
        self._free_at = max(now, self._free_at) + size_bytes / self.bytes_per_s
        return self._free_at + self.delay_s


class Proxy:
    """Passes new connections on to `target`, the URL of a server. If it is changed, existing connections stay.

    `to_server` and `to_client` are the two directions of the network.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.to_server, self.to_client = Link(), Link()
        self._fault_points = _FaultPoints()
        # What follows belongs to the proxy's thread.
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], socket.socket] = {}  # each with its client, the oldest first

    def start(self) -> None:
        """Accept connections from now on."""
        # Bound, but never listening: it keeps the port while the proxy refuses connections.
        self._port_holder = socket.socket()
        self._port_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port_holder.bind(("127.0.0.1", 0))
        self._port = self._port_holder.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.accept()

    def close(self) -> None:
        """End all connections and the thread. Waits for actions that are running."""
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._port_holder.close()

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"redis://127.0.0.1:{self._port}/0"

    def on(self, marker: bytes, moment: Moment, action: Callable[[], T], *, ends_connection: bool) -> Future[T]:
        """Call `action` once, when the next request with `marker` in it passes.

        A request meets one fault point at most, the oldest that it matches. Its connection waits while the action runs,
        on a thread of its own; the other connections do not. If the connection ends sooner, the action never runs.

        Args:
            marker: part of the request as it is sent, e.g. `b"$4\\r\\nMGET\\r\\n"` for a command's name.
            moment: "before" the server has the request, or "after" it has answered and before the client knows.
            ends_connection: the request ("before") or the answer ("after") is not passed on. With "before", an action
                that kills the client needs this: otherwise the server would obey a dead client's request.

        Returns:
            what the action returned or raised, once it has run.
        """
        ran: Future[T] = Future()

        def act() -> None:
            try:
                ran.set_result(action())
            except Exception as error:
                ran.set_exception(error)

        self._fault_points.add(_FaultPoint(marker, moment, act, ends_connection))
        return ran

    def drop_answers(self, count: int, *, to: bytes = b"EVALSHA") -> None:
        """The next `count` requests with `to` in them are obeyed, but their connections end before the answer comes."""
        for _ in range(count):
            self.on(to, "after", lambda: None, ends_connection=True)

    def cut_all(self) -> int:
        """End all connections, and return how many there were. New ones are accepted."""
        return self._run(self._cut(lambda: True))

    def cut_share(self, share: float, rng: random.Random) -> int:
        """End each connection with the probability `share`, and return how many were ended."""
        return self._run(self._cut(lambda: rng.random() < share))

    def stall(self) -> None:
        """Pass nothing on until `resume`, in either direction. Connections are accepted all the same."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def resume(self) -> None:
        """Pass on what has arrived during a stall, and go on."""
        self._loop.call_soon_threadsafe(self._flowing.set)

    def refuse(self) -> None:
        """Refuse new connections until `accept`, like a port on which nothing listens."""
        self._run(self._stop_accepting())

    def accept(self) -> None:
        """Accept new connections again, at the same port."""
        self._run(self._start_accepting())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # in the proxy's thread ──────────────────────────────────────────────────────────────────────────

    async def _start_accepting(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port))
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept_one, self._listener)

    async def _stop_accepting(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept_one(self, listener: socket.socket) -> None:
        # Not `sock_accept`, which loses a connection when it is cancelled at the wrong moment.
        with contextlib.suppress(OSError):  # the client has given up
            client, _ = listener.accept()
            connection = self._loop.create_task(self._serve(client))
            self._connections[connection] = client
            connection.add_done_callback(self._forget)

    async def _end(self) -> None:
        await self._stop_accepting()
        await self._cut(lambda: True)
        await self._loop.shutdown_default_executor()

    async def _cut(self, is_chosen: Callable[[], bool]) -> int:
        chosen = [connection for connection in self._connections if is_chosen()]
        for connection in chosen:
            connection.cancel()
        await asyncio.gather(*chosen, return_exceptions=True)
        return len(chosen)

    def _forget(self, connection: asyncio.Task[None]) -> None:
        # A task that is cancelled before its first step closes nothing itself.
        self._connections.pop(connection).close()

    async def _serve(self, client: socket.socket) -> None:
        target = urlsplit(self.target)
        with contextlib.suppress(OSError):  # the target refuses: the client's connection ends
            async with (
                _connected(asyncio.open_connection(sock=client)) as client_stream,
                _connected(asyncio.open_connection(target.hostname, target.port)) as server_stream,
            ):
                await _Connection(
                    client_stream,
                    server_stream,
                    to_server=_Channel(self.to_server, server_stream.writer, self._flowing),
                    to_client=_Channel(self.to_client, client_stream.writer, self._flowing),
                    fault_points=self._fault_points,
                ).run()


@contextlib.contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    proxy = Proxy(target)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()


@dataclass(frozen=True, slots=True)
class _FaultPoint:
    marker: bytes
    moment: Moment
    act: Callable[[], None]
    ends_connection: bool


class _FaultPoints:
    """The fault points that no request has met yet. May be used by several threads."""

    def __init__(self) -> None:
        self._points: list[_FaultPoint] = []
        self._lock = threading.Lock()

    def add(self, point: _FaultPoint) -> None:
        with self._lock:
            self._points.append(point)

    def take(self, request: bytes) -> _FaultPoint | None:
        """The oldest one that the request matches; no other request will meet it."""
        with self._lock:
            for index, point in enumerate(self._points):
                if point.marker in request:
                    return self._points.pop(index)
        return None


class _Stream(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@contextlib.asynccontextmanager
async def _connected(
    opening: Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]],
) -> AsyncIterator[_Stream]:
    """A connection that is aborted at the end of the block."""
    reader, writer = await opening
    writer.transport.set_write_buffer_limits(0)  # so that `drain` waits until the system has taken all
    try:
        yield _Stream(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class _Channel:
    """One direction of one connection: what is sent arrives in order, when the link brings it."""

    def __init__(self, link: Link, writer: asyncio.StreamWriter, flowing: asyncio.Event) -> None:
        self._link = link
        self._writer = writer
        self._flowing = flowing
        # Not bounded: a client of Redis waits for answers before it sends more.
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    def send(self, data: bytes) -> None:
        """Send these bytes; no bytes stand for the end of the connection."""
        now = asyncio.get_running_loop().time()
        self._under_way.put_nowait((self._link.arrives_at(len(data), now=now), data))

    async def deliver(self) -> None:
        """Deliver what is sent, until the connection ends. Raises `_Ended` then."""
        while True:
            arrives_at, data = await self._under_way.get()
            await asyncio.sleep(arrives_at - asyncio.get_running_loop().time())
            await self._flowing.wait()
            if not data:
                raise _Ended
            self._writer.write(data)
            await self._writer.drain()
            self._under_way.task_done()

    async def wait_until_delivered(self) -> None:
        """Wait until everything that was sent has been delivered."""
        await self._under_way.join()


class _Ended(Exception):
    """This connection has ended; no error."""


class _Connection:
    """Passes on a client's requests and the server's answers, and keeps count of both."""

    def __init__(
        self, client: _Stream, server: _Stream, *, to_server: _Channel, to_client: _Channel, fault_points: _FaultPoints
    ) -> None:
        self._client, self._server = client.reader, server.reader
        self._to_server, self._to_client = to_server, to_client
        self._fault_points = fault_points
        self._requests = Requests()
        self._answers = Answers()
        # Fault points for after an answer, each with that answer's number.
        self._after: deque[tuple[int, _FaultPoint]] = deque()

    async def run(self) -> None:
        """Run until either side or a fault point ends the connection."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_requests())
                group.create_task(self._pass_answers())
                group.create_task(self._to_server.deliver())
                group.create_task(self._to_client.deliver())
        except* (_Ended, OSError):  # the connection is over: the caller closes both sides
            pass

    async def _pass_requests(self) -> None:
        while data := await self._client.read(CHUNK_BYTES):
            for request in self._requests.feed(data):
                point = self._fault_points.take(request)
                if point is not None and point.moment == "before":
                    await self._to_server.wait_until_delivered()
                    await _act(point)
                elif point is not None:
                    self._after.append((self._requests.count, point))
                self._to_server.send(request)
        self._to_server.send(b"")

    async def _pass_answers(self) -> None:
        held = b""
        while data := await self._server.read(CHUNK_BYTES):
            held += data
            self._answers.feed(data)
            while self._after and self._answers.count >= self._after[0][0]:
                await _act(self._after.popleft()[1])
            if not self._after:
                self._to_client.send(held)
                held = b""
        self._to_client.send(b"")


async def _act(point: _FaultPoint) -> None:
    await asyncio.to_thread(point.act)
    if point.ends_connection:
        raise _Ended
