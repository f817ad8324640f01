"""Leases: what this worker holds, kept alive; what dead workers held, taken back.

Runs on a thread and a connection of its own: neither a long batch nor a slow finish may delay a renewal.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import redis

from shared import keys
from shared.server.raw_connection import RawConnection
from worker.rq import scripts
from worker.rq.broken_keys import BrokenKeys
from worker.rq.local_workers import LocalWorkers
from worker.rq.processes import Processes
from worker.state.jobs import Claimed, Lease
from worker.steps.claim import parse_claimed, stamp

log = logging.getLogger("sortline.leases")

REAP_INTERVAL_S = 1.0
REAP_LIMIT = 100  # jobs taken back per queue and step: a bound on how long the server is held


class Inflight:
    """The leases that this worker holds, from claim until finished, released or lost."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._finishing: set[str] = set()
        self._changed = threading.Condition()

    def add(self, leases: Sequence[Lease]) -> None:
        """These are held from now on."""
        with self._changed:
            self._leases |= {lease.execution_id: lease for lease in leases}

    def remove(self, leases: Sequence[Lease]) -> None:
        """These are held no more."""
        with self._changed:
            for lease in leases:
                self._leases.pop(lease.execution_id, None)
                self._finishing.discard(lease.execution_id)
            self._changed.notify_all()

    def finishing(self, leases: Sequence[Lease]) -> None:
        """These are about to be finished: from now on the server may have forgotten them for good reason."""
        with self._changed:
            self._finishing.update(lease.execution_id for lease in leases)

    def drop_lost(self, leases: Sequence[Lease]) -> list[Lease]:
        """Of leases that the server no longer knows: those that were not finished meanwhile, held no more."""
        with self._changed:
            lost = [lease for lease in leases if lease in self and lease.execution_id not in self._finishing]
            for lease in lost:
                del self._leases[lease.execution_id]
            self._changed.notify_all()
        return lost

    def held(self) -> list[Lease]:
        """All held, in the order of their claims."""
        with self._changed:
            return list(self._leases.values())

    def wait_below(self, count: int, timeout_s: float) -> int:
        """Wait until fewer than `count` are held, at most `timeout_s`; how many are held then."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._leases) < count, timeout_s)
            return len(self._leases)

    def __contains__(self, lease: Lease) -> bool:
        return lease.execution_id in self._leases

    def __len__(self) -> int:
        return len(self._leases)


class LeaseKeeper:
    """Renews, releases and reaps leases for one worker."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        worker: str,
        queues: Sequence[str],
        lease_s: int,
        inflight: Inflight,
        broken_keys: BrokenKeys | None = None,
        processes: Processes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without `processes` a worker that died on this host is noticed when its leases run out, not at once."""
        self._wire = RawConnection(client)
        self._renew = scripts.load(self._wire, "renew")
        self._release = scripts.load(self._wire, "release")
        self._reap = scripts.load_repeatable(self._wire, "reap")
        self._local_workers = LocalWorkers(processes)
        self._broken_keys = broken_keys or BrokenKeys()
        self._worker = worker
        self._queues = list(queues)
        self._lease_s = lease_s
        self._inflight = inflight
        self._clock = clock

    def renew(self) -> list[Lease]:
        """Renew all held leases; the ones that were lost to another worker, no longer held now."""
        held = self._inflight.held()
        if not held:
            return []
        now = self._clock()
        answers, problems = self._renew(args=[self._worker, stamp(now), now, self._lease_s, *_names(held)])
        self._broken_keys.report(problems)
        is_renewed = [answer == "1" for answer in answers.decode()]
        return self._inflight.drop_lost([lease for lease, renewed in zip(held, is_renewed, strict=True) if not renewed])

    def release(self) -> int:
        """Give all held jobs back to the front of their queues; how many were still ours."""
        held = self._inflight.held()
        if not held:
            return 0
        released, problems = self._release(args=[self._worker, stamp(self._clock()), *_names(held)])
        self._broken_keys.report(problems)
        self._inflight.remove(held)
        return int(released)

    def reap(self) -> tuple[int, list[Claimed]]:
        """Take back jobs whose leases ran out, and those of workers on this host that are known to be gone.

        Returns:
            how many went back to their queues, and the jobs without attempts left, which this worker
            holds now and must answer as failed.
        """
        requeued, jobs = self._reap_once()
        if self._local_workers.any_newly_gone():  # a worker that has just started need not wait for its second step
            more_requeued, more_jobs = self._reap_once()
            return requeued + more_requeued, jobs + more_jobs
        return requeued, jobs

    def _reap_once(self) -> tuple[int, list[Claimed]]:
        now = self._clock()
        others = self._local_workers
        gone, forgotten = others.find_gone()
        requeued, exhausted, problems, taken_flat, listed, refusal = self._reap(
            args=[
                self._worker,
                stamp(now),
                now,
                self._lease_s,
                REAP_LIMIT,
                others.scope,
                others.process,
                len(gone),
                len(forgotten),
                *gone,
                *forgotten,
                *self._queues,
            ]
        )
        self._broken_keys.report(problems)
        jobs = [parse_claimed(job, started_at=now) for job in exhausted]
        self._inflight.add([job.lease for job in jobs])
        taken = {
            name.decode(errors="surrogateescape"): int(count)
            for name, count in zip(taken_flat[::2], taken_flat[1::2], strict=True)
        }
        others.observe(listed=listed, taken=taken, refusal=refusal)
        if by_lease := int(requeued) + len(jobs) - sum(taken.values()):
            log.warning("took back %d jobs from workers that died", by_lease)
        return int(requeued), jobs

    def unregister(self) -> None:
        """Take this worker's process off the list that others on this host watch: it ends, and holds no jobs."""
        if self._local_workers.scope:
            for queue in self._queues:
                self._wire.call("HDEL", keys.processes(self._local_workers.scope, queue), self._worker)


def _names(leases: Sequence[Lease]) -> list[str]:
    return [name for lease in leases for name in (lease.queue, lease.job_id, lease.execution_id)]
