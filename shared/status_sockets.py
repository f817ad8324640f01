"""Opens the sockets on which the status server listens. Errors name the setting to change."""

from __future__ import annotations

import errno
import socket
from typing import Any

from shared.errors import BadSetting

# Connections that the kernel completes and keeps until they are accepted. When this queue is full, the kernel drops
# the handshake of a probe, whose client tries again only after a second.
LISTEN_BACKLOG = 1024
# The machine lacks the address: `localhost` may have an IPv6 address although the kernel has no IPv6.
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of a host, on one port.

    Raises:
        BadSetting: the address can't be used.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            try:
                listeners.append(_bind(family, address, port))
                port = listeners[0].getsockname()[
                    1
                ]  # if it is 0, all addresses get the free port that the first one got
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
            # A socket on `::` accepts IPv4 connections too.
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
        advice = "Another worker or camera on this machine? Give each its own --metrics-port, or 0 for a free one."
    elif code == errno.EACCES:
        advice = "Choose a --metrics-port above 1023."
    else:
        advice = "Set metrics_host to an address of this machine: 127.0.0.1, or 0.0.0.0 or :: for all of its addresses."
    return f"metrics_host {host!r}, metrics_port {port}: {reason}. {advice}"
