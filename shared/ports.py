"""Ports for servers that can't be told to choose one themselves. Called by whoever starts such a server."""

from __future__ import annotations

import socket


def free_port() -> int:
    """A TCP port of the loopback address that nobody has just now. Another process may take it before the caller."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
