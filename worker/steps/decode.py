"""Decode: image bytes to the model's pixels. In: `Ticket`, its image and its `Route`. Out: `Decoded`, or BadImage.

Runs on the pipeline's decode threads; the decoder releases the interpreter lock for the heavy part.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Protocol

from shared.errors import BadImage
from shared.images.arrays import Pixels
from worker.state.jobs import Decoded, Peer, Ticket

if TYPE_CHECKING:
    from worker.models.routing import Route
    from worker.state.result_cache import Key

log = logging.getLogger("sortline.decode")


class Decoder(Protocol):
    """Raw bytes of an image file and its camera to pixels, uint8 [size, size, 3]. Equal ones give equal pixels."""

    def __call__(self, data: bytes, camera: str) -> Pixels:
        """As a fresh array; raises BadImage."""

    def decode_into(self, data: bytes, camera: str, out: Pixels) -> None:
        """Into `out`; raises BadImage."""


def decode_ticket(ticket: Ticket, image: bytes | None, route: Route, *, key: Key | None = None) -> Decoded:
    """The ticket with its pixels.

    Those of the other model of its route come along where they are the same, and where a canary acts: should its
    engine fail, the image runs on the other. Else they are left to `decode_for_peer`.

    Args:
        key: passed on, to remember the answer by.

    Raises:
        BadImage: the bytes are gone or can't be decoded, or were refused when the job was claimed.
    """
    if ticket.claimed.refusal is not None:
        raise ticket.claimed.refusal
    if image is None:
        raise BadImage("gone", "the image is no longer on the server: it expired before it was sorted (image_ttl_s).")
    camera, model = ticket.job.camera, route.model
    started = time.perf_counter()
    # What a comparison will look at stays after its batch, for which a place is given back.
    place = model.buffer.take() if route.other is None else model.buffer.apart()
    peer = None
    try:
        model.decoder.decode_into(image, camera, place.pixels)
        if route.trial is not None and route.other is not None:
            peer = Peer(route.trial, route.other)
            if route.other.decoder == model.decoder:
                peer.pixels = place.pixels
            elif not route.trial.canary.shadow:
                peer.pixels = route.other.decoder(image, camera)
    except BaseException:
        model.buffer.give_back([place])
        raise
    decode_ms = (time.perf_counter() - started) * 1000
    return Decoded(ticket, place, decode_ms, ready_at=time.monotonic(), model=model, peer=peer, key=key)


def decode_for_peer(peer: Peer, data: bytes, *, camera: str) -> None:
    """Decode an image a second time, for a comparison only: what goes wrong costs the comparison, not the job."""
    try:
        peer.pixels = peer.model.decoder(data, camera)
    except Exception as error:  # the job is decoded and on its way: nothing here may touch it
        log.warning("an image can't be decoded for the comparison with %s: %s", str(peer.model), error)
    finally:
        peer.coming = False
