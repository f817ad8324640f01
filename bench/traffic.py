"""Images for the benchmarks, from the real producer (`sortline camera`, processes of their own), and their results.

Cameras draw their frames before the first is sent, and send them in turn: drawing takes nothing from what is measured.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import keys
from shared.errors import Transient
from shared.schemas import SortResult
from shared.settings import Settings, environment
from shared.subprocesses import Child

# Different frames of one camera.
REPLAYED = 60
# One camera process keeps to its schedule up to some thousands of frames a second (7,000 and more, of 30 KB, were
# measured without one); this leaves room.
CAMERA_HZ = 2000.0
PATIENCE_S = 120.0
_POLL_S = 0.05
_READ_RESULTS = 1000


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: at `rate_hz` (0: as fast as possible), `count` frames in all, on one line."""

    line: str
    count: int
    rate_hz: float = 0.0
    size: str = "640x480"
    quality: int = 85
    deadline_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """What the cameras of a load say that they did."""

    frames: int
    accepted: int
    refused_full: int
    achieved_hz: float
    cameras: int


def send(settings: Settings, load: Load, *, folder: Path) -> Sent:
    """Have a load sent; returns when all of it is.

    Raises:
        Transient: a camera failed; quotes its log.
    """
    with cameras(settings, load, folder=folder) as running:
        for camera in running:
            _end(camera)
    outs = [_out(folder, load, number) for number in range(1, len(running) + 1)]
    summaries = [json.loads(out.read_text()) for out in outs]
    sent = Sent(
        frames=sum(summary["frames"] for summary in summaries),
        accepted=sum(summary["accepted"] for summary in summaries),
        refused_full=sum(summary["refused_full"] for summary in summaries),
        # A camera that sends one frame alone is done at once.
        achieved_hz=sum(summary["frames"] / max(summary["seconds"], 1e-3) for summary in summaries),
        cameras=len(running),
    )
    if sent.accepted + sent.refused_full != load.count:
        raise Transient(f"{load.count} frames were to be sent on line {load.line}, the cameras speak of {sent}.")
    return sent


@contextlib.contextmanager
def cameras(settings: Settings, load: Load, *, folder: Path) -> Iterator[list[Child]]:
    """As many cameras as the rate of a load takes; told to end with the block."""
    of = max(1, min(load.count, math.ceil(load.rate_hz / CAMERA_HZ)))
    counts = [load.count // of + (number < load.count % of) for number in range(of)]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(_camera(settings, load, number, count=count, of=of, folder=folder))
            for number, count in enumerate(counts, start=1)
        ]


def _camera(settings: Settings, load: Load, number: int, *, count: int, of: int, folder: Path) -> Child:
    arguments = ["camera", "--line", load.line, "--camera", f"camera-{number}", "--source", "simulated", "--json"]
    arguments += ["--rate", str(load.rate_hz / of), "--count", str(count), "--replay", str(min(REPLAYED, count))]
    arguments += ["--size", load.size, "--quality", str(load.quality)]
    if load.deadline_ms is not None:
        arguments += ["--deadline-ms", str(load.deadline_ms)]
    out = _out(folder, load, number)
    out.unlink(missing_ok=True)
    return Child(arguments, log=out.with_suffix(".log"), out=out, variables=environment(settings))


def _out(folder: Path, load: Load, number: int) -> Path:
    return folder / f"{load.line}-{number}.json"


def _end(camera: Child) -> None:
    while (code := camera.poll()) is None:
        time.sleep(_POLL_S)
    if code:
        raise Transient(f"a camera ended with {code}: {tail(camera)}")


def tail(child: Child) -> str:
    """The end of what a process logged."""
    return child.log.read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def held(client: Any) -> Iterator[None]:
    """Workers claim nothing inside the block, as after `rq suspend`; they go on within half a second of its end."""
    client.set(keys.RQ_SUSPENDED, "1")
    try:
        yield
    finally:
        client.delete(keys.RQ_SUSPENDED)


def answered(client: Any, line: str) -> int:
    """How many results a line has."""
    return int(client.xlen(keys.results(line)))


def wait_answered(client: Any, line: str, *, count: int, child: Child | None = None) -> None:
    """Until a line has so many results.

    Raises:
        Transient: nothing comes any more, or `child`, which it takes, has ended.
    """
    seen, until = -1, 0.0
    while (now := answered(client, line)) < count:
        if now != seen:
            seen, until = now, time.monotonic() + PATIENCE_S
        if (child is not None and child.poll() is not None) or time.monotonic() > until:
            log = "" if child is None else tail(child)
            raise Transient(f"{now} results instead of {count} on line {line}: the run is void. {log}")
        time.sleep(_POLL_S)


def results(client: Any, line: str) -> list[SortResult]:
    """All results of a line, in the order in which they were written."""
    found: list[SortResult] = []
    start = "-"
    while entries := client.xrange(keys.results(line), start, count=_READ_RESULTS):
        found += [SortResult.model_validate_json(fields[b"result"]) for _, fields in entries]
        start = f"({entries[-1][0].decode()}"
    return found


def times_ms(found: list[SortResult]) -> list[float]:
    """Capture to result of each."""
    return [(result.finished_at - result.captured_at) * 1000 for result in found]
