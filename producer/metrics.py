"""What a producer's process counts, and the endpoint that shows it."""

from __future__ import annotations

from enum import StrEnum

from prometheus_client import Counter, start_http_server

from shared.errors import BadSetting


class Fate(StrEnum):
    """What became of a frame at the door of the queue."""

    ACCEPTED = "accepted"  # in the queue
    REFUSED_FULL = "refused_full"  # the queue was full: dropped
    REJECTED = "rejected"  # not a usable image, or a name that can't be used: nothing was sent
    UNSENT = "unsent"  # the server was away until the camera was stopped, or refused it for good


SUBMITTED = Counter("sortline_submitted", "Frames offered to the queue, by what became of them.", ["line", "outcome"])


def serve(host: str, port: int) -> int:
    """Show /metrics in a thread of its own; returns the port (a free one for 0).

    Raises:
        BadSetting: the address can't be used.
    """
    try:
        server, _ = start_http_server(port, host)
    except OSError as error:
        raise BadSetting(
            f"can't serve metrics at {host}:{port}: {error.strerror}. Choose another --metrics-port."
        ) from error
    return int(server.server_port)
