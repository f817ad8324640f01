"""What the server still holds after a run. Only results and RQ's copies of them should be left."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from shared import keys
from torture.history.follower import Entry

SCAN_COUNT = 2_000
CHUNK = 500
# TTL's answer for a key that is not there.
GONE = -2
# The most jobs and leases that are listed for each queue.
MOST = 100


def read_leftovers(client: Any, *, queues: Sequence[str], expected: Collection[str] = ()) -> dict[str, list[str]]:
    """What is left, by kind: jobs, leases, executions, images, keys that were moved aside. Without `expected` keys."""
    found = {
        "queued": [_text(each) for queue in queues for each in client.lrange(keys.rq_queue(queue), 0, MOST - 1)],
        "suspect": [_text(each) for queue in queues for each in client.lrange(keys.suspects(queue), 0, MOST - 1)],
        "lease": [_text(each) for queue in queues for each in client.zrange(keys.rq_wip(queue), 0, MOST - 1)],
        "execution": _scan(client, "rq:execution:*", expected),
        "executions of a job": _scan(client, "rq:executions:*", expected),
        "executions of a worker": _scan(client, "rq:worker:*:executions", expected),
        "image": _images(client, expected),
        "job without an end": _unended(client, expected),
        "broken key": _scan(client, keys.broken("*"), expected),
    }
    return {kind: names for kind, names in found.items() if names}


def _scan(client: Any, pattern: str, expected: Collection[str]) -> list[str]:
    found = (_text(key) for key in client.scan_iter(pattern, count=SCAN_COUNT))
    return [key for key in found if key not in expected]


def _images(client: Any, expected: Collection[str]) -> list[str]:
    """Images, but not those of failed jobs: they stay until they expire, so that the job can be retried."""
    images = _scan(client, keys.image("*"), expected)
    statuses = read_statuses(client, [image.removeprefix(keys.image("")) for image in images])
    return [
        f"{image} of a job with status {(status or b'none').decode()}, expires in {ttl} s"
        for image, status, ttl in zip(images, statuses, _ttls(client, images), strict=True)
        if ttl != GONE and (status != b"failed" or ttl < 0)
    ]


def _unended(client: Any, expected: Collection[str]) -> list[str]:
    jobs = _scan(client, keys.rq_job("*"), expected)
    job_ids = [key.removeprefix(keys.rq_job("")) for key in jobs]
    return [
        f"{job_id} {(status or b'none').decode()}"
        for job_id, status, ttl in zip(job_ids, read_statuses(client, job_ids), _ttls(client, jobs), strict=True)
        if ttl != GONE and status not in (b"finished", b"failed")
    ]


def _ttls(client: Any, names: Sequence[str]) -> list[int]:
    """The answers of TTL for these keys; GONE for one that has expired since it was found."""
    ttls: list[int] = []
    for start in range(0, len(names), CHUNK):
        with client.pipeline(transaction=False) as pipeline:
            for name in names[start : start + CHUNK]:
                pipeline.ttl(name.encode(errors="surrogateescape"))
            ttls += pipeline.execute()
    return ttls


def read_statuses(client: Any, job_ids: Sequence[str]) -> list[bytes | None]:
    """RQ's status of each of these jobs; None if the job is gone, or its key is not a hash."""
    statuses: list[bytes | None] = []
    for start in range(0, len(job_ids), CHUNK):
        with client.pipeline(transaction=False) as pipeline:
            for job_id in job_ids[start : start + CHUNK]:
                pipeline.hget(keys.rq_job(job_id).encode(errors="surrogateescape"), "status")
            answers = pipeline.execute(raise_on_error=False)
        statuses += [None if isinstance(answer, Exception) else answer for answer in answers]  # not a hash
    return statuses


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def read_visible(client: Any, entries: Mapping[str, Sequence[Entry]]) -> Mapping[str, Sequence[Entry]]:
    """Of the jobs with several entries, those entries that are still in their streams."""
    several = {job_id: found for job_id, found in entries.items() if len(found) > 1}
    return {
        job_id: [entry for entry, exists in zip(found, _exist(client, found), strict=True) if exists]
        for job_id, found in several.items()
    }


def _exist(client: Any, entries: Sequence[Entry]) -> list[bool]:
    with client.pipeline(transaction=False) as pipeline:
        for entry in entries:
            pipeline.xrange(entry.stream, entry.entry_id, entry.entry_id)
        return [bool(found) for found in pipeline.execute()]
