"""`overload`: producers send three times what the workers can do, and a worker is killed each minute."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from shared import keys
from torture.campaigns.base import Figures, Limits
from torture.plant.feeder import FeederOptions
from torture.plant.plant import Plant
from torture.plant.processes import WorkerProcess
from torture.plant.worker_program import NULL_IMAGES_PER_S
from torture.server.waiting import wait_until
from worker.state.pixel_buffer import BATCHES_HELD
from worker.steps.claim_limits import max_answered

WORKERS = 2
OVERLOAD = 3
# Half of the producers give their images a deadline, which most of them miss; the images of the others wait.
FEEDERS = 4
BURST = 20
DEADLINE_MS = 500.0
# Small, so that even a short run fills the queue.
QUEUE_MAX_ITEMS = 2_000
KILL_EVERY_S = 60.0
# How many jobs one claim sets apart because they can't be in time: MAX_EXPIRED of claim.lua.
MOST_SET_APART = 128
# Even a short run kills this many workers.
MIN_KILLS = 2
POLL_S = 0.5
# How much a worker may grow after it was first measured; how much memory the server may take for each waiting job (an
# image of a few KB, and RQ's hash), for each finished one (docs/sizing.md), and for everything else.
WORKER_GROWTH_BYTES = 64_000_000
WAITING_JOB_BYTES = 16_000
FINISHED_JOB_BYTES = 4_000
SERVER_BYTES = 32_000_000


@dataclass(slots=True)
class Sizes:
    """The largest values of everything that must stay bounded."""

    idle_server_bytes: int  # before the campaign: a server that the user has named may hold other databases
    server_bytes: int = 0
    queued: int = 0
    first_bytes: dict[int, int] = field(default_factory=dict)  # memory when first measured, by process id
    most_bytes: dict[int, int] = field(default_factory=dict)

    @property
    def growth_bytes(self) -> int:
        """Growth of the worker that grew most."""
        return max((self.most_bytes[pid] - first for pid, first in self.first_bytes.items()), default=0)


def overload(plant: Plant, limits: Limits) -> Figures:
    """Flood the plant, measure what must stay bounded, and kill a worker from time to time."""
    bounded = plant.settings.model_copy(update={"queue_max_items": QUEUE_MAX_ITEMS})
    plant.start_workers(WORKERS)
    rate_hz = OVERLOAD * WORKERS * NULL_IMAGES_PER_S / FEEDERS
    deadlines = [DEADLINE_MS if number % 2 else None for number in range(FEEDERS)]
    plant.start_feeders(
        [FeederOptions(rate_hz=rate_hz, burst=BURST, deadline_ms=deadline_ms) for deadline_ms in deadlines], bounded
    )
    sizes = Sizes(idle_server_bytes=_server_bytes(plant))
    began = time.monotonic()
    kill_every_s = min(KILL_EVERY_S, limits.seconds / (MIN_KILLS + 1))
    while (passed_s := time.monotonic() - began) < limits.seconds:
        _measure(plant, sizes)
        plant.options.on_progress(f"{passed_s:.0f} of {limits.seconds:.0f} s, {sizes.queued:,} jobs waited at most")
        if passed_s > kill_every_s * (len(plant.deaths) + 1):
            wait_until(lambda: len(plant.ready) > 1, "another worker is ready")
            plant.kill_worker(plant.random.choice(plant.ready))
            plant.start_worker()
        time.sleep(POLL_S)
    _check_promises(plant, sizes)
    return {
        "workers killed": len(plant.deaths),
        "most jobs waiting in a queue": sizes.queued,
        "server's memory at most, MB": round(sizes.server_bytes / 1e6, 1),
        "a worker's memory at most, MB": round(max(sizes.most_bytes.values()) / 1e6, 1),
        "growth of the worker that grew most, MB": round(sizes.growth_bytes / 1e6, 1),
    }


def _measure(plant: Plant, sizes: Sizes) -> None:
    sizes.server_bytes = max(sizes.server_bytes, _server_bytes(plant))
    sizes.queued = max(sizes.queued, *plant.queued().values())
    for worker in plant.ready:
        bytes_now = _memory_bytes(worker)
        sizes.first_bytes.setdefault(worker.pid, bytes_now)
        sizes.most_bytes[worker.pid] = max(sizes.most_bytes.get(worker.pid, 0), bytes_now)


def _server_bytes(plant: Plant) -> int:
    return int(plant.client.info("memory")["used_memory"])


def _memory_bytes(worker: WorkerProcess) -> int:
    """The worker's own memory, without pages of files, which the kernel drops and reloads as it likes."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    return sum(1024 * int(kb) for kb in re.findall(r"^(?:RssAnon|VmSwap):\s+(\d+) kB$", status, re.MULTILINE))


def _check_promises(plant: Plant, sizes: Sizes) -> None:
    # The jobs of a dead worker go back to the queue even if it is full: those it worked on, those it had answered but
    # not written yet, and those of its last claim, which may set many apart.
    max_batch = plant.settings.max_batch
    most_held = BATCHES_HELD * max_batch + max_answered(max_batch) + MOST_SET_APART
    most_queued = QUEUE_MAX_ITEMS + len(plant.deaths) * most_held
    if sizes.queued > most_queued:
        plant.note("a queue keeps its bound", f"{sizes.queued:,} jobs waited, at most {most_queued:,} were expected")
    finished = sum(plant.client.zcard(keys.rq_finished(queue)) for queue in plant.settings.queue_names)
    bound = sizes.idle_server_bytes + SERVER_BYTES + QUEUE_MAX_ITEMS * WAITING_JOB_BYTES + finished * FINISHED_JOB_BYTES
    if sizes.server_bytes > bound:
        plant.note("the server's memory is bounded", f"{sizes.server_bytes:,} bytes, at most {bound:,} were expected")
    if sizes.growth_bytes > WORKER_GROWTH_BYTES:
        plant.note("a worker's memory is bounded", f"one grew by {sizes.growth_bytes:,} bytes")
