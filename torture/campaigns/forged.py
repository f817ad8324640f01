"""`forged`: while plain images are sorted, somebody with access to the server writes nonsense (`torture.forging`)."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import redis

from shared import keys
from shared.errors import Transient
from shared.schemas import Outcome
from torture.campaigns.base import Figures, Limits
from torture.campaigns.forged_bounds import Bounds
from torture.forging.forger import Forger
from torture.forging.forgeries import FORGERIES, KINDS
from torture.history.leftovers import read_statuses
from torture.plant.executions import read_executions
from torture.plant.feeder import FeederOptions
from torture.plant.plant import SETTLE_S, Plant
from torture.plant.processes import WorkerProcess
from torture.server.waiting import wait_until

WORKERS = 2
# Many images in a call, so that workers always hold some.
FEEDER_OPTIONS = tuple(FeederOptions(rate_hz=80.0, burst=32, queue=queue) for queue in ("live", "bulk"))
# Short, so that jobs that a forgery leaves under a lease come back soon; longer than any worker stands still here.
LEASE_S = 4
MAX_PAUSE_S = 0.02
POLL_S = 0.1
# The workers' health is checked after so many forgeries.
CHECKED_EVERY = 5
# How long workers may take to repair a key, to register again, and to resume the search for lost jobs.
REPAIR_S = 60.0
# The search for lost jobs goes on if its next step is planned for at most this many seconds from now.
STEP_S = 5.0


def forged(plant: Plant, limits: Limits) -> Figures:
    """Forge until the time is over and each forgery was made once; then wait until all jobs have ended."""
    settings = plant.settings.model_copy(update={"lease_s": LEASE_S})
    plant.start_workers(WORKERS, settings)
    workers = plant.ready
    plant.start_feeders(FEEDER_OPTIONS)
    bounds = Bounds(plant, workers)
    forger = Forger(plant, lines=FEEDER_OPTIONS[0].lines)
    counts = _forge_all(plant, forger, workers, limits)
    _await_repairs(plant, forger)
    plant.stop_feeders()
    settled_by = time.monotonic() + SETTLE_S
    while plant.outstanding() and time.monotonic() < settled_by:
        time.sleep(POLL_S)
    _check_promises(plant, forger, workers)
    bounds.check()
    executions = read_executions(plant.executions)
    for execution in executions:
        plant.note("nothing of a forged job is executed", execution)
    forger.close()
    return {
        "forgeries": counts.total(),
        "kinds of forgery": len(counts),
        **{kind: sum(name in counts for name in forgeries) for kind, forgeries in KINDS.items()},
        "jobs to be refused": forger.refusals,
        "executions": len(executions),
        "good jobs beside forged ones": len(forger.mates),
        "those of them that were sorted": _count_sorted(plant, forger.mates),
        **bounds.figures(),
    }


def _forge_all(plant: Plant, forger: Forger, workers: Sequence[WorkerProcess], limits: Limits) -> Counter[str]:
    """Forge; how often each forgery was made. Ends early if a promise is broken that all others depend on."""
    counts: Counter[str] = Counter()
    until = time.monotonic() + limits.seconds
    names = _names(forger)
    while time.monotonic() < until or len(counts) < len(FORGERIES):
        forger.name = next(names)
        counts[forger.name] += 1
        # Without the name: a text with other words would be printed at once, hundreds of lines in a log.
        plant.options.on_progress(f"{counts.total():,} forgeries")
        if not _forge(forger):
            break
        if counts.total() % CHECKED_EVERY == 0 and not _all_well(plant, workers, forger.name):
            break
        time.sleep(plant.random.uniform(0, MAX_PAUSE_S))
    return counts


def _count_sorted(plant: Plant, job_ids: Sequence[str]) -> int:
    """How many of these jobs have the result that they were sorted."""
    wait_until(plant.follower.is_up_to_date, "all results are read")
    found = plant.follower.observed.entries
    return sum(any(entry.outcome == Outcome.SORTED for entry in found.get(job_id, ())) for job_id in job_ids)


def _names(forger: Forger) -> Iterator[str]:
    """All forgeries in random order, again and again."""
    while True:
        yield from forger.random.sample(list(FORGERIES), len(FORGERIES))


def _forge(forger: Forger) -> bool:
    """Make one forgery. False if no worker repaired in time what it had broken."""
    try:
        FORGERIES[forger.name](forger)
    except Transient as error:
        forger.plant.note("workers repair what a forgery breaks", f"{forger.name}: {error}")
        return False
    except redis.exceptions.ResponseError as error:  # most likely an earlier forgery has broken the same key
        forger.plant.note("workers repair what a forgery breaks, before it is broken again", f"{forger.name}: {error}")
        return False
    return True


def _await_repairs(plant: Plant, forger: Forger) -> None:
    """Wait until workers have repaired all keys. Producers must still send: some keys are repaired by the next job."""

    def unrepaired() -> dict[str, str]:
        types = {key: plant.client.type(key).decode() for key in forger.to_repair}
        return {key: kind for key, kind in types.items() if kind not in (forger.to_repair[key], "none")}

    try:
        wait_until(lambda: not unrepaired(), "all keys are repaired", timeout_s=REPAIR_S)
    except Transient:
        for key, kind in unrepaired().items():
            plant.note("workers repair what a forgery breaks", f"{key}: {kind}, not {forger.to_repair[key]}")


def _all_well(plant: Plant, workers: Sequence[WorkerProcess], after: str) -> bool:
    for feeder in plant.feeders:
        if feeder.exit_code is not None:
            plant.note("no forgery makes a producer die", f"after {after!r}: exit code {feeder.exit_code}")
            return False
    for worker in workers:
        if problem := _problem(worker):
            plant.note("no forgery makes a worker die or hang", f"{worker.name} after {after!r}: {problem}")
            return False
    return True


def _problem(worker: WorkerProcess) -> str | None:
    if worker.exit_code is not None:
        return f"exit code {worker.exit_code}"
    try:
        return worker.health_problem()
    except OSError as error:  # it has just died, or hangs
        return f"/healthz does not answer: {error}"


def _check_promises(plant: Plant, forger: Forger, workers: Sequence[WorkerProcess]) -> None:
    """Check the promises that only this campaign can check."""
    if not _all_well(plant, workers, "the last one"):
        return
    for job_id, status in zip(forger.refused, read_statuses(plant.client, forger.refused), strict=True):
        if status != b"failed":
            plant.note("a forged job that can't be read fails", f"{job_id[:100]!r}: {status!r}")
    counted = sum(worker.counter("sortline_refused_total") for worker in workers)
    if counted < forger.refusals:
        plant.note("each refused job is counted", f"{counted} of {forger.refusals}")
    for key, dump in forger.left_alone.items():
        if plant.client.dump(key) != dump:
            plant.note("keys that are not ours are left alone", key)
    for worker in workers:
        key = keys.rq_worker(worker.name or "")
        _expect(plant, "a worker registers with RQ again", functools.partial(_is_registered, plant, key))
    _expect(plant, "the search for lost jobs goes on", functools.partial(_goes_on, plant))


def _expect(plant: Plant, promise: str, is_kept: Callable[[], bool]) -> None:
    try:
        wait_until(is_kept, promise, timeout_s=REPAIR_S)
    except Transient as error:
        plant.note(promise, str(error))


def _is_registered(plant: Plant, key: str) -> bool:
    return plant.client.type(key) == b"hash" and bool(plant.client.hexists(key, "birth"))


def _goes_on(plant: Plant) -> bool:
    sweep = keys.sweep(plant.settings.queue_names)
    if plant.client.type(sweep) != b"hash":
        return False
    try:
        return abs(float(plant.client.hget(sweep, "next_s") or b"") - time.time()) < STEP_S
    except ValueError:
        return False
