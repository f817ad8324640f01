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
    queue, line = refused[0].queue, refused[0].line
    match bound:
        case Bound.BYTES:
            return (
                f"queue {queue!r} has images of {_megabytes(answer.queue_bytes)} on the server, and its limit is "
                f"{_megabytes(settings.queue_max_bytes)} (queue_max_bytes): there is no room for {more:,} more."
            )
        case Bound.WAIT:
            return (
                f"a new job of queue {queue!r} would wait for {answer.wait_s:,.0f} s, and the limit is "
                f"{settings.queue_max_wait_s:,g} s (queue_max_wait_s): {answer.waiting:,} jobs wait."
            )
        case Bound.LINE:
            return (
                f"line {line!r} has {answer.line_items:,} jobs ({_megabytes(answer.line_bytes)}) in queue {queue!r}. "
                f"Its part (line_share = {settings.line_share:g}) of {_line_limit(answer, settings)} is used up: there "
                f"is no room for {more:,} more."
            )
        case Bound.DEADLINE:
            return (
                f"{_images(len(refused))} can't be answered by the deadline: {answer.waiting:,} jobs wait in queue "
                f"{queue!r}, which is work for about {answer.wait_s * 1000:,.0f} ms."
            )
        case _:
            return (
                f"queue {queue!r} holds {answer.waiting:,} jobs, and its limit is {settings.queue_max_items:,} "
                f"(queue_max_items): there is no room for {more:,} more."
            )


def _line_limit(answer: Admission, settings: Settings) -> str:
    """Of which limit the line has used its part up, as far as the answer shows it."""
    if answer.line_items >= int(settings.line_share * settings.queue_max_items):
        return f"queue_max_items = {settings.queue_max_items:,}"
    if answer.line_bytes >= settings.line_share * settings.queue_max_bytes / 2:
        return f"queue_max_bytes = {settings.queue_max_bytes:,}"
    return "what can be sorted in time"


def _images(count: int) -> str:
    return "an image" if count == 1 else f"{count:,} images"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB"
