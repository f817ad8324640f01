"""`bench steady`: how many images miss their deadline at 80 % load over minutes, beside the machine's own stalls.

A shared machine stalls: for some dozens of milliseconds the host runs something else, and whatever runs here stands
still. No worker could make up for a stall that is longer than what is left of the deadline. So a control watches
beside the worker (`bench.measuring.stall_program`): a process on each core that wakes up every 5 ms and notes when it
woke up more than 20 ms late. It asks for priority over all other programs, so that it is held up by the machine only;
without that right (`priority: normal`) its stalls may also come from the cameras and the worker, which hides misses
that are the worker's own. The record says which it was, how much time the host has taken by its own count, and which
share of the cores other programs on this machine took.

A miss is attributed to the machine only by the control's account, never because it is near a stall:
1. The margin is what an image usually has left: the deadline less the median time of the run's images in time.
2. `StallDelays` computes how long the control's stalls alone would have delayed each image, by a worker that does
   everything right at this load: those in the worker during the stall, and those behind them until it has caught up.
3. An image whose delay by the stalls exceeds the margin is one of the control's misses, whether the worker made it or
   not. A miss of the worker that is not one of the control's is beyond them, even if a (shorter) stall touched it.
4. Images that were refused have no time of capture here. All count as misses beyond the control's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench.contenders.running_worker import running_worker, worker_settings
from bench.engines import REAL
from bench.measuring.processor_use import others_share
from bench.measuring.record import OnProgress, Record, percentile, percentiles
from bench.measuring.stalls import Stall, StallDelays, Watched, stolen_s, watch_stalls
from bench.measuring.traffic import TrafficResult, TrafficSpec, iter_results, timed_traffic
from shared.cpu_cores import usable_cores
from shared.errors import Transient
from shared.schemas import Outcome, SortResult
from shared.settings import Settings

PERCENT = 80
LINE = "steady"
# RQ keeps finished jobs no longer than this, or ten minutes of them would fill the server's memory.
RESULT_TTL_S = 60
# This many misses are described in the record, one by one.
_DESCRIBED = 50


class Answer(NamedTuple):
    """What is kept of one result."""

    captured_at: float
    ended_at: float
    total_ms: float
    outcome: Outcome


def bench_steady(
    settings: Settings,
    *,
    jobs: int,
    seconds: float,
    deadline_ms: float,
    on_progress: OnProgress,
    kind: str = REAL,
    size: str = "640x480",
) -> Record:
    """Misses at 80 % load for `seconds`, and those beyond the control's; `jobs` images to measure the capacity."""
    settings = worker_settings(settings).model_copy(update={"result_ttl_s": RESULT_TTL_S})
    with running_worker(settings, kind) as run:
        on_progress("steady: the worker's capacity")
        capacity_hz = run.capacity(jobs=jobs, size=size)
        rate_hz = capacity_hz * PERCENT / 100
        on_progress(f"steady: {rate_hz:.0f} images/s for {seconds:g} s")
        spec = timed_traffic(LINE, rate_hz=rate_hz, seconds=seconds, size=size, deadline_ms=deadline_ms)
        with watch_stalls(run.folder) as watch:
            stolen_before_s = stolen_s()
            sent = run.send(spec)
            stolen_after_s, watched = stolen_s(), watch.read()
        answers = answers_of(iter_results(run.client, LINE), spec=spec, sent=sent)
    stolen = None if stolen_before_s is None or stolen_after_s is None else round(stolen_after_s - stolen_before_s, 2)
    others = others_share(sent.cores_used, cores=usable_cores())
    return {
        "benchmark": "steady",
        "size": size,
        "percent": PERCENT,
        "capacity_images_per_s": round(capacity_hz, 1),
        "seconds": round(sent.seconds, 1),
        "achieved_images_per_s": round(sent.achieved_hz, 1),
        **misses(answers, watched.stalls, refused=sent.refused_count, deadline_ms=deadline_ms, load=PERCENT / 100),
        "refused": dict(sent.refused),
        "control": _control(watched, stolen),
        # Programs that don't belong to this run: the control does not see them, if it goes before all others.
        "others_share_of_cores": None if others is None else round(others, 4),
    }


def answers_of(found: Iterable[SortResult], *, spec: TrafficSpec, sent: TrafficResult) -> list[Answer]:
    """What is kept of the results, one for each accepted image.

    Raises:
        Transient: an image has no result, or several, or one without a time: the run is void.
    """
    by_id: dict[str, Answer] = {}
    count = 0
    for count, result in enumerate(found, start=1):  # noqa: B007  # the number of results is used after the loop
        if result.timings_ms.total is not None:
            by_id[result.job_id] = Answer(
                result.captured_at, result.finished_at, result.timings_ms.total, result.outcome
            )
    if not len(by_id) == count == sent.accepted:
        raise Transient(
            f"line {spec.line}: {sent.accepted:,} images were accepted, but there are {count:,} results, of "
            f"{len(by_id):,} jobs with times: the run is void."
        )
    return sorted(by_id.values())


def misses(
    answers: Sequence[Answer], stalls: Sequence[Stall], *, refused: int, deadline_ms: float, load: float
) -> Record:
    """The worker's misses, the control's, and the worker's beyond the control's.

    Raises:
        Transient: no image was in time, so that there is no usual time.
    """
    in_time = [answer.total_ms for answer in answers if answer.outcome is Outcome.SORTED]
    if not in_time:
        raise Transient("not one image was in time: the run is void.")
    margin_ms = deadline_ms - percentile(in_time, 50)
    delays = StallDelays(stalls, load=load)
    delayed_ms = [delays.delay_of(answer.captured_at, answer.ended_at) * 1000 for answer in answers]
    missed = [answer.outcome is not Outcome.SORTED for answer in answers]
    beyond = [
        (answer, delay_ms)
        for answer, delay_ms, is_missed in zip(answers, delayed_ms, missed, strict=True)
        if is_missed and delay_ms <= margin_ms
    ]
    frames = len(answers) + refused
    counts = Counter(answer.outcome.value for answer in answers)
    return {
        "frames": frames,
        "deadline_ms": deadline_ms,
        "margin_ms": round(margin_ms, 1),
        "capture_to_result_ms": percentiles([answer.total_ms for answer in answers]),
        "outcomes": {outcome.value: counts.pop(outcome.value, 0) for outcome in Outcome} | counts,
        "misses": sum(missed) + refused,
        "control_misses": sum(delay_ms > margin_ms for delay_ms in delayed_ms),
        "misses_beyond_control": len(beyond) + refused,
        "misses_share": round((sum(missed) + refused) / frames, 6),
        "misses_beyond_control_share": round((len(beyond) + refused) / frames, 6),
        "first_misses_beyond_control": [
            _described(answer, delay_ms, began_at=answers[0].captured_at) for answer, delay_ms in beyond[:_DESCRIBED]
        ],
    }


def _described(answer: Answer, delay_ms: float, *, began_at: float) -> Record:
    return {
        "at_s": round(answer.captured_at - began_at, 3),
        "outcome": answer.outcome.value,
        "total_ms": round(answer.total_ms, 1),
        "delayed_by_stalls_ms": round(delay_ms, 1),
    }


def _control(watched: Watched, stolen: float | None) -> Record:
    """The control's own figures."""
    lengths = [stall.seconds for stall in watched.stalls]
    return {
        "priority": watched.priority,
        "stalls": len(lengths),
        "stalled_s": round(sum(lengths), 3),
        "longest_stall_ms": round(max(lengths, default=0.0) * 1000, 1),
        "stolen_s": stolen,
    }
