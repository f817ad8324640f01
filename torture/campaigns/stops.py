"""`stops`: workers that stand still for longer than their lease and then go on, and workers that are told to end."""

from __future__ import annotations

import signal
import time
from collections import Counter

from shared import keys
from torture.campaigns.base import Figures, Limits
from torture.feeder import Feeding
from torture.plant import DRAIN_S, ENDS_WHEN_TOLD, Plant
from torture.processes import WorkerProcess, wait_until

WORKERS = 3
FEEDERS = 2
RATE_HZ = 300.0  # as much as the workers can do, so that they always have some in hand
# The shortest that a setting allows, so that a worker needn't stand still for long.
LEASE_S = 2
# Shorter than a worker stands still: its threads look as if they hung, and it must not give itself up for it.
STUCK_AFTER_S = 2.0
TWICE = "SIGTERM twice"
ACTIONS = ("zombie", "SIGTERM", "SIGINT", TWICE)  # in turn, so that a short run has each of them
MAX_PAUSE_S = 0.4
LOOK_S = 0.02
QUIT_CODE = 130  # of a worker that is told a second time, unless it was done by then


def stops(plant: Plant, limits: Limits) -> Figures:
    """Until the time is over: stop a worker or tell it to end, and replace it. Each of ACTIONS at least once."""
    quick = plant.settings.model_copy(update={"lease_s": LEASE_S, "stuck_after_s": STUCK_AFTER_S})
    for _ in range(WORKERS):
        plant.start_worker(quick)
    wait_until(lambda: len(plant.ready) == WORKERS, "the workers are ready")
    plant.start_feeders([Feeding(rate_hz=RATE_HZ)] * FEEDERS)
    counts = dict.fromkeys(ACTIONS, 0)
    drains_s: list[float] = []
    codes: Counter[int] = Counter()
    until = time.monotonic() + limits.seconds
    while time.monotonic() < until or not all(counts.values()):
        action = min(ACTIONS, key=lambda name: counts[name])
        counts[action] += 1
        plant.options.say(", ".join(f"{name}: {count}" for name, count in counts.items()))
        time.sleep(plant.random.uniform(0, MAX_PAUSE_S))
        wait_until(lambda: len(plant.ready) > 1, "another worker is ready")
        victim = plant.random.choice(plant.ready)
        if action == "zombie":
            _stand_still(victim)
            continue
        began = time.monotonic()
        codes[_end(plant, victim, action)] += 1
        drains_s.append(time.monotonic() - began)
        plant.start_worker(quick)
    return {**counts, "exit codes": dict(codes), "longest drain, s": round(max(drains_s), 2)}


def _stand_still(worker: WorkerProcess) -> None:
    worker.signal(signal.SIGSTOP)
    time.sleep(LEASE_S + 1.5)  # and a second for whoever takes its jobs back
    worker.signal(signal.SIGCONT)


def _end(plant: Plant, worker: WorkerProcess, action: str) -> int:
    """Tell a worker to end, and hold it to its promises; its exit code."""
    if action == TWICE:
        worker.signal(signal.SIGTERM)
        time.sleep(plant.random.uniform(0.05, 0.2))  # at once it would be one signal for the kernel
        code = plant.drain_worker(worker)
    else:
        seen_held = _held_until_its_end(plant, worker, signal.Signals[action])
        code = plant.drain_worker(worker)  # it has ended: this only takes note of it
        if others := [job_id for job_id in seen_held if _owner(plant, job_id) != worker.name]:
            example = f"{worker.name} after {action}: others have {len(others)} of {len(seen_held)} jobs"
            plant.note("a worker that is told to end finishes what it holds", example)
    if code != 0 and not (action == TWICE and code == QUIT_CODE):
        plant.note(ENDS_WHEN_TOLD, f"{worker.name} after {action}: exit code {code}, see {worker.log}")
    if held := plant.held_by(worker.name or ""):
        plant.note("a worker that ended in good order holds no jobs", f"{worker.name} after {action}: {len(held)} jobs")
    return code


def _held_until_its_end(plant: Plant, worker: WorkerProcess, number: int) -> set[str]:
    """Tell it to end, and wait until it has, or has had its time; the jobs that it was seen to hold meanwhile."""
    worker.signal(number)
    held: set[str] = set()
    until = time.monotonic() + DRAIN_S
    while worker.exit_code is None and time.monotonic() < until:
        held.update(plant.held_by(worker.name or ""))
        time.sleep(LOOK_S)
    return held


def _owner(plant: Plant, job_id: str) -> str:
    return (plant.client.hget(keys.rq_job(job_id), "worker_name") or b"").decode()
