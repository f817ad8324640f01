"""What `poison` sees of its workers, and the record of the images that it marks."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from torture.plant.plant import Plant
from torture.plant.processes import Restart, WorkerProcess


class Marked(NamedTuple):
    """One marked image that was sent. `digest` is its SHA-256."""

    mark: str
    job_id: str
    digest: str


class Observer:
    """Watches the workers: what their `/healthz` says, which of them their parent processes replace, and why."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._replaced: set[str] = set()
        self.unhealthy: set[int] = set()  # process ids of workers whose /healthz has said so
        self.aborted: set[int] = set()  # process ids of workers that SIGABRT has ended
        self.hung: set[int] = set()  # process ids of workers that ended because a call hung
        self.causes: Counter[str] = Counter()

    def poll(self) -> None:
        """Look at all workers."""
        for worker in self._plant.workers:
            if (name := worker.name) and _problem(worker):
                self.unhealthy.add(Restart(name, "").pid)
            for restart in worker.restarts():
                if restart.worker not in self._replaced:
                    self._replaced.add(restart.worker)
                    self._note(restart)

    @property
    def is_settled(self) -> bool:
        """Whether all workers are ready and healthy."""
        return all(worker.name and _problem(worker) == "" for worker in self._plant.workers)

    def _note(self, restart: Restart) -> None:
        self.causes[restart.cause] += 1
        if "SIGABRT" in restart.cause:
            self.aborted.add(restart.pid)
        elif "hung" in restart.cause:
            self.hung.add(restart.pid)
        else:
            self._plant.note("only a mark makes a worker end", f"{restart.worker} {restart.cause}")
        self._plant.record_end(restart.worker)


def _problem(worker: WorkerProcess) -> str | None:
    """What is wrong with a worker, according to its /healthz; "" if nothing is, None if it can't be asked."""
    try:
        return (worker.health_problem() or "") if worker.name else None
    except OSError:
        return None
