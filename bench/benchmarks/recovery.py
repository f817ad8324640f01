"""`bench recovery`: how long after an overload until results come as soon as before it.

A benchmark of its own, and not a part of `latency`: one camera sends at a steady load all the time, and its images are
looked at before, during and after others overload the worker. That takes minutes, and none of it is a load level.

The steady camera's images are divided by their times of capture into windows of one second, each beginning a tenth of a
second after the one before. A window's p99 covers all of its frames; a frame without a result in time counts as
infinitely late: one that was late, expired, or refused, which shows as a gap in the frames' numbers. The worker has
recovered in the first window after the overload whose p99 is at most the highest p99 of any window before it. The
reference is the highest, not the p99 of the whole time before: of the 100 to 200 frames of a window the p99 is nearly
the slowest one, so most windows of a worker that nothing disturbs would lie above the p99 of the whole time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.contenders.running_worker import RunningWorker, running_worker, worker_settings
from bench.measuring.record import OnProgress, Record, percentile
from bench.measuring.traffic import (
    PATIENCE_S,
    TrafficResult,
    TrafficSpec,
    cameras,
    check_accounted,
    results,
    tail,
    timed_traffic,
    wait_answered,
)
from shared.errors import Transient
from shared.schemas import Outcome, SortResult
from shared.settings import Settings
from shared.subprocesses import Child

# The steady load, and the load while others send too, in percent of the worker's capacity.
STEADY_PERCENT = 50
OVERLOAD_PERCENT = 300
# The steady camera sends so long before and after. The first seconds are not looked at.
SETTLE_S = 3.0
BEFORE_S = 12.0
AFTER_S = 20.0
# An overload's cameras need about this long before they send: they start, and draw their frames.
_CAMERAS_START_S = 6.0
WINDOW_S = 1.0
STEP_S = 0.1
STEADY_LINE, OVERLOAD_LINE = "steady", "overload"


class Frame(NamedTuple):
    """One frame of the steady camera: when it was captured, and how long its result took; infinite if not in time."""

    captured_at: float
    total_ms: float


class Window(NamedTuple):
    """The frames captured in one second, from `began_at` on."""

    began_at: float
    p99_ms: float


def bench_recovery(
    settings: Settings,
    *,
    kind: str,
    jobs: int,
    seconds: float,
    deadline_ms: float,
    on_progress: OnProgress,
    size: str = "640x480",
) -> Record:
    """The seconds from the end of an overload of `seconds` until the p99 is back; `jobs` to measure the capacity."""
    with running_worker(worker_settings(settings), kind) as run:
        on_progress(f"recovery {kind}: the worker's capacity")
        capacity_hz = run.capacity(jobs=jobs, size=size)
        steady, overload = (
            timed_traffic(
                line, rate_hz=capacity_hz * percent / 100, seconds=lasts_s, size=size, deadline_ms=deadline_ms
            )
            for line, percent, lasts_s in (
                (STEADY_LINE, STEADY_PERCENT, SETTLE_S + BEFORE_S + _CAMERAS_START_S + seconds + AFTER_S),
                (OVERLOAD_LINE, OVERLOAD_PERCENT - STEADY_PERCENT, seconds),
            )
        )
        spans = _run(run, steady, overload, on_progress=lambda text: on_progress(f"recovery {kind}: {text}"))
        windows = windows_of(frames_of(results(run.client, STEADY_LINE), rate_hz=steady.rate_hz))
    return {
        "benchmark": f"recovery {kind}",
        "size": size,
        "deadline_ms": deadline_ms,
        "capacity_images_per_s": round(capacity_hz, 1),
        "steady_percent": STEADY_PERCENT,
        "overload_percent": OVERLOAD_PERCENT,
        "overload_s": round(spans.sent.seconds, 1),
        "overload_sent_images_per_s": round(spans.sent.achieved_hz, 1),
        **recovered(
            windows,
            began_at=spans.began_at,
            overload_from=spans.overload_from,
            overload_until=spans.overload_until,
        ),
        "window_p99_ms": [[round(w.began_at - spans.overload_until, 1), _finite(w.p99_ms)] for w in windows],
    }


class _Spans(NamedTuple):
    """When what was sent, epoch seconds."""

    began_at: float
    overload_from: float
    overload_until: float
    sent: TrafficResult  # the overload


def _run(run: RunningWorker, steady: TrafficSpec, overload: TrafficSpec, *, on_progress: OnProgress) -> _Spans:
    """Send the steady traffic, and the overload in between; returns when all of it is answered."""
    on_progress(f"{steady.rate_hz:.0f} images/s")
    with cameras(run.settings, steady, folder=run.folder) as running:
        wait_answered(run.client, STEADY_LINE, count=1, child=run.child)
        began_at = time.time() + SETTLE_S
        time.sleep(SETTLE_S + BEFORE_S)
        overload_from = time.time()
        on_progress(f"{steady.rate_hz + overload.rate_hz:.0f} images/s")
        sent = run.send(overload)
        overload_until = time.time()
        on_progress(f"{steady.rate_hz:.0f} images/s again")
        for each in running:
            _wait_end(each)
    found = results(run.client, OVERLOAD_LINE)
    check_accounted(found, overload, sent)
    last_at = max((result.captured_at for result in found), default=overload_until)
    return _Spans(began_at, overload_from, last_at, sent)


def _wait_end(camera: Child) -> None:
    until = time.monotonic() + PATIENCE_S
    while (code := camera.poll()) is None and time.monotonic() < until:
        time.sleep(0.1)
    if code != 0:
        raise Transient(f"the steady camera ended with {code}: {tail(camera)}")


def frames_of(found: Iterable[SortResult], *, rate_hz: float) -> list[Frame]:
    """All frames of the steady camera, by time of capture. Frames that are missing between two others were refused."""
    by_number = {int(result.frame_id or 0): result for result in found}
    frames: list[Frame] = []
    captured_at = 0.0
    for number in range(min(by_number, default=0), max(by_number, default=-1) + 1):
        result = by_number.get(number)
        captured_at = captured_at + 1 / rate_hz if result is None else result.captured_at
        total_ms = None if result is None or result.outcome is not Outcome.SORTED else result.timings_ms.total
        frames.append(Frame(captured_at, math.inf if total_ms is None else total_ms))
    return sorted(frames)


def windows_of(frames: Sequence[Frame], *, window_s: float = WINDOW_S, step_s: float = STEP_S) -> list[Window]:
    """The p99 of each whole window; windows without a frame are left out."""
    if not frames:
        return []
    windows = []
    first, last = frames[0].captured_at, frames[-1].captured_at
    for step in range(int((last - first - window_s) / step_s) + 1):
        began_at = first + step * step_s
        inside = [frame.total_ms for frame in frames if began_at <= frame.captured_at < began_at + window_s]
        if inside:
            windows.append(Window(began_at, percentile(inside, 99)))
    return windows


def recovered(
    windows: Sequence[Window],
    *,
    began_at: float,
    overload_from: float,
    overload_until: float,
    window_s: float = WINDOW_S,
) -> Record:
    """When the worker has recovered; `recovery_s` is None if it has not, as far as the windows reach.

    Raises:
        Transient: there is no window before the overload, or its p99 is infinite: nothing to compare with.
    """
    before = [w.p99_ms for w in windows if began_at <= w.began_at <= overload_from - window_s]
    during = [w.p99_ms for w in windows if overload_from <= w.began_at <= overload_until - window_s]
    if not before or math.isinf(max(before)):
        raise Transient("not all images before the overload were in time, or there were none: the run is void.")
    after = (w for w in windows if w.began_at >= overload_until)
    back_at = next((w.began_at for w in after if w.p99_ms <= max(before)), None)
    return {
        "before_p99_ms": round(max(before), 1),
        "during_p99_ms": _finite(max(during, default=math.inf)),
        "recovery_s": None if back_at is None else round(back_at - overload_until, 2),
    }


def _finite(value: float) -> float | None:
    """The value for JSON, which has no infinity: None."""
    return None if math.isinf(value) else round(value, 1)
