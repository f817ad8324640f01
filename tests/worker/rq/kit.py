"""Shared by the tests of worker/rq: jobs that are claimed, finished or lost, the server's keys, worker processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import redis

from shared import keys
from shared.schemas import SortResult
from shared.settings import Settings
from tests.worker import kit
from worker.models.decider import Decider
from worker.rq.leases import LeaseKeeper
from worker.rq.processes import Processes, ProcessId
from worker.state.inflight import Inflight
from worker.state.jobs import ClaimedJob, Disposition, FinishedJob, StageTimings
from worker.steps.admit import admit

PROC = Path("/proc")
SCOPE = "this-host"
KEY = keys.processes(SCOPE, "live")
CRASH = "SIGSEGV"  # what ended the process of a crashed worker


def claim(settings: Settings, limit: int = 100, **fields: int) -> list[ClaimedJob]:
    return kit.claimer(settings, **fields).claim(limit).jobs


def ids(jobs: list[ClaimedJob]) -> list[str]:
    return [job.lease.job_id for job in jobs]


def queued(client: redis.Redis, queue: str = "live") -> list[str]:
    return [item.decode() for item in client.lrange(keys.rq_queue(queue), 0, -1)]


def leases(client: redis.Redis, queue: str = "live") -> dict[str, float]:
    """When each lease ends, by job id."""
    return {
        member.decode().split(":")[0]: score
        for member, score in client.zrange(keys.rq_wip(queue), 0, -1, withscores=True)
    }


def server_now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


def sorted_result(settings: Settings, job: ClaimedJob) -> SortResult:
    decider = Decider(kit.manifest(settings.cache_path.parent / "no-files"), engine="litert", worker="w1")
    admitted = admit(job, max_attempts=3)
    return decider.classified(admitted, [0.9, 0.1, 0.1], timings=StageTimings(), finished_at=time.time())


def finished_job(settings: Settings, job: ClaimedJob, disposition: Disposition = Disposition.SUCCESS) -> FinishedJob:
    return FinishedJob(
        job, disposition, None if disposition is Disposition.RETRY else sorted_result(settings, job), "because"
    )


def expire(client: redis.Redis, *jobs: ClaimedJob) -> None:
    """Let these jobs' leases run out a second ago, in the same order as before."""
    for job in jobs:
        lease = job.lease
        client.zincrby(keys.rq_wip(lease.queue), -1000, f"{lease.job_id}:{lease.execution_id}")


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    """Every key with its serialized value."""
    return {key: client.dump(key) for key in client.keys("*")}


def on_this_host(own: ProcessId | None = None, *, scope: str = SCOPE) -> Processes:
    """The processes as seen by a worker whose own process is `own`, or the current one."""
    started_ticks = int((PROC / "self/stat").read_text().rpartition(")")[2].split()[19])
    return Processes(scope=scope, own=own or ProcessId(os.getpid(), started_ticks), proc=PROC)


def alive(
    settings: Settings, inflight: Inflight | None = None, *, worker: str = "w2", scope: str = SCOPE
) -> LeaseKeeper:
    """A living worker before its first step, in which it reads which other workers there are."""
    inflight = Inflight() if inflight is None else inflight  # an empty Inflight is false
    return kit.keeper(settings, inflight, worker=worker, processes=on_this_host(scope=scope))


def register(settings: Settings, process: ProcessId, *, worker: str = "dead") -> None:
    kit.keeper(settings, Inflight(), worker=worker, processes=on_this_host(process)).reap()


def suspects(client: redis.Redis, queue: str = "live") -> list[str]:
    return [item.decode() for item in client.lrange(keys.suspects(queue), 0, -1)]


def counts(client: redis.Redis, job_id: str) -> tuple[int, int]:
    """Crashes and losses of a job."""
    return tuple(int(field or 0) for field in client.hmget(keys.rq_job(job_id), keys.CRASHES, keys.LOSSES))  # type: ignore[return-value]


def crash(settings: Settings, *, worker: str = "w1", by: str = "w2") -> tuple[int, list[ClaimedJob]]:
    """Take back the jobs of a crashed worker, as its successor does."""
    keeper = kit.keeper(settings, Inflight(), worker=by)
    keeper.take_back_from(worker, crash=CRASH)
    return keeper.reap()


def claim_suspect(settings: Settings, *, worker: str = "w1") -> list[ClaimedJob]:
    return kit.claimer(settings, worker=worker).claim_suspect().jobs
