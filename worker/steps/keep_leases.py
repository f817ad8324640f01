"""Keep leases: renews the leases that the worker holds, and takes back the jobs of dead workers."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

import redis

from worker.observe.supervisor import StageThread
from worker.observe.watchdog import Watchdog
from worker.parent.causes import HANG
from worker.rq.leases import LeaseKeeper
from worker.state.jobs import AdmittedJob, ClaimedJob, Lease
from worker.steps.admit import Admission
from worker.steps.decide import Failed, Verdict
from worker.steps.flow import Flow
from worker.steps.quarantine import quarantined

log = logging.getLogger("sortline.leases")

# How long a worker that is told to stop goes on with a costly image. Compose and Kubernetes give it 30 s to drain.
COSTLY_STOP_S = 15.0


class LeaseStep:
    """Works once every `interval_s`, and also has the watchdog look at the other threads."""

    def __init__(
        self,
        flow: Flow,
        keeper: LeaseKeeper,
        admission: Admission,
        *,
        watchdog: Watchdog,
        interval_s: float,
        stop: threading.Event,
        claims_ended: threading.Event,
        ended: threading.Event,
        announced: threading.Event,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stop` is set if a thread hangs. `announced` is set when the other workers on this host know of this one."""
        self._flow = flow
        self._keeper = keeper
        self._admission = admission
        self._watchdog = watchdog
        self._interval_s = interval_s
        self._stop = stop
        self._ended = ended
        self._announced = announced
        self._claims_ended = claims_ended
        self._monotonic = monotonic
        self._stopping_since: float | None = None
        self._to_give_back: list[Lease] = []  # costly jobs that this worker decodes no more

    def __call__(self, thread: StageThread) -> None:
        """Keep the leases, and wait."""
        try:
            with thread.calling_redis():
                self._keep()
        finally:
            self._announced.set()  # also if Redis is unavailable: expired leases reveal a death too, only later
        self._ended.wait(self._interval_s)

    def release(self) -> None:
        """Release jobs that were taken back while the last one was being finished: no thread here answers them now."""
        with contextlib.suppress(redis.exceptions.RedisError):  # then their leases expire
            self._keeper.release()
            self._keeper.unregister()

    def _keep(self) -> None:
        if self._watchdog.check():
            self._stop.set()
            self._give_up_hanging()
        for lease in self._keeper.renew():
            log.warning("lease of job %.200r was lost; another worker has the job now", lease.job_id)
            self._flow.metrics.leases_lost.inc()
        if self._stop.is_set():
            self._give_back_costly()
            return  # a job that is taken back now would wait until this worker ends
        self._reap()

    def _give_back_costly(self) -> None:
        """While the worker is stopping, give back the costly jobs that have not begun, and one that takes too long."""
        now = self._monotonic()
        if self._stopping_since is None:
            self._stopping_since = now
        costly = self._flow.costly_jobs
        self._to_give_back += [job.lease for job in costly.take_all()]
        if now - self._stopping_since > COSTLY_STOP_S and (job := costly.in_hand) is not None:
            self._to_give_back += [job.lease] if job.lease in self._flow.inflight else []
        self._keeper.release(self._to_give_back)
        self._to_give_back.clear()

    def _give_up_hanging(self) -> None:
        """Give the other jobs back. Then take back the jobs that hang, as if the worker had crashed with them."""
        has_all = self._claims_ended.is_set()  # else a claim in progress may bring jobs that would be blamed too
        self._watchdog.give_back()
        if has_all and not self._watchdog.is_settled:
            self._keeper.take_back_from(self._keeper.worker, crash=HANG)
            self._reap()
            self._watchdog.settle()

    def _reap(self) -> None:
        requeued, given_up = self._keeper.reap()
        self._flow.metrics.redelivered.inc(requeued + len(given_up))
        if given_up:
            self._flow.conclude(map(self._give_up, given_up))

    def _give_up(self, claimed: ClaimedJob) -> Verdict:
        admitted = self._admission.check(claimed)
        if not isinstance(admitted, AdmittedJob):
            return admitted
        error = quarantined(claimed.deaths, max_losses=self._keeper.max_losses)
        log.error("job %.200r is not tried again: %s", claimed.lease.job_id, error)
        model = self._flow.active_models.current.stable
        return Failed(admitted=admitted, model=model, at=self._flow.clock(), error=error, may_retry=False)
