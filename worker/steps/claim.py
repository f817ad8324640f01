"""Claim: takes jobs off the queues, with a lease each. In: how many. Out: `Claimed` records; then their images.

Called by the pipeline's claim thread, and by the lease keeper for jobs that are out of attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import redis
from rq.utils import utcformat

from shared import keys
from shared.errors import BadImage
from shared.images.decoding import MAX_BYTES
from shared.images.limits import check_length
from shared.jobs import MAX_ATTEMPTS
from shared.server.raw_connection import RawConnection
from worker.rq import scripts
from worker.rq.broken_keys import BrokenKeys
from worker.state.jobs import Claimed, Lease

# Image bytes of jobs that wait for their decoding. Camera frames never reach it; a folder of 20 MB scans must
# not fill the worker's memory. The claim that crosses it ends, so at most one image is held above it. While the
# answer with them is read, the client holds them twice.
MAX_ENCODED_BYTES = 24_000_000
# Most digits of a number in a job's hash: what EXPIRE takes. A longer one counts as absent: a script would raise on it.
MAX_DIGITS = 10


@dataclass(frozen=True, slots=True)
class Claim:
    """What one claim brought. `suspended` while an operator holds the workers with `rq suspend`.

    `cut_short` where the claim met very many ids of deleted jobs, so that jobs may wait even if it brought none.
    """

    jobs: list[Claimed]
    suspended: bool
    cut_short: bool = False


def stamp(at: float) -> str:
    """UTC epoch seconds in the one form of time that RQ's Job.fetch reads."""
    return utcformat(datetime.fromtimestamp(at, UTC))


def parse_claimed(raw: Sequence[Any], *, started_at: float) -> Claimed:
    """One job as `describe()` in common.lua returns it."""
    queue, job_id, execution_id, data, enqueued_at, retries_left, *ttls, extras, max_attempts = raw[:10]
    result_ttl, failure_ttl = ttls
    lease = Lease(_text(queue), _text(job_id), _text(execution_id), started_at)
    return Claimed(
        lease=lease,
        data=data,
        enqueued_at=epoch(enqueued_at),
        retries_left=_between(0, retries_left, MAX_ATTEMPTS - 1),
        result_ttl_s=_whole(result_ttl),
        failure_ttl_s=_whole(failure_ttl),
        extras=_text(extras),
        max_attempts=max_attempts_in(max_attempts),
    )


def max_attempts_in(field: bytes | None) -> int | None:
    """How often a job's producer lets it be tried, from its hash; None where that doesn't say."""
    return _between(0, field, MAX_ATTEMPTS) or None


def _between(least: int, field: bytes | None, most: int) -> int:
    return min(max(least, int(_whole(field) or least)), most)


def refusal_by_length(size_bytes: int, *, max_bytes: int) -> BadImage | None:
    """Why an image of this length is not fetched; None for one that is."""
    try:
        check_length(size_bytes, max_bytes=max_bytes)
    except BadImage as error:
        return error
    return None


def _whole(value: bytes | None) -> str:
    """The whole number that RQ wrote, as text; '' for none and for anything else."""
    if not value:
        return ""
    digits = value.removeprefix(b"-")
    return value.decode() if digits.isdigit() and len(digits) <= MAX_DIGITS else ""


def _text(value: bytes | None) -> str:
    """Never raises: ids and queue names are bytes. `RawConnection` turns them back into the same ones."""
    return (value or b"").decode(errors="surrogateescape")


def epoch(stamp_bytes: bytes | None) -> float | None:
    """RQ's form of a time as UTC epoch seconds; None where there is none, or not that form."""
    if not stamp_bytes:
        return None
    try:
        return datetime.fromisoformat(stamp_bytes.decode()).timestamp()
    except ValueError:
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
        self._wire = RawConnection(client)
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
            args=[limit, max_bytes, self._worker, stamp(now), now, self._lease_s, *self._queues]
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
