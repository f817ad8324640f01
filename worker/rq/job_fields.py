"""Reads the fields of a job's hash. Anybody may have written them, so nothing in them makes it raise."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from shared.jobs import MAX_ATTEMPTS, MAX_LOSSES
from shared.rq_time import parse_rq_time
from worker.state.jobs import NO_DEATHS, ClaimedJob, Deaths, Lease

# The most digits of a number that EXPIRE takes. A longer number counts as absent, because EXPIRE would fail on it.
MAX_DIGITS = 10
# A clock that is off by more than ten years was never set: a producer with such a clock can't submit anything.
MAX_CLOCK_OFFSET_S = 10 * 365.25 * 86_400
MAX_OFFSET_CHARACTERS = 32
# A job may ask to be kept for a week, and for longer only if the worker's own setting is longer.
MAX_ASKED_TTL_S = 7 * 86_400
# How many fields `describe()` in common.lua returns for a job.
DESCRIBED = 16


def parse_claimed(raw: Sequence[Any], *, started_at: float, image_bytes: int = 0) -> ClaimedJob:
    """One job as `describe()` in common.lua returns it. `image_bytes`: the length of its image, if it is known."""
    queue, job_id, execution_id, data, enqueued_at, retries_left, *ttls, extras, max_attempts = raw[:10]
    result_ttl, failure_ttl = ttls
    crashes, losses, suspect, clock_offset, line, size_bytes = raw[10:DESCRIBED]
    lease = Lease(_text(queue), _text(job_id), _text(execution_id), started_at)
    return ClaimedJob(
        lease=lease,
        data=data,
        enqueued_at=parse_rq_time(enqueued_at),
        retries_left=_clamped(0, retries_left, MAX_ATTEMPTS - 1),
        result_ttl_s=_whole_number(result_ttl),
        failure_ttl_s=_whole_number(failure_ttl),
        extras=_text(extras),
        max_attempts=max_attempts_in(max_attempts),
        image_bytes=image_bytes,
        deaths=deaths_in(crashes, losses, suspect),
        clock_offset_s=clock_offset_in(clock_offset),
        counted_line=_text(line),
        counted_bytes=_length(size_bytes),
    )


def size_in(raw: Sequence[Any]) -> int:
    """The length of the job's image as its producer wrote it, of one job as `parse_claimed` takes it; 0 if unknown."""
    return int(_length(raw[DESCRIBED - 1]) or 0)


def max_attempts_in(field: bytes | None) -> int | None:
    """How often the job may be tried, as its producer wrote it; None if the producer wrote nothing."""
    return _clamped(0, field, MAX_ATTEMPTS) or None


def deaths_in(crashes: bytes | None, losses: bytes | None, suspect: bytes | None) -> Deaths:
    """What is known of the deaths of the job's workers, as reap.lua wrote it."""
    if crashes is None and losses is None and suspect is None:
        return NO_DEATHS
    return Deaths(
        crashes=_clamped(0, crashes, MAX_LOSSES),
        losses=_clamped(0, losses, MAX_LOSSES),
        suspicion=None if suspect is None else suspect.decode(errors="backslashreplace"),
    )


def ttl_s(asked: str, *, default_s: int) -> int:
    """How long an ended job is kept.

    Args:
        asked: what the job asks for, as `ClaimedJob` has it; '' if nothing. To RQ a negative number means forever, but
            then the jobs of one producer would fill the server in the end.
        default_s: the worker's own setting.
    """
    most_s = max(default_s, MAX_ASKED_TTL_S)
    if not asked:
        return default_s
    return min(int(asked), most_s) if int(asked) >= 0 else most_s


def clock_offset_in(field: bytes | None) -> float:
    """The producer's clock minus the server's, in seconds; 0 if the producer wrote nothing, or no possible offset."""
    if not field or len(field) > MAX_OFFSET_CHARACTERS:
        return 0.0
    try:
        offset_s = float(field)
    except ValueError:
        return 0.0
    return offset_s if math.isfinite(offset_s) and abs(offset_s) <= MAX_CLOCK_OFFSET_S else 0.0


def _clamped(least: int, field: bytes | None, most: int) -> int:
    return min(max(least, int(_whole_number(field) or least)), most)


def _whole_number(value: bytes | None) -> str:
    """A whole number as text; '' for an absent field and for anything else."""
    return _known_number(value) if value and len(value) <= 1 + MAX_DIGITS else ""


def _length(value: bytes | None) -> str:
    """As `_whole_number`; '' for a negative one too."""
    return _whole_number(value) if value and not value.startswith(b"-") else ""


@functools.lru_cache  # all jobs of a queue have the same few numbers
def _known_number(value: bytes) -> str:
    digits = value.removeprefix(b"-")
    return value.decode() if digits.isdigit() and len(digits) <= MAX_DIGITS else ""


def _text(value: bytes | None) -> str:
    """Ids and queue names are bytes, not always UTF-8. `RawConnection` turns the text back into the same bytes."""
    return (value or b"").decode(errors="surrogateescape")
