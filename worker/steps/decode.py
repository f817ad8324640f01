"""Decode: image bytes to the model's pixels. In: `AdmittedJob`, its image and its `Route`. Out: `Decoded`, or BadImage.

Runs on the pipeline's decode threads. The decoder releases the interpreter lock for the expensive part.
"""

from __future__ import annotations

import logging
import time

from shared.errors import BadImage
from worker.models.result_cache import CacheKey
from worker.models.routing import Route
from worker.state.jobs import AdmittedJob
from worker.steps.work import ComparisonInput, Decoded

log = logging.getLogger("sortline.decode")


def decode(admitted: AdmittedJob, image: bytes | None, route: Route, *, cache_key: CacheKey | None = None) -> Decoded:
    """Decode the image for the model of its route.

    The pixels for the other model are added where they are the same, and where the canary's answer sorts the image: if
    its engine fails, the image runs on the other model. In all other cases `decode_for_comparison` adds them later.

    Args:
        cache_key: passed on to the result; the key under which the answer will be cached.

    Raises:
        BadImage: the bytes are gone or can't be decoded, or the image was refused when the job was claimed.
    """
    if admitted.claimed.refusal is not None:
        raise admitted.claimed.refusal
    if image is None:
        raise BadImage("gone", "the image is no longer on the server: it expired before it was sorted (image_ttl_s).")
    camera, model = admitted.job.camera, route.model
    started = time.perf_counter()
    # A comparison needs the pixels after the batch, when the slots of the buffer are given back.
    slot = model.buffer.take() if route.other is None else model.buffer.allocate_unpooled()
    comparison = None
    try:
        model.decoder.decode_into(image, camera, slot.pixels)
        if route.canary is not None and route.other is not None:
            comparison = ComparisonInput(route.canary, route.other)
            if route.other.decoder == model.decoder:
                comparison.pixels = slot.pixels
            elif not route.canary.spec.shadow:
                comparison.pixels = route.other.decoder(image, camera)
    except BaseException:
        model.buffer.give_back([slot])
        raise
    decode_ms = (time.perf_counter() - started) * 1000
    return Decoded(
        admitted, slot, decode_ms, ready_at=time.monotonic(), model=model, comparison=comparison, cache_key=cache_key
    )


def decode_for_comparison(comparison: ComparisonInput, data: bytes, *, camera: str) -> None:
    """Decode an image a second time, only for a comparison. An error costs the comparison, not the job."""
    try:
        comparison.pixels = comparison.model.decoder(data, camera)
    except Exception as error:  # the job has gone on: nothing here may affect it
        log.warning("an image can't be decoded for the comparison with %s: %s", str(comparison.model), error)
    finally:
        comparison.is_decoding = False
