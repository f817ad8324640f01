"""`stops`: workers are paused for longer than their lease and then go on; others are told to end."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

from shared import keys
from torture.campaigns.base import Figures, Limits
from torture.plant.feeder import FeederOptions
from torture.plant.plant import Plant
from torture.plant.processes import WorkerProcess
from torture.server.waiting import wait_until

WORKERS = 3
FEEDERS = 2
RATE_HZ = 300.0  # as much as the workers can do, so that they always hold some jobs
# The shortest that the setting allows, so that a pause need not be long.
LEASE_S = 2
# Shorter than a pause: all threads of a paused worker look stuck, and it must not give up its jobs for that.
STUCK_AFTER_S = 2.0
TWICE = "SIGTERM twice"
ACTIONS = ("zombie", "SIGTERM", "SIGINT", TWICE)  # in turn, so that a short run does all of them
MAX_PAUSE_S = 0.4
POLL_S = 0.02


def stops(plant: Plant, limits: Limits) -> Figures:
    """Pause a worker, or tell it to end and start another, until the time is over and each action was done once."""
    quick = plant.settings.model_copy(update={"lease_s": LEASE_S, "stuck_after_s": STUCK_AFTER_S})
    plant.start_workers(WORKERS, quick)
    plant.start_feeders([FeederOptions(rate_hz=RATE_HZ)] * FEEDERS)
    counts = dict.fromkeys(ACTIONS, 0)
    drains_s: list[float] = []
    codes: Counter[int] = Counter()
    until = time.monotonic() + limits.seconds
    while time.monotonic() < until or not all(counts.values()):
        action = min(ACTIONS, key=lambda name: counts[name])
        counts[action] += 1
        plant.options.on_progress(", ".join(f"{name}: {count}" for name, count in counts.items()))
        time.sleep(plant.random.uniform(0, MAX_PAUSE_S))
        wait_until(lambda: len(plant.ready) > 1, "another worker is ready")
        victim = plant.random.choice(plant.ready)
        if action == "zombie":
            _pause(plant, victim)
            continue
        began = time.monotonic()
        codes[_end(plant, victim, action)] += 1
        drains_s.append(time.monotonic() - began)
        plant.start_worker(quick)
    return {
        **counts,
        "exit codes": dict(codes),
        "longest drain, s": round(max(drains_s), 2),
    }


def _pause(plant: Plant, worker: WorkerProcess) -> None:
    """Pause a worker that holds jobs for longer than its lease."""

    def is_paused_with_jobs() -> bool:
        worker.signal(signal.SIGSTOP)
        if plant.held_by(worker.name or ""):
            return True
        worker.signal(signal.SIGCONT)
        return False

    wait_until(is_paused_with_jobs, f"{worker.name} holds jobs")
    time.sleep(LEASE_S + 1.5)  # the other workers take expired leases back once a second
    worker.signal(signal.SIGCONT)


def _end(plant: Plant, worker: WorkerProcess, action: str) -> int:
    """Tell a worker to end, and check that it ends as it should; its exit code."""
    if action == TWICE:
        pause_s = plant.random.uniform(0.05, 0.2)  # the kernel merges equal signals that come at once
        code = plant.drain_worker(worker, again_after_s=pause_s)
    else:
        with _watched(plant, worker) as held:
            code = plant.drain_worker(worker, number=signal.Signals[action])
        if others := [job_id for job_id in held if _owner(plant, job_id) != worker.name]:
            example = f"{worker.name} after {action}: others have {len(others)} of {len(held)} jobs"
            plant.note("a worker that is told to end finishes what it holds", example)
    if left := plant.held_by(worker.name or ""):
        plant.note("a worker that ended in good order holds no jobs", f"{worker.name} after {action}: {len(left)} jobs")
    return code


@contextlib.contextmanager
def _watched(plant: Plant, worker: WorkerProcess) -> Iterator[set[str]]:
    """The jobs that the worker was seen to hold at any time in the block."""
    held: set[str] = set()
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(POLL_S):
            held.update(plant.held_by(worker.name or ""))

    thread = threading.Thread(target=poll, name="watch", daemon=True)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()


def _owner(plant: Plant, job_id: str) -> str:
    return (plant.client.hget(keys.rq_job(job_id), "worker_name") or b"").decode()
