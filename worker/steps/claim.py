"""Claim: takes jobs off the queues, with a lease each. In: how many. Out: `Claimed` records; then their images.

Called by the pipeline's claim thread, and by the lease keeper for jobs that are out of attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from shared import keys
from shared.errors import BadImage
from shared.images.decoding import MAX_BYTES
from shared.images.limits import check_length
from shared.rq_time import format_rq_time
from shared.server.raw_connection import Wire
from worker.rq import scripts
from worker.rq.broken_keys import BrokenKeys
from worker.rq.job_fields import parse_claimed
from worker.state.jobs import Claimed

# Image bytes of jobs that wait for their decoding. Camera frames never reach it; a folder of 20 MB scans must
# not fill the worker's memory. The claim that crosses it ends, so at most one image is held above it. While the
# answer with them is read, the client holds them twice.
MAX_ENCODED_BYTES = 24_000_000


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought. `suspended` while an operator holds the workers with `rq suspend`.

    `cut_short` where the claim met very many ids of deleted jobs, so that jobs may wait even if it brought none.
    """

    jobs: list[Claimed]
    suspended: bool
    cut_short: bool = False


def refusal_by_length(size_bytes: int, *, max_bytes: int) -> BadImage | None:
    """Why an image of this length is not fetched; None for one that is."""
    try:
        check_length(size_bytes, max_bytes=max_bytes)
    except BadImage as error:
        return error
    return None


class Claimer:
    """Claims for one worker over its queues, most urgent first."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        worker: str,
        queues: Sequence[str],
        lease_s: int,
        broken_keys: BrokenKeys | None = None,
        max_image_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Images over `max_image_bytes` are not fetched: their jobs are claimed with a refusal."""
        self._wire = Wire(client)
        self._script = scripts.load_repeatable(self._wire, "claim")
        self._broken_keys = broken_keys or BrokenKeys()
        self._worker = worker
        self._queues = list(queues)
        self._bells = [keys.bell(queue) for queue in queues]
        self._lease_s = lease_s
        self._max_image_bytes = max_image_bytes
        self._clock = clock

    def claim(self, limit: int, *, max_bytes: int = MAX_ENCODED_BYTES) -> Claim:
        """Up to `limit` jobs, which this worker now holds; no more once their images reach `max_bytes`.

        Raises:
            redis.exceptions.RedisError: the server can't be reached. The claim may have happened all
                the same: then the next call brings those jobs, and no others.
        """
        now = self._clock()
        suspended, jobs, problems, cut_short = self._script(
            args=[limit, max_bytes, self._worker, format_rq_time(now), now, self._lease_s, *self._queues]
        )
        self._broken_keys.report(problems)
        return Claim([self._checked(job, started_at=now) for job in jobs], bool(suspended), bool(cut_short))

    def _checked(self, raw: Sequence[Any], *, started_at: float) -> Claimed:
        claimed, size_bytes = parse_claimed(raw, started_at=started_at), int(raw[10])
        if size_bytes <= self._max_image_bytes:
            return claimed
        return replace(claimed, refusal=refusal_by_length(size_bytes, max_bytes=self._max_image_bytes))

    def images(self, jobs: Sequence[Claimed]) -> list[bytes | None]:
        """The files of claimed jobs, in order; None for one that is no longer on the server, or was refused already.

        A call of its own: a script copies images three times more while nobody else is served, and jobs whose images
        could not be had must be known as held.

        Raises:
            redis.exceptions.RedisError: the server can't be reached.
        """
        wanted = [keys.image(job.lease.job_id) for job in jobs if job.refusal is None]
        found = iter(self._wire.call("MGET", *wanted) if wanted else ())
        return [next(found) if job.refusal is None else None for job in jobs]

    def wait(self, timeout_s: float) -> None:
        """Return when there may be work, at the latest after `timeout_s`.

        Blocks on the bells, which our producers and scripts ring. A push by RQ's own tools
        (`rq requeue`) does not ring: the timeout bounds how long such a job waits.
        """
        self._wire.call("BLPOP", *self._bells, timeout_s)
