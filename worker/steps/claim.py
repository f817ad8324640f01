"""Claim: takes jobs off the queues, with a lease each, and fetches their images. Out: jobs for the decode threads."""

from __future__ import annotations

import logging
import threading
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
from shared.server.raw_connection import RawConnection
from worker.observe.supervisor import StageThread
from worker.rq import scripts
from worker.rq.broken_keys import BrokenKeys
from worker.rq.job_fields import parse_claimed
from worker.state.decode_queue import EncodedJob
from worker.state.jobs import ClaimedJob
from worker.steps.flow import IDLE_WAIT_S, Flow

log = logging.getLogger("sortline.claim")

# The most image bytes that may wait to be decoded. Camera frames never reach this bound, but a folder of 20 MB scans
# must not fill the worker's memory. A claim ends with the image that crosses the bound, so at most one image is held
# above it. While the client reads the server's answer, it holds the images twice.
MAX_ENCODED_BYTES = 24_000_000
# How long the claim waits for an urgent job while the worker is full of others: about what one of their batches takes.
FULL_WAIT_S = 0.020


@dataclass(frozen=True, slots=True)
class Claim:
    """The jobs of one claim. `suspended`: an operator has suspended the workers with `rq suspend`.

    `cut_short`: the claim met very many ids of deleted jobs and stopped, so jobs may wait even if it brought none.
    """

    jobs: list[ClaimedJob]
    suspended: bool
    cut_short: bool = False


def refusal_by_length(size_bytes: int, *, max_bytes: int) -> BadImage | None:
    """Why an image of this length is not fetched; None if it is fetched."""
    try:
        check_length(size_bytes, max_bytes=max_bytes)
    except BadImage as error:
        return error
    return None


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
        self._worker = worker
        self._queues = list(queues)
        self._wakeup_keys = [keys.wakeup(queue) for queue in queues]
        self._lease_s = lease_s
        self._max_image_bytes = max_image_bytes
        self._clock = clock

    def claim(
        self,
        limit: int,
        *,
        max_bytes: int = MAX_ENCODED_BYTES,
        max_others: int | None = None,
        others_first: int = 0,
    ) -> Claim:
        """Claim up to `limit` jobs, fewer if their images reach `max_bytes`. This worker holds them from then on.

        Args:
            max_others: the most jobs of queues other than the most urgent one; None: as many as `limit`.
            others_first: of these, so many are claimed before those of the most urgent queue.

        Raises:
            redis.exceptions.RedisError: the server can't be reached. The claim may have
                happened all the same: then the next call brings those jobs, and no others.
        """
        now = self._clock()
        suspended, jobs, problems, cut_short = self._script(
            args=[
                limit,
                limit if max_others is None else max_others,
                others_first,
                max_bytes,
                self._worker,
                format_rq_time(now),
                now,
                self._lease_s,
                *self._queues,
            ]
        )
        self._broken_keys.report(problems)
        return Claim([self._checked(job, started_at=now) for job in jobs], bool(suspended), bool(cut_short))

    def _checked(self, raw: Sequence[Any], *, started_at: float) -> ClaimedJob:
        claimed, size_bytes = parse_claimed(raw, started_at=started_at), int(raw[10])
        if size_bytes <= self._max_image_bytes:
            return claimed
        return replace(claimed, refusal=refusal_by_length(size_bytes, max_bytes=self._max_image_bytes))

    def images(self, jobs: Sequence[ClaimedJob]) -> list[bytes | None]:
        """The image files of claimed jobs, in order; None for an image that is gone from the server, or was refused.

        This is a call of its own for two reasons. A script would copy the images three more times, and the server does
        nothing else meanwhile. And if this call fails, the worker must already know which jobs it holds.

        Raises:
            redis.exceptions.RedisError: the server can't be reached.
        """
        wanted = [keys.image(job.lease.job_id) for job in jobs if job.refusal is None]
        found = iter(self._connection.call("MGET", *wanted) if wanted else ())
        return [next(found) if job.refusal is None else None for job in jobs]

    def wait(self, timeout_s: float, *, urgent_only: bool = False) -> None:
        """Return when there may be work, or work of the most urgent queue, at the latest after `timeout_s`.

        Blocks on the wakeup lists, to which our producers and scripts push tokens. RQ's own tools (`rq requeue`) push
        none: the timeout bounds how long such a job waits.
        """
        wakeup_keys = self._wakeup_keys[:1] if urgent_only else self._wakeup_keys
        self._connection.call("BLPOP", *wakeup_keys, timeout_s)


class ClaimStep:
    """Claims as many jobs as the worker can start soon, at most a batch a round.

    The most urgent queue comes first. The others may fill the worker, but not so that the urgent queue has to wait for
    them: there is always room for one batch of it more. And they get a small share even if it never runs empty.
    """

    def __init__(
        self,
        flow: Flow,
        claimer: Claimer,
        *,
        queues: Sequence[str],
        capacity: int,
        max_batch: int,
        bulk_share: float,
        burst: bool,
        stop: threading.Event,
    ) -> None:
        """At most `capacity` jobs are held of the most urgent queue, or of all, before its room.

        `bulk_share` is the other queues' share of the jobs while the most urgent queue never runs empty. `burst`: sets
        `stop` once the queues are empty and no job is held.
        """
        self._flow = flow
        self._claimer = claimer
        self._urgent = queues[0]
        self._capacity = capacity
        self._room = max_batch if len(queues) > 1 else 0
        self._max_batch = max_batch
        self._bulk_share = bulk_share
        self._bulk_credit = 0.0  # jobs that are due to the other queues
        self._burst = burst
        self._stop = stop
        self._without_images: list[ClaimedJob] = []  # this worker holds them, and no other would answer them
        self.may_begin = threading.Event()  # set when the other workers on this host know of this one
        self.suspended: bool | None = None  # None until the first claim is answered

    @property
    def is_finished(self) -> bool:
        """Whether it claims nothing more and has handed on all that it claimed."""
        return self._stop.is_set() and not self._without_images

    def __call__(self, thread: StageThread) -> None:
        """Claim if there is capacity, and hand the jobs on with their images."""
        if self._without_images:
            self._hand_on(thread)
            return
        thread.wait_for_work()
        if not self.may_begin.wait(IDLE_WAIT_S):
            return
        inflight = self._flow.inflight
        held = inflight.wait_below(self._capacity + self._room, IDLE_WAIT_S)
        free = min(self._capacity + self._room - held, self._capacity - inflight.count_of(self._urgent))
        free_bytes = self._flow.encoded_bytes.wait_for_capacity(IDLE_WAIT_S)
        if free > 0 and free_bytes > 0 and not self._stop.is_set():  # it may have been told to stop meanwhile
            max_others = max(0, self._capacity - held)
            self._claim(thread, min(free, self._max_batch), max_others=max_others, max_bytes=free_bytes)

    def _claim(self, thread: StageThread, limit: int, *, max_others: int, max_bytes: int) -> None:
        was_idle = not len(self._flow.inflight)  # read before the claim, or a job that is put back could be overlooked
        others_first = min(int(self._bulk_credit), limit)
        with thread.calling_redis():
            claim = self._claimer.claim(limit, max_bytes=max_bytes, max_others=max_others, others_first=others_first)
        self._count_share(claim.jobs, limit=limit)
        if claim.suspended != bool(self.suspended):
            log.warning("workers are suspended: rq resume" if claim.suspended else "workers are resumed")
        self.suspended = claim.suspended
        if claim.jobs:
            self._flow.inflight.add([job.lease for job in claim.jobs])
            self._without_images = claim.jobs
            self._hand_on(thread)
        elif not claim.cut_short:
            self._wait(thread, was_idle=was_idle, urgent_only=not max_others)

    def _count_share(self, jobs: Sequence[ClaimedJob], *, limit: int) -> None:
        """Keep account of what is due to the other queues: nothing, if the most urgent queue ran empty."""
        others = sum(job.lease.queue != self._urgent for job in jobs)
        if len(jobs) < limit or (not others and self._bulk_credit >= 1):
            self._bulk_credit = 0.0
        else:
            self._bulk_credit = max(0.0, self._bulk_credit - others) + self._bulk_share * (len(jobs) - others)

    def _hand_on(self, thread: StageThread) -> None:
        flow, jobs = self._flow, self._without_images
        with thread.calling_redis():
            images = self._claimer.images(jobs)
        self._without_images = []
        flow.encoded_bytes.take(sum(len(image or b"") for image in images))
        flow.batcher.reserve(len(jobs))
        flow.engine_clock.observe_queue(is_idle=False)
        flow.encoded_jobs.put([EncodedJob(job, image) for job, image in zip(jobs, images, strict=True)])

    def _wait(self, thread: StageThread, *, was_idle: bool, urgent_only: bool) -> None:
        """The queues are empty, the workers are suspended, or there is room for the most urgent queue only."""
        if self._burst and was_idle:
            self._stop.set()
        elif self.suspended or self._burst:
            self._stop.wait(0.05 if self._burst else IDLE_WAIT_S)
        else:
            with thread.calling_redis():
                self._claimer.wait(FULL_WAIT_S if urgent_only else IDLE_WAIT_S, urgent_only=urgent_only)
