"""Every Redis key, ours and those of RQ that we touch (RQ's names are fixed by RQ 3.0)."""

from __future__ import annotations

# Ours.
LINES = "sortline:lines"  # set of line names that ever had a result


def image(job_id: str) -> str:
    """The raw image bytes of a job; expires."""
    return f"sortline:image:{job_id}"


def results(line: str) -> str:
    """The stream of one line's SortResults (field `result`: JSON), trimmed."""
    return f"sortline:results:{line}"


def shadow(line: str) -> str:
    """The stream of one line's images that two models saw (field `comparison`: JSON), trimmed."""
    return f"sortline:shadow:{line}"


def canary(model: str, version: int, started_at: float) -> str:
    """Hash of one canary's counts over all workers (`compared`, `disagreed`) and, once it is stopped, why; expires."""
    return f"sortline:canary:{model}:{version}:{started_at!r}"


def bell(queue: str) -> str:
    """A short list of tokens that wakes idle workers; losing one only costs a poll interval."""
    return f"sortline:bell:{queue}"


# RQ's.
RQ_QUEUES = "rq:queues"  # set of the keys of all queues
RQ_SUSPENDED = "rq:suspended"
RQ_WORKERS = "rq:workers"  # set of the keys of all registered workers


def rq_queue(queue: str) -> str:
    """List of queued job ids."""
    return f"rq:queue:{queue}"


def rq_job(job_id: str) -> str:
    """Hash of one job."""
    return f"rq:job:{job_id}"


def rq_wip(queue: str) -> str:
    """Sorted set `<job>:<execution>` by lease expiry: RQ's StartedJobRegistry."""
    return f"rq:wip:{queue}"


def rq_results(job_id: str) -> str:
    """Stream of one job's RQ Results."""
    return f"rq:results:{job_id}"


def rq_worker(name: str) -> str:
    """Hash of one registered worker."""
    return f"rq:worker:{name}"


def rq_queue_workers(queue: str) -> str:
    """Set of the keys of the registered workers of one queue."""
    return f"rq:workers:{queue}"
