"""Explains to a producer why its queue took no more images: the bound, the values, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from producer.frames import PreparedJob
from producer.queue_writer import Admission, Demand
from shared.errors import Bound, QueueFull
from shared.settings import Settings


def queue_full(
    answer: Admission, jobs: Sequence[PreparedJob], demand: Demand, settings: Settings, *, advice: str | None
) -> QueueFull:
    """The error for the jobs that `answer` refuses.

    Args:
        advice: why nobody works on the queue, if that is so.
    """
    bound = next(iter(answer.refused.values()))
    refused = [job for job in jobs if job.job_id in answer.refused]
    more = len(refused) if demand.partial else demand.items
    text = _explain(bound, answer, refused, settings, more=more)
    what_to_do = advice or _ADVICE[bound]
    return QueueFull(f"{text} {what_to_do[0].upper()}{what_to_do[1:]}", bound=bound, retry_after_s=answer.retry_after_s)


_ADVICE = {
    Bound.ITEMS: "Add workers, slow down, or raise the limit.",
    Bound.BYTES: "Add workers, slow down, send smaller images, or raise the limit.",
    Bound.WAIT: "Add workers, slow down, or raise the limit.",
    Bound.LINE: "Slow the line down, add workers, or raise line_share.",
    Bound.DEADLINE: "Add workers, or slow down.",
}


def _explain(bound: Bound, answer: Admission, refused: Sequence[PreparedJob], settings: Settings, *, more: int) -> str:
    queue = refused[0].queue
    no_room = f"there is no room for {more:,} more."
    match bound:
        case Bound.BYTES:
            return (
                f"queue {queue!r} has images of {_size(answer.queue_bytes)} on the server, and its limit is "
                f"{_size(settings.queue_max_bytes)} (queue_max_bytes): {no_room}"
            )
        case Bound.WAIT:
            return (
                f"a new job of queue {queue!r} would wait for {answer.wait_s:,.0f} s, and the limit is "
                f"{settings.queue_max_wait_s:,g} s (queue_max_wait_s): {_waiting(answer)}."
            )
        case Bound.LINE:
            return (
                f"line {refused[0].line!r} has {_jobs(answer.line_items)} ({_size(answer.line_bytes)}) in queue "
                f"{queue!r}, and may have {settings.line_share:.0%} (line_share) of {_line_limit(answer, settings)}: "
                f"{no_room}"
            )
        case Bound.DEADLINE:
            needs = f", and a worker then needs about {answer.needs_s * 1000:,.0f} ms" if answer.needs_s else ""
            return (
                f"{_images(len(refused))} can't be answered by the deadline: {_waiting(answer)} in queue {queue!r}, "
                f"which takes about {answer.wait_s * 1000:,.0f} ms{needs}."
            )
        case _:
            return (
                f"queue {queue!r} holds {_jobs(answer.waiting)}, and its limit is {settings.queue_max_items:,} "
                f"(queue_max_items): {no_room}"
            )


def _line_limit(answer: Admission, settings: Settings) -> str:
    """What the line has its part of, as far as the answer shows it."""
    if answer.line_items >= int(settings.line_share * settings.queue_max_items):
        return f"{settings.queue_max_items:,} jobs (queue_max_items)"
    if answer.places and answer.line_items >= int(settings.line_share * answer.places):
        return f"the {_jobs(answer.places)} that can be sorted before the shortest deadline"
    if answer.wait_s > settings.line_share * settings.queue_max_wait_s / 2:
        return f"{settings.queue_max_wait_s:,g} s of work (queue_max_wait_s)"
    return f"{_size(settings.queue_max_bytes)} (queue_max_bytes)"


def _waiting(answer: Admission) -> str:
    return f"{_jobs(answer.waiting)} wait{'s' if answer.waiting == 1 else ''}"


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"


def _images(count: int) -> str:
    return "an image" if count == 1 else f"{count:,} images"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.1f} KB"
