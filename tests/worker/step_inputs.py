"""What the steps of a worker take: jobs, decoded items and pixels that are in no queue. Needs no Redis."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from shared import keys
from shared.images.arrays import Pixels
from shared.schemas import ImageJob
from tests.worker.kit import SIZE_PX, model
from worker.models.model import Model
from worker.state.jobs import AdmittedJob, ClaimedJob, Lease
from worker.state.pixel_buffer import PixelSlot
from worker.steps.work import Decoded


def image_job(job_id: str = "j1", **fields: Any) -> ImageJob:
    """A job that is not in any queue."""
    values: dict[str, Any] = {
        "line": "l1",
        "camera": "c1",
        "captured_at": time.time(),
        "queue": "live",
        "image_key": keys.image(job_id),
        "sha256": "0" * 64,
        "content_type": "image/png",
    }
    return ImageJob(job_id=job_id, **(values | fields))


def claimed(job_id: str = "j1", **fields: Any) -> ClaimedJob:
    """A claimed job that is not in Redis."""
    values: dict[str, Any] = {
        "lease": Lease("live", job_id, f"execution-of-{job_id}", time.time()),
        "data": None,
        "enqueued_at": None,
        "retries_left": 0,
        "result_ttl_s": "",
        "failure_ttl_s": "",
        "extras": "",
    }
    return ClaimedJob(**(values | fields))


def admitted(job_id: str = "j1", **fields: Any) -> AdmittedJob:
    """An admitted job that is not in Redis."""
    return AdmittedJob(claimed(job_id), image_job(job_id, **fields), attempt=1)


A_MODEL = model()


def decoded(
    job_id: str = "j1",
    *,
    tone: int = 0,
    ready_at: float = 0.0,
    deadline_at: float | None = None,
    by: Model = A_MODEL,
    note: object = None,
) -> Decoded:
    """A decoded item of one shade of red, for the model `by`."""
    return Decoded(
        admitted(job_id, deadline_at=deadline_at),
        PixelSlot(shade(tone)),
        decode_ms=0.1,
        ready_at=ready_at,
        model=by,
        note=note,
    )


def shade(tone: int, *, size_px: int = SIZE_PX) -> Pixels:
    """One shade of red."""
    pixels = np.zeros((size_px, size_px, 3), np.uint8)
    pixels[..., 0] = tone
    return pixels


def shades(*tones: int) -> Pixels:
    """A batch of shades of red."""
    return np.stack([shade(tone) for tone in tones])
