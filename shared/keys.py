"""The names of all Redis keys: our own, and those of RQ that we read or write (fixed by RQ 3.0)."""

from __future__ import annotations

from collections.abc import Sequence

# Ours.
LINES = "sortline:lines"  # set of the names of lines that have a stream of results
# A line's streams are kept this long after their last entry, so that the streams of lines that are no longer used don't
# take memory forever. worker/rq/scripts/finish.lua has the same number.
STREAM_TTL_S = 7 * 86_400
# The image of a sorted job stays this long if the worker wants to archive it. The worker deletes it as soon as it has
# read it, so the time matters only if its disk hangs or the worker dies. finish.lua has the same number.
KEPT_IMAGE_S = 300


def image(job_id: str) -> str:
    """The raw image bytes of a job; expires."""
    return f"sortline:image:{job_id}"


def kept_image(job_id: str, execution_id: str) -> str:
    """The image of a job that has ended, until the archive has read it; expires.

    It has a key of its own, so that a job of the same id can be sent again meanwhile.
    """
    return f"sortline:kept-image:{job_id}:{execution_id}"


def results(line: str) -> str:
    """The stream of one line's SortResults (field `result`: JSON), trimmed; expires."""
    return f"sortline:results:{line}"


def shadow(line: str) -> str:
    """The stream of one line's images that two models classified (field `comparison`: JSON), trimmed; expires."""
    return f"sortline:shadow:{line}"


def canary(model: str, version: int, started_at: float) -> str:
    """Hash of one canary's counts over all workers (`compared`, `disagreed`) and the reason if it stopped; expires."""
    return f"sortline:canary:{model}:{version}:{started_at!r}"


def wakeup(queue: str) -> str:
    """A short list of tokens that wake idle workers. A lost token costs only a poll interval."""
    return f"sortline:bell:{queue}"


def load(queue: str) -> str:
    """Hash of what a queue has on the server, waiting or in a worker: `items`, `bytes`, and both for each line."""
    return f"sortline:load:{queue}"


def flow(queue: str) -> str:
    """Hash of a queue's rates: what arrives, and what the workers can do; expires.

    `arrived`, `arrived_for`, `arrived_at`: a count of frames that decays (`shared.arrivals`), those refused included.
    `capacity`, `needs_s`, `capacity_at`: images/s that all workers can sort for this queue, the seconds that a busy
    worker needs from the claim of an image to its result, and when this was written, epoch seconds of the server.
    """
    return f"sortline:flow:{queue}"


def capacities(queue: str) -> str:
    """Hash of what each worker can do for a queue, by its name; expires."""
    return f"sortline:capacities:{queue}"


# How long a key that was moved aside is kept. worker/rq/scripts/common.lua has the same number.
BROKEN_TTL_S = 86_400


def broken(key: str) -> str:
    """The name that the scripts give to a shared key that holds the wrong type; expires after a day."""
    return f"sortline:broken:{key}"


# A key that never exists. Each script deletes it before anything else: this write changes nothing, but a replica, and a
# server that can't save, refuses it before the script has done anything.
NEVER_WRITTEN = "sortline:never-written"


# Field of a worker's hash: the answer to its last finish call, in case the worker did not receive it.
LAST_FINISH = "sortline_last_finish"


def sweep(queues: Sequence[str]) -> str:
    """Hash of the search for lost jobs of these queues: its cursor, and when its next step is due; expires."""
    return f"sortline:sweep:{','.join(sorted(queues))}"


def missing(queues: Sequence[str]) -> str:
    """Sorted set of jobs of these queues that look lost, by the time they were found; expires."""
    return f"{sweep(queues)}:suspects"


def suspects(queue: str) -> str:
    """List of jobs of a queue that may have crashed their worker: each is claimed alone."""
    return f"sortline:suspects:{queue}"


def processes(scope: str, queue: str) -> str:
    """Hash of the worker processes of one host (or container) that serve a queue, by the worker's name; expires.

    `scope` identifies the host or container in which the processes can be told apart (worker/rq/processes.py).
    """
    return f"sortline:processes:{scope}:{queue}"


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


def rq_finished(queue: str) -> str:
    """Sorted set of finished jobs by when they expire: RQ's FinishedJobRegistry."""
    return f"rq:finished:{queue}"


def rq_failed(queue: str) -> str:
    """Sorted set of failed jobs by when they expire: RQ's FailedJobRegistry."""
    return f"rq:failed:{queue}"


def rq_results(job_id: str) -> str:
    """Stream of one job's RQ Results."""
    return f"rq:results:{job_id}"


def rq_worker(name: str) -> str:
    """Hash of one registered worker. Its field LAST_FINISH is ours."""
    return f"rq:worker:{name}"


def rq_queue_workers(queue: str) -> str:
    """Set of the keys of the registered workers of one queue."""
    return f"rq:workers:{queue}"


# RQ's keys, and fields of our own, that are used mostly by the scripts. tests/worker/rq/test_scripts_keys.py checks
# that the scripts use the same names.


def rq_executions(job_id: str) -> str:
    """Sorted set of one job's executions."""
    return f"rq:executions:{job_id}"


def rq_execution(job_id: str, execution_id: str) -> str:
    """Hash of one execution of a job."""
    return f"rq:execution:{job_id}:{execution_id}"


def rq_worker_executions(name: str) -> str:
    """Set `<job>:<execution>` of the executions that one worker holds."""
    return f"rq:worker:{name}:executions"


def rq_registry(name: str, queue: str) -> str:
    """Sorted set of one registry of a queue: finished, failed, deferred, scheduled, canceled."""
    return f"rq:{name}:{queue}"


def rq_intermediate_queue(queue: str) -> str:
    """List of jobs on their way from the queue to a plain `rq worker`."""
    return f"rq:queue:{queue}:intermediate"


# Fields of a job's hash.
RECOVERED = "sortline_recovered"  # the job was lost once, and brought back to its queue
CRASHES = "sortline_crashes"  # how often the job crashed its worker while the worker held nothing else
LOSSES = "sortline_losses"  # how often the job was lost with its worker for another reason, or for an unknown one
SET_APART = "sortline_set_apart"  # `<queue>:<execution>` of the claim that set the job apart, as it can't be in time
SUSPECT = "sortline_suspect"  # set while the job is a suspect: how its worker crashed, or `lost`
