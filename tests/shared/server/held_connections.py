"""Many connections to a port that ask for nothing, as a scanner or a broken proxy leaves them."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator

# Each connection needs a descriptor here; others in this process need some too.
SPARE_DESCRIPTORS = 500
HALF_A_REQUEST = b"GET /healthz HTTP/1.1\r\nX: "


@contextlib.contextmanager
def held(port: int, count: int) -> Iterator[list[socket.socket]]:
    """`count` open connections with half a request on each, or as many as this process may open."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_DESCRIPTORS
    limit = max(before, wanted if hard == resource.RLIM_INFINITY else min(hard, wanted))
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (before, hard))
        connections = []
        for _ in range(min(count, limit - SPARE_DESCRIPTORS)):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
            with contextlib.suppress(ConnectionError):  # the server may have closed it already
                connection.sendall(HALF_A_REQUEST)
            connections.append(connection)
        yield connections
