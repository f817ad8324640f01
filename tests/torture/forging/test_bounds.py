"""What `forged` itself holds a run to: workers' logs and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from torture.campaigns.forged_bounds import MAX_GROWTH_BYTES, MAX_LINE_BYTES, Bounds
from torture.plant.plant import Plant
from torture.plant.processes import WorkerProcess

LONG = "no forgery makes a long line in a worker's log"
CONTROL = "no control character reaches a worker's log"
MEMORY = "no forgery fills a worker's memory"


class Notes:
    """Stands in for the plant: keeps the promises that were broken."""

    def __init__(self) -> None:
        self.broken: set[str] = set()

    def note(self, promise: str, example: str) -> None:
        self.broken.add(promise)


@dataclass
class Worker:
    """Stands in for a worker: its log, and its memory."""

    log: Path
    peak_bytes: int = 50_000_000
    name: str = "w1"
    pid: int = os.getpid()

    def peak_memory_bytes(self) -> int:
        return self.peak_bytes


@pytest.mark.parametrize(
    ("log", "growth_bytes", "broken"),
    [
        (b"2026-01-01 INFO a line\n\tand its \xc3\xa4 second\n", 1_000_000, set()),
        (b"x" * (MAX_LINE_BYTES + 1), 0, {LONG}),
        (b"a \x1b[31m title", 0, {CONTROL}),
        (b"a \xc2\x9b31m title", 0, {CONTROL}),
        (b"", MAX_GROWTH_BYTES + 1, {MEMORY}),
    ],
)
def test_bounds(tmp_path: Path, log: bytes, growth_bytes: int, broken: set[str]) -> None:
    worker, notes = Worker(tmp_path / "worker.log"), Notes()
    worker.log.write_bytes(log)
    bounds = Bounds(cast(Plant, notes), [cast(WorkerProcess, worker)])
    worker.peak_bytes += growth_bytes
    bounds.check()
    assert notes.broken == broken
    assert bounds.figures()["and its growth, MB"] == round(growth_bytes / 1e6, 1)
