"""Claimer: takes jobs off the queues, with a lease each, and fetches their images."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from shared import keys
from shared.errors import BadImage
from shared.images.decoding import MAX_BYTES
from shared.images.limits import check_length
from shared.rq_time import format_rq_time
from shared.server.raw_connection import RawConnection
from worker.rq import scripts
from worker.rq.broken_keys import BrokenKeys
from worker.rq.job_fields import DESCRIBED, parse_claimed, size_in
from worker.state.jobs import ClaimedJob

# The most image bytes that may wait to be decoded. Camera frames never reach this bound, but a folder of 20 MB scans
# must not fill the worker's memory. A claim ends with the image that crosses the bound, so at most one image is held
# above it. While the client reads the server's answer, it holds the images twice.
MAX_ENCODED_BYTES = 24_000_000


@dataclass(frozen=True, slots=True)
class Claim:
    """The jobs of one claim. `suspended`: an operator has suspended the workers with `rq suspend`.

    `expired` are jobs that can't be answered in time any more. They are held too, but their images are not fetched.
    `cut_short`: the claim met very many expired jobs, or ids of deleted jobs, and stopped: others may wait.
    """

    jobs: list[ClaimedJob]
    suspended: bool
    expired: list[ClaimedJob] = field(default_factory=list)
    cut_short: bool = False


def claim_args(
    limit: int,
    *,
    worker: str,
    queues: Sequence[str],
    lease_s: int,
    now: float,
    max_bytes: int = MAX_ENCODED_BYTES,
    max_others: int | None = None,
    others_first: int = 0,
    of_suspects: bool = False,
    needs_s: float = 0.0,
) -> list[str | float]:
    """The arguments of claim.lua; see `Claimer.claim`. `of_suspects`: take suspects, and no others."""
    return [
        limit,
        limit if max_others is None else max_others,
        others_first,
        max_bytes,
        worker,
        format_rq_time(now),
        now,
        lease_s,
        int(of_suspects),
        needs_s,
        *queues,
    ]


def refusal_by_length(size_bytes: int, *, max_bytes: int) -> BadImage | None:
    """Why an image of this length is not fetched; None if it is fetched."""
    try:
        check_length(size_bytes, max_bytes=max_bytes)
    except BadImage as error:
        return error
    return None


def fetch_images(connection: RawConnection, jobs: Sequence[ClaimedJob]) -> list[bytes | None]:
    """The image files of claimed jobs, in order; None for an image that is gone from the server, or was refused.

    claim.lua does not do this: a script would copy the images three more times while the server does nothing else.

    Raises:
        redis.exceptions.RedisError: the server can't be reached.
    """
    wanted = [keys.image(job.lease.job_id) for job in jobs if job.refusal is None]
    found = iter(connection.call("MGET", *wanted) if wanted else ())
    return [next(found) if job.refusal is None else None for job in jobs]


class Claimer:
    """Claims jobs for one worker from its queues, the most urgent queue first."""

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
        self._connection = RawConnection(client)
        self._script = scripts.load_repeatable(self._connection, "claim")
        self._broken_keys = broken_keys or BrokenKeys()
        self._args = functools.partial(claim_args, worker=worker, queues=list(queues), lease_s=lease_s)
        self._wakeup_keys = [keys.wakeup(queue) for queue in queues]
        self._suspects_keys = [keys.suspects(queue) for queue in queues]
        self._max_image_bytes = max_image_bytes
        self._clock = clock

    def claim(
        self,
        limit: int,
        *,
        max_bytes: int = MAX_ENCODED_BYTES,
        max_others: int | None = None,
        others_first: int = 0,
        needs_s: float = 0.0,
    ) -> Claim:
        """Claim up to `limit` jobs, fewer if their images reach `max_bytes`. This worker holds them from then on.

        Args:
            max_others: the most jobs of queues other than the most urgent one; None: as many as `limit`.
            others_first: how many of `max_others` are claimed before the jobs of the most urgent queue.
            needs_s: seconds from now until a job that is claimed now could be answered. Jobs whose deadlines are sooner
                are set apart, in `Claim.expired`: they don't count against `limit`.

        Raises:
            redis.exceptions.RedisError: the server can't be reached. The claim may have
                happened all the same: then the next call returns those jobs, and no others.
        """
        now = self._clock()
        args = self._args(
            limit, now=now, max_bytes=max_bytes, max_others=max_others, others_first=others_first, needs_s=needs_s
        )
        return self._claim(args, now=now)

    def claim_suspect(self) -> Claim:
        """Claim one job that may crash the worker. Call it while this worker holds nothing else.

        Raises:
            redis.exceptions.RedisError: as for `claim`. The next call may be `claim` or `claim_suspect`.
        """
        now = self._clock()
        return self._claim(self._args(1, now=now, of_suspects=True), now=now)

    def suspects_wait(self) -> bool:
        """Whether there may be suspects.

        Raises:
            redis.exceptions.RedisError: the server can't be reached.
        """
        return int(self._connection.call("EXISTS", *self._suspects_keys)) > 0

    def _claim(self, args: list[str | float], *, now: float) -> Claim:
        suspended, jobs, problems, cut_short, expired = self._script(args=args)
        self._broken_keys.report(problems)
        return Claim(
            jobs=[self._checked(job, started_at=now) for job in jobs],
            suspended=bool(suspended),
            # The archive may want their images: a script need not look whether they are there.
            expired=[parse_claimed(job, started_at=now, image_bytes=size_in(job)) for job in expired],
            cut_short=bool(cut_short),
        )

    def _checked(self, raw: Sequence[Any], *, started_at: float) -> ClaimedJob:
        size_bytes = int(raw[DESCRIBED])
        claimed = parse_claimed(raw, started_at=started_at, image_bytes=size_bytes)
        if size_bytes <= self._max_image_bytes:
            return claimed
        return replace(claimed, refusal=refusal_by_length(size_bytes, max_bytes=self._max_image_bytes))

    def images(self, jobs: Sequence[ClaimedJob]) -> list[bytes | None]:
        """As `fetch_images`. If it fails no job is lost: the worker already knows which jobs it holds."""
        return fetch_images(self._connection, jobs)

    def wait(self, timeout_s: float, *, urgent_only: bool = False) -> None:
        """Return when there may be work, at the latest after `timeout_s`. `urgent_only`: work of the most urgent queue.

        Blocks on the wakeup lists, to which our producers and scripts push tokens. RQ's own tools (`rq requeue`) push
        none: the timeout bounds how long their jobs wait.
        """
        self._connection.call("BLPOP", *(self._wakeup_keys[:1] if urgent_only else self._wakeup_keys), timeout_s)
