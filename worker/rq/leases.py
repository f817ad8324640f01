"""Leases: renews the leases of the jobs that this worker holds, and takes back the jobs that dead workers held.

The keeper has a thread and a connection of its own: neither a long batch nor a slow finish may delay a renewal.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import redis

from shared import keys
from shared.rq_time import format_rq_time
from shared.server.raw_connection import RawConnection
from worker.rq import scripts
from worker.rq.broken_keys import BrokenKeys
from worker.rq.job_fields import parse_claimed
from worker.rq.local_workers import LocalWorkers
from worker.rq.processes import Processes
from worker.state.inflight import Inflight
from worker.state.jobs import ClaimedJob, Lease

log = logging.getLogger("sortline.leases")

REAP_INTERVAL_S = 1.0
_LONG_AGO_S = 1  # the end of a lease that has run out, epoch seconds
REAP_LIMIT = 100  # jobs that one step takes back from a queue: it bounds how long the server is blocked


class LeaseKeeper:
    """Renews, releases and reaps leases for one worker."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        worker: str,
        queues: Sequence[str],
        lease_s: int,
        max_losses: int,
        inflight: Inflight,
        broken_keys: BrokenKeys | None = None,
        processes: Processes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Does not call the server.

        Args:
            client: a client of the server.
            worker: this worker's name.
            queues: the queues that it serves.
            lease_s: how long its leases last.
            max_losses: a job is given up after its workers have died this many times for unknown reasons.
            inflight: the leases that this worker holds.
            broken_keys: is told of keys that don't hold what they should.
            processes: the processes on this host. Without them a worker that died here is noticed when its leases
                expire, not at once.
            clock: UTC epoch seconds.
        """
        self._connection = RawConnection(client)
        self._renew = scripts.load(self._connection, "renew")
        self._release = scripts.load(self._connection, "release")
        self._reap = scripts.load_repeatable(self._connection, "reap")
        self._local_workers = LocalWorkers(processes)
        self._broken_keys = broken_keys or BrokenKeys()
        self.worker = worker
        self._queues = list(queues)
        self._lease_s = lease_s
        self.max_losses = max_losses
        self._given_up: set[str] = set()  # executions of jobs that this worker must answer as failed
        self._unanswered: list[ClaimedJob] = []  # jobs of `reap_early`, for the next `reap`
        self.inflight = inflight
        self._clock = clock

    def renew(self) -> list[Lease]:
        """Renew all held leases. Returns those that were lost to another worker: they are held no longer."""
        held = self.inflight.held()
        if not held:
            return []
        now = self._clock()
        answers, problems = self._renew(args=[self.worker, format_rq_time(now), now, self._lease_s, *_names(held)])
        self._broken_keys.report(problems)
        is_renewed = [answer == "1" for answer in answers.decode()]
        return self.inflight.drop_lost([lease for lease, renewed in zip(held, is_renewed, strict=True) if not renewed])

    def release(self, leases: Sequence[Lease] | None = None) -> int:
        """Give these jobs, or all held ones, back to the front of their queues. Returns how many were still held."""
        held = self.inflight.held() if leases is None else leases
        for lease in held:
            if lease.execution_id in self._given_up:
                self._expire(lease)
        held = [lease for lease in held if lease in self.inflight]
        if not held:
            return 0
        released, problems = self._release(args=[self.worker, format_rq_time(self._clock()), *_names(held)])
        self._broken_keys.report(problems)
        self.inflight.remove(held)
        return int(released)

    def take_back_from(self, worker: str, *, crash: str = "") -> None:
        """Have the next `reap` take back the jobs of a worker that has certainly ended. Does not call the server.

        Args:
            crash: how it crashed, in a few words for the results, e.g. SIGSEGV; "" if its end explains nothing. If the
                worker held a single job, that counts as a crash by this job. If it held several, all are suspects.
        """
        self._local_workers.mark_ended(worker, crash=crash)

    def reap_early(self) -> int:
        """Reap before this worker can answer jobs: those that it must answer are returned by the next `reap`.

        Returns:
            how many jobs went back to their queues or to the suspects.
        """
        requeued, self._unanswered = self.reap()
        return requeued

    def reap(self) -> tuple[int, list[ClaimedJob]]:
        """Take back jobs whose leases have expired, and those of workers that are known to be gone.

        Returns:
            how many jobs went back to their queues or to the suspects, and the jobs that are given up, which this
            worker now holds and must answer as failed.
        """
        requeued, jobs = self._reap_once()
        jobs, self._unanswered = self._unanswered + jobs, []
        if self._local_workers.any_newly_gone():  # so that a worker that has just started takes their jobs back at once
            more_requeued, more_jobs = self._reap_once()
            return requeued + more_requeued, jobs + more_jobs
        return requeued, jobs

    def _expire(self, lease: Lease) -> None:
        """Expire the lease of a job that is given up: the next `reap` of any worker finds it.

        If it were given back to its queue, it would be tried again.
        """
        composite = f"{lease.job_id}:{lease.execution_id}"
        self._connection.call("ZADD", keys.rq_wip(lease.queue), "XX", _LONG_AGO_S, composite)
        self.inflight.remove([lease])

    def _reap_once(self) -> tuple[int, list[ClaimedJob]]:
        now = self._clock()
        others = self._local_workers
        gone, forgotten = others.find_gone()
        requeued, given_up, problems, taken_flat, listed, refusal = self._reap(
            args=[
                self.worker,
                format_rq_time(now),
                now,
                self._lease_s,
                REAP_LIMIT,
                self.max_losses,
                others.scope,
                others.process,
                len(gone),
                len(forgotten),
                *(text for pair in gone.items() for text in pair),
                *forgotten,
                *self._queues,
            ]
        )
        self._broken_keys.report(problems)
        jobs = [parse_claimed(job, started_at=now) for job in given_up]
        self.inflight.add([job.lease for job in jobs])
        self._given_up = {lease.execution_id for lease in self.inflight.held() if lease.execution_id in self._given_up}
        self._given_up |= {job.lease.execution_id for job in jobs}
        taken = {
            name.decode(errors="surrogateescape"): int(count)
            for name, count in zip(taken_flat[::2], taken_flat[1::2], strict=True)
        }
        others.observe(listed=listed, taken=taken, refusal=refusal)
        if by_lease := int(requeued) + len(jobs) - sum(taken.values()):
            log.warning("took back %d jobs from workers that died", by_lease)
        return int(requeued), jobs

    def unregister(self) -> None:
        """Remove this worker from the list that other workers on this host watch: it ends, and holds no jobs."""
        if self._local_workers.scope:
            for queue in self._queues:
                self._connection.call("HDEL", keys.processes(self._local_workers.scope, queue), self.worker)


def _names(leases: Sequence[Lease]) -> list[str]:
    return [name for lease in leases for name in (lease.queue, lease.job_id, lease.execution_id)]
