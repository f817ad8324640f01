"""What a job's hash holds, read without belief: anybody may have written it. Never raises on what a field holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.jobs import MAX_ATTEMPTS
from shared.rq_time import parse_rq_time
from worker.state.jobs import ClaimedJob, Lease

# Most digits of a number in a job's hash: what EXPIRE takes. A longer one counts as absent: a script would raise on it.
MAX_DIGITS = 10


def parse_claimed(raw: Sequence[Any], *, started_at: float) -> ClaimedJob:
    """One job as `describe()` in common.lua returns it."""
    queue, job_id, execution_id, data, enqueued_at, retries_left, *ttls, extras, max_attempts = raw[:10]
    result_ttl, failure_ttl = ttls
    lease = Lease(_text(queue), _text(job_id), _text(execution_id), started_at)
    return ClaimedJob(
        lease=lease,
        data=data,
        enqueued_at=parse_rq_time(enqueued_at),
        retries_left=_between(0, retries_left, MAX_ATTEMPTS - 1),
        result_ttl_s=_whole(result_ttl),
        failure_ttl_s=_whole(failure_ttl),
        extras=_text(extras),
        max_attempts=max_attempts_in(max_attempts),
    )


def max_attempts_in(field: bytes | None) -> int | None:
    """How often a job's producer lets it be tried, from its hash; None where that doesn't say."""
    return _between(0, field, MAX_ATTEMPTS) or None


def _between(least: int, field: bytes | None, most: int) -> int:
    return min(max(least, int(_whole(field) or least)), most)


def _whole(value: bytes | None) -> str:
    """The whole number that RQ wrote, as text; '' for none and for anything else."""
    if not value:
        return ""
    digits = value.removeprefix(b"-")
    return value.decode() if digits.isdigit() and len(digits) <= MAX_DIGITS else ""


def _text(value: bytes | None) -> str:
    """Never raises: ids and queue names are bytes. `Wire` turns them back into the same ones."""
    return (value or b"").decode(errors="surrogateescape")
