"""`fuzz`: mutated files for the decoder, and mutated jobs for the parser (`torture.fuzzing`). Needs no worker.

Half of the time the inputs depend on the seed alone; in the other half atheris, if it is installed, keeps those that
reach new code and mutates them further. Whatever fails is kept in the campaign's folder.
"""

from __future__ import annotations

import importlib.util
import time
from collections import Counter
from pathlib import Path

from shared.subprocesses import name_of_ending
from torture.campaigns.base import Figures, Limits
from torture.fuzzing.findings import Finding, FindingsFolder, Status
from torture.fuzzing.program import FINDINGS, STATUS_FILE
from torture.fuzzing.targets import TARGETS
from torture.plant.plant import Plant
from torture.plant.processes import Process

PROMISE = "whatever the bytes are, they are used or refused, within bounds of time and memory"
PLAIN, GUIDED = "plain", "guided"
# A shorter run does without atheris, which needs several seconds to start.
LEAST_GUIDED_S = 30.0
POLL_S = 0.2
# A process may take this much longer than it was told, to start and to end; then it hangs without using the processor.
GRACE_S = 120.0
# How the kernel ends a process whose input takes too much processor time (`torture.fuzzing.findings`).
OUT_OF_TIME = "SIGPROF"
# A process that dies is replaced this often.
MOST_DEATHS = 20


def fuzz(plant: Plant, limits: Limits) -> Figures:
    """Fuzz all targets at once, in one way after the other."""
    has_guide = limits.seconds >= LEAST_GUIDED_S and importlib.util.find_spec("atheris") is not None
    ways = [PLAIN, GUIDED] if has_guide else [PLAIN]
    runs: Counter[str] = Counter()
    began = time.monotonic()
    for way in ways:
        folder = plant.options.folder / way
        folder.mkdir()
        runs += _fuzz(plant, way, seconds=limits.seconds / len(ways), folder=folder)
        for kind in FindingsFolder(folder / FINDINGS).kinds():
            plant.note(PROMISE, kind)
    seconds = time.monotonic() - began
    return {"ways": ", ".join(ways), "inputs": dict(runs), "inputs per second": round(runs.total() / seconds)}


def _fuzz(plant: Plant, way: str, *, seconds: float, folder: Path) -> Counter[str]:
    """Fuzz all targets in one way. Returns the number of inputs for each."""
    until = time.monotonic() + seconds
    fuzzers = [Fuzzer(plant, name, way=way, folder=folder, until=until) for name in TARGETS]
    try:
        for fuzzer in fuzzers:
            fuzzer.start()
        while any([not fuzzer.has_ended() for fuzzer in fuzzers]):
            counts = ", ".join(f"{fuzzer.name}: {fuzzer.runs:,}" for fuzzer in fuzzers)
            plant.options.on_progress(f"{way}, {counts}")
            time.sleep(POLL_S)
    finally:
        for fuzzer in fuzzers:
            fuzzer.kill()
    return Counter({f"{fuzzer.name}, {way}": fuzzer.runs for fuzzer in fuzzers})


class Fuzzer:
    """The process that fuzzes one target, and those that take its place when an input has ended it."""

    def __init__(self, plant: Plant, name: str, *, way: str, folder: Path, until: float) -> None:
        self.name = name
        self._seed = plant.options.seed
        self._way = way
        self._folder = folder
        self._until = until
        self._status = Status(folder / f"{name}-{STATUS_FILE}")
        self._process: Process | None = None
        self._deaths = 0

    @property
    def runs(self) -> int:
        """The number of inputs so far."""
        return self._status.read()[0]

    def start(self) -> None:
        """Start a process for the rest of the time, after the last input that was run."""
        left_s = max(1.0, self._until - time.monotonic())
        arguments = (self.name, self._way, str(self._seed), str(self.runs), f"{left_s:.1f}", str(self._folder))
        log = self._folder / f"{self.name}.log"
        self._process = Process("torture.fuzzing.program", *arguments, log=log, variables={})

    def has_ended(self) -> bool:
        """Whether the time is over and the process has ended. Replaces one that an input has ended."""
        assert self._process is not None
        code = self._process.exit_code
        if code is None and time.monotonic() < self._until + GRACE_S:
            return False
        if code == 0:
            return True
        self._process.kill()
        self._keep(code)
        self._deaths += 1
        if self._deaths >= MOST_DEATHS or time.monotonic() >= self._until:
            return True
        self.start()
        return False

    def _keep(self, code: int | None) -> None:
        _, data = self._status.read()
        ending = None if code is None else name_of_ending(code)
        kind = "the process did not end" if ending is None else f"the process ended: {ending}"
        finding = Finding(kind, "It took too much processor time." if ending == OUT_OF_TIME else "")
        FindingsFolder(self._folder / FINDINGS).add(self.name, data, finding, seed=self._seed)

    def kill(self) -> None:
        """End the process, if it runs."""
        if self._process is not None:
            self._process.kill()
