"""Images for the benchmarks, from the real producer (processes of `sortline camera`), and their results.

A camera draws a few frames before it sends the first one, and then sends them in turn, so that drawing does not disturb
what is measured.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.measuring.processor_use import CpuSampler, CpuSource, tree_cpu_s
from shared import keys
from shared.errors import Transient
from shared.schemas import SortResult
from shared.settings import MAX_TTL_S, Settings, environment
from shared.subprocesses import Child

# How many different frames a camera draws.
REPLAYED = 60
# The most frames a second that one camera process has to send. Without a schedule it sends 7,000 and more of 30 KB, so
# it can keep a schedule at this rate.
CAMERA_HZ = 2000.0
PATIENCE_S = 120.0
_POLL_S = 0.05
_SAMPLE_S = 0.1
_READ_RESULTS = 1000
_NO_SOURCES: Mapping[str, CpuSource] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class TrafficSpec:
    """What to send: `count` frames on one line, at `rate_hz` in all (0: as fast as possible)."""

    line: str
    count: int
    rate_hz: float = 0.0
    size: str = "640x480"
    quality: int = 85
    deadline_ms: float | None = None


def timed_traffic(line: str, *, rate_hz: float, seconds: float, size: str, deadline_ms: float) -> TrafficSpec:
    """Frames with a deadline, at a rate, for so many seconds."""
    count = max(1, round(rate_hz * seconds))
    return TrafficSpec(line=line, count=count, rate_hz=rate_hz, size=size, deadline_ms=deadline_ms)


@dataclass(frozen=True, slots=True)
class TrafficResult:
    """What the cameras report about the traffic they sent.

    `frames` are all that they took from their sources: `accepted` by the queue, or `refused`, by reason. Frames that
    were `missed` are not among them: they were due while the camera was behind its schedule by too much.
    `cores_used` says how many cores a group of processes has used on average during the sending, `cameras` and whatever
    else was watched; a group whose use isn't known is not in it.
    """

    frames: int
    accepted: int
    refused: Mapping[str, int]
    missed: int
    achieved_hz: float
    seconds: float
    cameras: int
    cores_used: Mapping[str, float]

    @property
    def refused_count(self) -> int:
        """The frames that were refused, for any reason."""
        return sum(self.refused.values())


def send(
    settings: Settings, spec: TrafficSpec, *, folder: Path, watch: Mapping[str, CpuSource] = _NO_SOURCES
) -> TrafficResult:
    """Send the traffic with camera processes; returns when all of it is sent.

    Args:
        settings: for the cameras.
        spec: what to send.
        folder: for the cameras' logs and summaries.
        watch: groups of processes whose use of the cores is measured during the sending, as that of the cameras is.

    Raises:
        Transient: a camera failed (quotes its log), or its counts don't add up to the frames that it was to send.
    """
    with cameras(settings, spec, folder=folder) as running:
        own = {_name(number): functools.partial(tree_cpu_s, camera.pid) for number, camera in enumerate(running, 1)}
        sampler = CpuSampler({**own, **watch})
        _wait_ended(running, sampler)
    outs = [_out(folder, spec, number) for number in range(1, len(running) + 1)]
    summaries = [json.loads(out.read_text()) for out in outs]
    ended_at = [_written_at(out) for out in outs]
    windows = [(at - summary["seconds"], at) for at, summary in zip(ended_at, summaries, strict=True)]
    sent = TrafficResult(
        frames=sum(summary["frames"] for summary in summaries),
        accepted=sum(summary["accepted"] for summary in summaries),
        refused=dict(sum((Counter(refused_by_reason(summary)) for summary in summaries), Counter())),
        missed=sum(summary["missed"] for summary in summaries),
        # A camera that sends a single frame takes almost no time.
        achieved_hz=sum(summary["frames"] / max(summary["seconds"], 1e-3) for summary in summaries),
        seconds=max(summary["seconds"] for summary in summaries),
        cameras=len(running),
        cores_used=_cores_used(sampler, windows, watched=list(watch)),
    )
    if not sent.accepted + sent.refused_count == sent.frames == spec.count:
        raise Transient(f"{spec.count} frames were to be sent on line {spec.line}, but the cameras report {sent}.")
    return sent


def refused_by_reason(summary: Mapping[str, Any]) -> dict[str, int]:
    """A camera's refused frames by reason. The summary of an earlier release only says how many there were."""
    refused = summary.get("refused")
    if refused is None:
        refused = {"full": summary["refused_full"]}
    return {reason: int(count) for reason, count in refused.items() if count}


def _cores_used(
    sampler: CpuSampler, windows: Sequence[tuple[float, float]], *, watched: Sequence[str]
) -> dict[str, float]:
    """The cameras' use, each in its own window, and the use of the watched groups while any camera was sending."""
    own = [
        sampler.cores_used(_name(number), began_at=began_at, ended_at=ended_at)
        for number, (began_at, ended_at) in enumerate(windows, start=1)
    ]
    began_at, ended_at = min(window[0] for window in windows), max(window[1] for window in windows)
    found = {name: sampler.cores_used(name, began_at=began_at, ended_at=ended_at) for name in watched}
    found["cameras"] = None if None in own else sum(cores or 0.0 for cores in own)
    return {name: cores for name, cores in found.items() if cores is not None}


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
    arguments = ["camera", "--line", spec.line, "--camera", _name(number), "--source", "simulated", "--json"]
    arguments += ["--rate", str(spec.rate_hz / of), "--count", str(count), "--replay", str(min(REPLAYED, count))]
    arguments += ["--size", spec.size, "--quality", str(spec.quality)]
    if spec.deadline_ms is not None:
        arguments += ["--deadline-ms", str(spec.deadline_ms)]
    out = _out(folder, spec, number)
    out.unlink(missing_ok=True)
    return Child(arguments, log=out.with_suffix(".log"), out=out, variables=environment(settings))


def _out(folder: Path, spec: TrafficSpec, number: int) -> Path:
    return folder / f"{spec.line}-{number}.json"


def _name(number: int) -> str:
    return f"camera-{number}"


def _wait_ended(running: Sequence[Child], sampler: CpuSampler) -> None:
    """Wait until all cameras have ended, and sample meanwhile.

    The time of a process that has ended can be read until `poll` has seen its end, so each round samples first.
    """
    left = list(running)
    while left:
        sampler.sample()
        ended = [(camera, code) for camera in left if (code := camera.poll()) is not None]
        if failed := [(camera, code) for camera, code in ended if code]:
            raise Transient(f"a camera ended with {failed[0][1]}: {tail(failed[0][0])}")
        left = [camera for camera in left if camera not in [one for one, _ in ended]]
        time.sleep(_SAMPLE_S)


def _written_at(out: Path) -> float:
    """When a camera wrote its summary, which is when it had sent everything: monotonic seconds."""
    return time.monotonic() - (time.time() - out.stat().st_mtime)


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


def iter_results(client: Any, line: str) -> Iterator[SortResult]:
    """All results of a line, in the order in which they were written. Holds some of them at a time."""
    start = "-"
    while entries := client.xrange(keys.results(line), start, count=_READ_RESULTS):
        for _, fields in entries:
            yield SortResult.model_validate_json(fields[b"result"])
        start = f"({entries[-1][0].decode()}"


def results(client: Any, line: str) -> list[SortResult]:
    """All results of a line, in the order in which they were written."""
    return list(iter_results(client, line))


def check_accounted(found: Sequence[SortResult], spec: TrafficSpec, sent: TrafficResult) -> None:
    """Check that each frame was refused, or was accepted and has exactly one result.

    Raises:
        Transient: some have no result, or several: the run is void.
    """
    distinct = len({result.job_id for result in found})
    if not distinct == len(found) == sent.accepted:
        raise Transient(
            f"line {spec.line}: {sent.accepted:,} of {sent.frames:,} frames were accepted and {sent.refused_count:,} "
            f"refused, but there are {len(found):,} results, of {distinct:,} jobs: the run is void."
        )


def times_ms(found: Sequence[SortResult]) -> list[float]:
    """The time from capture to result of each, in ms: the worker's own figure, which takes both by one clock.

    A job whose times are impossible has none, and is left out.
    """
    return [result.timings_ms.total for result in found if result.timings_ms.total is not None]


def finished_at(result: SortResult) -> float:
    """When the result was made, by the clock of the machine that took the picture: the benchmark's own."""
    return result.captured_at + (result.timings_ms.total or 0.0) / 1000


def forget_jobs(client: Any) -> None:
    """Delete finished jobs, which would fill the server's memory. Call it while the worker is idle."""
    doomed = [*client.scan_iter("rq:job:*", count=1000), *client.scan_iter("rq:results:*", count=1000)]
    for start in range(0, len(doomed), 1000):
        client.unlink(*doomed[start : start + 1000])


def without_bounds(settings: Settings) -> Settings:
    """The settings of a producer that may fill a queue as a benchmark needs it."""
    return settings.model_copy(
        update={
            "queue_max_items": 10_000_000,
            "queue_max_bytes": 1_000_000_000_000,
            "queue_max_wait_s": float(MAX_TTL_S),
            "line_share": 1.0,
        }
    )
