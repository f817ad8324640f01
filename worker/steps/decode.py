"""Decode: image bytes to the model's pixels. In: claimed jobs with their images. Out: `Decoded`, or a verdict.

Runs on the pipeline's decode threads. The decoder releases the interpreter lock for the expensive part.
"""

from __future__ import annotations

import hashlib
import logging
import time

from shared.errors import BadImage
from worker.models.model import Model
from worker.models.result_cache import CacheKey
from worker.models.routing import Route
from worker.observe.supervisor import StageThread
from worker.state.jobs import AdmittedJob, ClaimedJob
from worker.steps.admit import Admission
from worker.steps.decide import Classified, Expired, Failed, Unusable, Verdict
from worker.steps.flow import IDLE_WAIT_S, Flow
from worker.steps.work import Decoded

log = logging.getLogger("sortline.decode")


def decode(admitted: AdmittedJob, image: bytes | None, model: Model, *, cache_key: CacheKey | None = None) -> Decoded:
    """Decode the image for the model.

    Args:
        cache_key: passed on to the result; the key under which the answer will be cached.

    Raises:
        BadImage: the bytes are gone or can't be decoded, or the image was refused when the job was claimed.
    """
    if admitted.claimed.refusal is not None:
        raise admitted.claimed.refusal
    if image is None:
        raise BadImage("gone", "the image is no longer on the server: it expired before it was sorted (image_ttl_s).")
    started = time.perf_counter()
    slot = model.buffer.take()
    try:
        model.decoder.decode_into(image, admitted.job.camera, slot.pixels)
    except BaseException:
        model.buffer.give_back([slot])
        raise
    decode_ms = (time.perf_counter() - started) * 1000
    return Decoded(admitted, slot, decode_ms, ready_at=time.monotonic(), model=model, cache_key=cache_key)


def check_digest(image: bytes, *, sha256: str) -> bytes:
    """Check that the file is the one that the producer sent. Returns its SHA-256.

    This takes about 20 microseconds for a 30 KB file, 100 on a processor without instructions for SHA, and lets go of
    the interpreter lock.

    Raises:
        BadImage: the file was damaged or replaced on its way.
    """
    digest = hashlib.sha256(image)
    if (found := digest.hexdigest()) != sha256:
        raise BadImage(
            "damaged",
            f"this is not the file that was sent: its SHA-256 is {found}, and the job says {sha256}. It was damaged or "
            "replaced on its way: send it again.",
        )
    return digest.digest()


def decode_for_model(flow: Flow, admitted: AdmittedJob, image: bytes | None, route: Route) -> Decoded | Verdict:
    """The item for its model, or the verdict on a job that needs no model or can't be decoded."""
    model = route.model
    try:
        if admitted.deadline_at is not None:
            flow.latency.observe_budget(admitted.deadline_at - admitted.captured_at)
            waiting = flow.batcher.count_ahead_of(admitted)
            urgent = flow.batcher.is_urgent(admitted.claimed)
            needs_s = flow.latency.estimate_from_decode(model.cost, waiting=waiting, urgent=urgent)
            if flow.misses_deadline(admitted, needs_s):
                return Expired(admitted=admitted, model=model, at=flow.clock(), needs_s=needs_s)
        digest = None if image is None else check_digest(image, sha256=admitted.job.sha256)
        cache_key = flow.cache.key(admitted.job, digest, route)
        if cache_key is not None and (known := flow.cache.get(cache_key)) is not None:
            return Classified(admitted=admitted, model=model, at=flow.clock(), probabilities=known)
        item = decode(admitted, image, model, cache_key=cache_key)
    except BadImage as error:
        return Unusable(admitted=admitted, model=model, at=flow.clock(), error=error)
    except Exception as error:  # a bug, or no memory: it affects this job alone, and the next attempt may succeed
        log.exception("decoding job %.200r failed", admitted.job.job_id)
        return Failed(admitted=admitted, model=model, at=flow.clock(), error=error)
    assert image is not None
    return flow.observer.after_decode(item, image, route)


class DecodeStep:
    """Admits and decodes one job a round. A costly job is only passed on, so that no other job waits for it."""

    def __init__(self, flow: Flow, admission: Admission) -> None:
        self._flow = flow
        self._admission = admission

    def __call__(self, thread: StageThread) -> None:
        """Take a job. It goes to the batcher or to `costly_jobs`, or gets its verdict here."""
        flow = self._flow
        thread.wait_for_work()
        job = flow.encoded_jobs.take(IDLE_WAIT_S)
        if job is None:
            return
        claimed, image = job
        del job  # it refers to the image, whose bytes can be freed when it is decoded
        thread.work_on((claimed.lease,))
        try:
            item = self._decode(claimed, image)
        finally:
            flow.encoded_bytes.give_back(len(image or b""))
        if isinstance(item, Decoded):
            flow.latency.observe_decode(item.decode_ms / 1000, urgent=flow.batcher.is_urgent(claimed))
            flow.encoded_jobs.observe(claimed, item.decode_ms / 1000)
            flow.batcher.add(item)
            return
        if item is None:  # without the image: a few large files would use up the byte budget of the claims
            flow.costly_jobs.put(claimed)
        else:
            flow.conclude([item])
        flow.batcher.cancel()
        flow.engine_clock.observe_queue(is_idle=flow.batcher.is_empty)

    def _decode(self, claimed: ClaimedJob, image: bytes | None) -> Decoded | Verdict | None:
        """The decoded item, or the verdict; None for a costly image."""
        admitted = self._admission.check(claimed)
        if not isinstance(admitted, AdmittedJob):
            return admitted
        route = self._flow.active_models.current.route(admitted.job)
        if image is not None and self._is_costly(image, route.model, admitted.job.camera):
            return None
        return decode_for_model(self._flow, admitted, image, route)

    def _is_costly(self, image: bytes, model: Model, camera: str) -> bool:
        try:
            return model.decoder.is_costly(image, camera)
        except Exception:  # a bug that shows in some file: if it shows again in the decoding, this job alone fails
            log.exception("can't tell whether an image is costly to decode; it is decoded as a normal one")
            return False
