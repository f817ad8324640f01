"""Decode: image bytes to the model's pixels. In: `Ticket`. Out: `Decoded`, or BadImage.

Runs on the pipeline's decode threads; the decoder releases the interpreter lock for the heavy part.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from shared.errors import BadImage
from shared.images import decode_image
from shared.settings import Settings
from worker.items import Decoded, Pixels, Ticket

# Raw bytes of an image file to uint8 [size, size, 3]; raises BadImage.
Decoder = Callable[[bytes], Pixels]


def image_decoder(settings: Settings, *, size_px: int) -> Decoder:
    """The decoder of training and serving, bound to this worker's limits."""

    def decode(data: bytes) -> Pixels:
        return decode_image(data, size_px=size_px, max_bytes=settings.max_image_bytes, max_px=settings.max_image_px)

    return decode


def decode_ticket(ticket: Ticket, decoder: Decoder) -> Decoded:
    """The ticket with its pixels.

    Raises:
        BadImage: the bytes are gone or can't be decoded.
    """
    data = ticket.claimed.image
    if data is None:
        raise BadImage("gone", "the image is no longer on the server: it expired before it was sorted (image_ttl_s).")
    started = time.perf_counter()
    pixels = decoder(data)
    decode_ms = (time.perf_counter() - started) * 1000
    return Decoded(ticket.without_image(), pixels, decode_ms, ready_at=time.monotonic())
