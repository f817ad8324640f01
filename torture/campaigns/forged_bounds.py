"""What forgeries may cost the workers of `forged`: memory, and lines in their logs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torture.campaigns.base import Figures
from torture.plant.plant import Plant
from torture.plant.processes import WorkerProcess

# How much a worker's memory may grow above what it had when it was ready. It holds up to 24 MB of images that wait,
# twice while it reads them, and one image of 20 MB more; a thousand entries of a megabyte each would show.
MAX_GROWTH_BYTES = 200_000_000
# The longest line that a forgery may make in a log. Several texts of 500 characters are quoted in one.
MAX_LINE_BYTES = 5_000
# Control characters, except those that end a line. A terminal obeys them.
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")


class Bounds:
    """Watches the workers of one campaign."""

    def __init__(self, plant: Plant, workers: Sequence[WorkerProcess]) -> None:
        self._plant = plant
        self._workers = list(workers)
        self._first_bytes = {worker.pid: worker.peak_memory_bytes() for worker in workers}

    def check(self) -> None:
        """Note the bounds that were exceeded."""
        for worker in self._workers:
            growth_bytes = worker.peak_memory_bytes() - self._first_bytes[worker.pid]
            if growth_bytes > MAX_GROWTH_BYTES:
                self._plant.note("no forgery fills a worker's memory", f"{worker.name} grew by {growth_bytes:,} bytes")
            for line in worker.log.read_bytes().split(b"\n"):
                self._check_line(worker, line)

    def _check_line(self, worker: WorkerProcess, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            example = f"{worker.name}: {len(line):,} bytes, {line[:200]!r}"
            self._plant.note("no forgery makes a long line in a worker's log", example)
        if _CONTROL.search(line):
            self._plant.note("no control character reaches a worker's log", f"{worker.name}: {line[:200]!r}")

    def figures(self) -> Figures:
        """What was measured."""
        peaks = {worker.pid: worker.peak_memory_bytes() for worker in self._workers}
        lines = [len(line) for worker in self._workers for line in worker.log.read_bytes().split(b"\n")]
        return {
            "a worker's memory at most, MB": round(max(peaks.values(), default=0) / 1e6, 1),
            "and its growth, MB": round(
                max((peaks[pid] - first for pid, first in self._first_bytes.items()), default=0) / 1e6, 1
            ),
            "longest line in a log, bytes": max(lines, default=0),
            "workers' logs, KB": round(sum(lines) / 1e3),
        }
