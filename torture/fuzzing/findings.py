"""Runs one input under watch, and keeps those that fail: the input, what went wrong, and how to see it again."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import struct
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from torture.fuzzing.targets import Target

# One input may take this much processor time; then the kernel ends the process, even inside native code.
HANG_S = 10
# A fault that shows again and again is kept once; so many different ones are kept.
MOST_FINDINGS = 50
_STATUS = struct.Struct("<QI")  # number of runs, length of the input that follows


class Finding(NamedTuple):
    """What went wrong with an input. Findings of equal `kind` have one cause."""

    kind: str
    text: str


class Watch:
    """Runs inputs of one target."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def run(self, data: bytes) -> Finding | None:
        """Run one input; returns what went wrong. Ends the process if the input hangs."""
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        most_bytes = _most_bytes()
        began = time.process_time()
        finding = None
        try:
            self._target.run(data)
        except Exception as error:
            finding = _raised(error)
        finally:
            seconds = time.process_time() - began
            signal.setitimer(signal.ITIMER_PROF, 0)
        grown_bytes = _most_bytes() - most_bytes  # beyond what any earlier input took
        if finding is None and seconds > self._target.max_s:
            finding = Finding("slow", f"{seconds:.1f} s of processor time, the bound is {self._target.max_s:g}")
        if finding is None and grown_bytes > self._target.max_bytes:
            bound = f"the bound is {self._target.max_bytes:,}"
            finding = Finding("large", f"the process grew by {grown_bytes:,} bytes, {bound}")
        return finding


def _most_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _raised(error: Exception) -> Finding:
    place = _innermost(error.__traceback__)
    text = "".join(traceback.format_exception(error))
    return Finding(f"{type(error).__name__} at {place}", text)


def _innermost(trace: TracebackType | None) -> str:
    frames = traceback.extract_tb(trace)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"


class Status:
    """A file that holds the number of runs and the input that is running, which outlives the process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, runs: int, data: bytes) -> None:
        """Overwrite it. The input can be read when the process has ended."""
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.write(file, _STATUS.pack(runs, len(data)) + data)
        finally:
            os.close(file)

    def read(self) -> tuple[int, bytes]:
        """The number of runs, and the last input."""
        content = self._path.read_bytes() if self._path.exists() else b""
        if len(content) < _STATUS.size:
            return 0, b""
        runs, length = _STATUS.unpack_from(content)
        return runs, content[_STATUS.size : _STATUS.size + length]


class FindingsFolder:
    """The findings of a run. Each has its input in one file, and a text beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, target: str, data: bytes, finding: Finding, *, seed: int) -> None:
        """Keep a finding, unless one of the same kind is there, or very many are."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{target}-{hashlib.sha256(finding.kind.encode()).hexdigest()[:12]}"
        text = self._folder / f"{name}.txt"
        if text.exists() or len(self.kinds()) >= MOST_FINDINGS:
            return
        (self._folder / f"{name}.bin").write_bytes(data)
        repeat = f"python -m torture.fuzzing.program {target} replay {self._folder / name}.bin"
        text.write_text(f"{finding.kind}\nseed {seed}; repeat with: {repeat}\n\n{finding.text}\n")

    def kinds(self) -> list[str]:
        """One line for each finding: target and kind, and the command that repeats it."""
        lines = []
        for path in sorted(self._folder.glob("*.txt")):
            kind, repeat = path.read_text().splitlines()[:2]
            lines.append(f"{path.name.partition('-')[0]}: {kind}; {repeat}")
        return lines
