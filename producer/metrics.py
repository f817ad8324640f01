"""What a producer's process counts, and the endpoint that shows it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, Counter, Gauge

if TYPE_CHECKING:
    from shared.status_server import StatusServer


class SubmitOutcome(StrEnum):
    """What became of a frame that was offered to the queue."""

    ACCEPTED = "accepted"  # in the queue
    REFUSED_FULL = "refused_full"  # the queue was full: dropped
    REJECTED = "rejected"  # not a usable image, or a name that can't be used: nothing was sent
    UNSENT = "unsent"  # the server was unavailable until the camera was stopped, or refused it for good


# Only a camera counts here, and its line is the operator's: unlike the worker's lines, these can't be forged.
SUBMITTED = Counter("sortline_submitted", "Frames offered to the queue, by what became of them.", ["line", "outcome"])
CLOCK_OFFSET = Gauge(
    "sortline_clock_offset_seconds", "This process's clock minus the Redis server's: positive when it is ahead."
)


def serve(host: str, port: int) -> StatusServer:
    """Show /metrics in a thread of its own, on a free port for 0.

    Raises:
        BadSetting: the address can't be used.
    """
    from shared.status_server import StatusServer  # most cameras serve nothing

    server = StatusServer(host=host, port=port, registry=REGISTRY)
    server.start()
    return server
