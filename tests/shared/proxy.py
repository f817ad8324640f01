"""A TCP proxy between a client and a Redis server, which loses answers and leads elsewhere when told to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

CHUNK_BYTES = 65536


class Proxy:
    """Connections made from now on lead to `target`, the URL of a server; those that exist stay where they are."""

    def __init__(self, target: str) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._to_drop, self._marker = 0, b""
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """What clients connect to."""
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def drop_answers(self, count: int, *, to: bytes = b"EVALSHA") -> None:
        """The next `count` requests with `to` in them are obeyed, but their connections end before the answer comes."""
        with self._lock:
            self._to_drop, self._marker = count, to

    def close(self) -> None:
        """End everything."""
        self._listener.close()
        with self._lock:
            for each in self._sockets:
                _end(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                there = urlsplit(self.target)
                server = socket.create_connection((there.hostname, there.port))
                drops = threading.Event()
                with self._lock:
                    self._sockets += (client, server)
                threading.Thread(target=self._ask, args=(client, server, drops), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client, drops), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, drops: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(CHUNK_BYTES):
                if self._is_to_be_dropped(data):
                    drops.set()
                server.sendall(data)
        _end(server)

    def _answer(self, server: socket.socket, client: socket.socket, drops: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(CHUNK_BYTES)) and not drops.is_set():
                client.sendall(data)
        _end(client)

    def _is_to_be_dropped(self, data: bytes) -> bool:
        with self._lock:
            is_one = self._to_drop > 0 and self._marker in data
            self._to_drop -= is_one
        return is_one


@contextlib.contextmanager
def proxy_to(target: str) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
