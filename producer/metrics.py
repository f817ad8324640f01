"""The metrics of a producer's process, and the endpoint that serves them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, Counter, Gauge

from shared.errors import Bound

if TYPE_CHECKING:
    from shared.status_server import StatusServer


class SubmitOutcome(StrEnum):
    """What became of a frame that was offered to the queue."""

    ACCEPTED = "accepted"  # in the queue
    REFUSED_FULL = "refused_full"  # the queue was full, or too slow for the frame's deadline: dropped
    REJECTED = "rejected"  # not a usable image, or a name that can't be used: nothing was sent
    UNSENT = "unsent"  # the server was unavailable until the camera was stopped, or refused the frame for good
    TOO_OLD = "too_old"  # captured longer ago than the camera sends: nothing was sent
    MISSED = "missed"  # carried past while the camera could not send, or overwritten or gone before it was read


# Only a camera counts here, and the operator names its line. So unlike the lines of a worker, these can't be forged.
SUBMITTED = Counter("sortline_submitted", "Frames offered to the queue, by what became of them.", ["line", "outcome"])
REFUSED = Counter(
    "sortline_refused_frames", "Frames that were dropped because the queue refused them, by reason.", ["line", "reason"]
)
CLOCK_OFFSET = Gauge(
    "sortline_clock_offset_seconds", "This process's clock minus the Redis server's: positive when it is ahead."
)


def start_at_zero(line: str) -> None:
    """Show all outcomes and reasons of the line as 0: `rate()` in Prometheus misses the first frame of a new series."""
    for outcome in SubmitOutcome:
        SUBMITTED.labels(line, outcome.value)
    for bound in Bound:
        REFUSED.labels(line, bound.value)


def serve(host: str, port: int) -> StatusServer:
    """Serve /metrics in a thread of its own; port 0 takes a free port.

    Raises:
        BadSetting: the address can't be used.
    """
    from shared.status_server import StatusServer  # imported here because most cameras serve no metrics

    server = StatusServer(host=host, port=port, registry=REGISTRY)
    server.start()
    return server
