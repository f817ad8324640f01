"""Finds a free port for a server that can't choose one itself. Called by the code that starts such a server."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A TCP port of the loopback address that is free now. Another process may take it before the caller does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
