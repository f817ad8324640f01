"""Decode: image bytes to the model's pixels. In: `Ticket` and its `Route`. Out: `Decoded`, or BadImage.

Runs on the pipeline's decode threads; the decoder releases the interpreter lock for the heavy part.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from shared.errors import BadImage
from worker.items import Decoded, Peer, Pixels, Ticket

if TYPE_CHECKING:
    from worker.serving import Route

log = logging.getLogger("sortline.decode")

# Raw bytes of an image file and its camera to uint8 [size, size, 3]; raises BadImage. Equal ones give equal pixels.
Decoder = Callable[[bytes, str], Pixels]


def decode_ticket(ticket: Ticket, route: Route) -> Decoded:
    """The ticket with its pixels.

    Those of the other model of its route come along where they are the same, and where a canary acts: should its
    engine fail, the image runs on the other. Else they are left to `decode_for_peer`.

    Raises:
        BadImage: the bytes are gone or can't be decoded.
    """
    data = ticket.claimed.image
    if data is None:
        raise BadImage("gone", "the image is no longer on the server: it expired before it was sorted (image_ttl_s).")
    camera = ticket.job.camera
    started = time.perf_counter()
    pixels = route.model.decoder(data, camera)
    peer = None
    if route.trial is not None and route.other is not None:
        peer = Peer(route.trial, route.other)
        if route.other.decoder == route.model.decoder:
            peer.pixels = pixels
        elif not route.trial.canary.shadow:
            peer.pixels = route.other.decoder(data, camera)
    decode_ms = (time.perf_counter() - started) * 1000
    return Decoded(ticket.without_image(), pixels, decode_ms, ready_at=time.monotonic(), model=route.model, peer=peer)


def decode_for_peer(peer: Peer, data: bytes, *, camera: str) -> None:
    """Decode an image a second time, for a comparison only: what goes wrong costs the comparison, not the job."""
    try:
        peer.pixels = peer.model.decoder(data, camera)
    except Exception as error:  # the job is decoded and on its way: nothing here may touch it
        log.warning("an image can't be decoded for the comparison with %s: %s", str(peer.model), error)
