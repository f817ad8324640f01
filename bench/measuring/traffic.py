"""Images for the benchmarks, from the real producer (processes of `sortline camera`), and their results.

A camera draws a few frames before it sends the first one, and then sends them in turn, so that drawing does not disturb
what is measured.
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

# How many different frames a camera draws.
REPLAYED = 60
# The most frames a second that one camera process has to send. Without a schedule it sends 7,000 and more of 30 KB, so
# it can keep a schedule at this rate.
CAMERA_HZ = 2000.0
PATIENCE_S = 120.0
_POLL_S = 0.05
_READ_RESULTS = 1000


@dataclass(frozen=True, slots=True)
class TrafficSpec:
    """What to send: `count` frames on one line, at `rate_hz` in all (0: as fast as possible)."""

    line: str
    count: int
    rate_hz: float = 0.0
    size: str = "640x480"
    quality: int = 85
    deadline_ms: float | None = None


@dataclass(frozen=True, slots=True)
class TrafficResult:
    """What the cameras report about the traffic they sent."""

    frames: int
    accepted: int
    refused_full: int
    achieved_hz: float
    cameras: int


def send(settings: Settings, spec: TrafficSpec, *, folder: Path) -> TrafficResult:
    """Send the traffic with camera processes; returns when all of it is sent.

    Raises:
        Transient: a camera failed; quotes its log.
    """
    with cameras(settings, spec, folder=folder) as running:
        for camera in running:
            _end(camera)
    outs = [_out(folder, spec, number) for number in range(1, len(running) + 1)]
    summaries = [json.loads(out.read_text()) for out in outs]
    sent = TrafficResult(
        frames=sum(summary["frames"] for summary in summaries),
        accepted=sum(summary["accepted"] for summary in summaries),
        refused_full=sum(summary["refused_full"] for summary in summaries),
        # A camera that sends a single frame takes almost no time.
        achieved_hz=sum(summary["frames"] / max(summary["seconds"], 1e-3) for summary in summaries),
        cameras=len(running),
    )
    if sent.accepted + sent.refused_full != spec.count:
        raise Transient(f"{spec.count} frames were to be sent on line {spec.line}, but the cameras report {sent}.")
    return sent


@contextlib.contextmanager
def cameras(settings: Settings, spec: TrafficSpec, *, folder: Path) -> Iterator[list[Child]]:
    """Start as many cameras as the rate needs; they end with the block."""
    of = max(1, min(spec.count, math.ceil(spec.rate_hz / CAMERA_HZ)))
    counts = [spec.count // of + (number < spec.count % of) for number in range(of)]
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(_camera(settings, spec, number, count=count, of=of, folder=folder))
            for number, count in enumerate(counts, start=1)
        ]


def _camera(settings: Settings, spec: TrafficSpec, number: int, *, count: int, of: int, folder: Path) -> Child:
    arguments = ["camera", "--line", spec.line, "--camera", f"camera-{number}", "--source", "simulated", "--json"]
    arguments += ["--rate", str(spec.rate_hz / of), "--count", str(count), "--replay", str(min(REPLAYED, count))]
    arguments += ["--size", spec.size, "--quality", str(spec.quality)]
    if spec.deadline_ms is not None:
        arguments += ["--deadline-ms", str(spec.deadline_ms)]
    out = _out(folder, spec, number)
    out.unlink(missing_ok=True)
    return Child(arguments, log=out.with_suffix(".log"), out=out, variables=environment(settings))


def _out(folder: Path, spec: TrafficSpec, number: int) -> Path:
    return folder / f"{spec.line}-{number}.json"


def _end(camera: Child) -> None:
    while (code := camera.poll()) is None:
        time.sleep(_POLL_S)
    if code:
        raise Transient(f"a camera ended with {code}: {tail(camera)}")


def tail(child: Child) -> str:
    """The end of what a process logged."""
    return child.log.read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def claims_suspended(client: Any) -> Iterator[None]:
    """Workers claim nothing inside the block, as after `rq suspend`. They resume within half a second of its end."""
    client.set(keys.RQ_SUSPENDED, "1")
    try:
        yield
    finally:
        client.delete(keys.RQ_SUSPENDED)


def answered(client: Any, line: str) -> int:
    """How many results a line has."""
    return int(client.xlen(keys.results(line)))


def wait_answered(client: Any, line: str, *, count: int, child: Child | None = None) -> None:
    """Wait until a line has `count` results.

    Raises:
        Transient: no more results come, or `child`, which should produce them, has ended.
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
    """The time from capture to result of each, in ms. `finished_at` and `captured_at` are by different clocks."""
    return [total_ms for result in found if (total_ms := result.timings_ms.total) is not None]


def finished_at(result: SortResult) -> float:
    """When the result was made, by the clock of the machine that took the picture: the benchmark's own."""
    return result.captured_at + (result.timings_ms.total or 0.0) / 1000
