"""A finished job takes no more of the server's memory than docs/sizing.md says, and RQ can still read it."""

from __future__ import annotations

import re
from pathlib import Path

import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame, picture

SIZING = (Path(__file__).parents[3] / "docs" / "sizing.md").read_text()
# Enough to make the memory of connections and of the server's own tables negligible.
JOBS = 1_000


def documented_bytes(what: str) -> float:
    """The figure of the page's table for a server with the shipped options."""
    row = re.search(rf"^\| {what} \|[^|]*\| ([\d.]+) KB \|", SIZING, re.MULTILINE)
    assert row is not None, what
    return float(row[1]) * 1000


def sort(settings: Settings, count: int) -> list[str]:
    frames = [
        frame(
            picture(255),
            line="line-1",
            frame_id=number,
            encoder_count=123_456 + number,
            deadline_ms=600_000,
        )
        for number in range(count)
    ]
    job_ids = kit.submit(settings, *frames)
    kit.run_burst(settings, ToneEngine(), worker="sortline-worker-1-abcdef01")
    return job_ids


def used_bytes(client: redis.Redis) -> int:
    return int(client.info("memory")["used_memory"])


def test_a_finished_job_takes_no_more_than_the_page_says(settings: Settings, client: redis.Redis) -> None:
    """A stock server needs 6 KB: 4 KB of that for a stream with one entry, and RQ's job hash becomes a hash table."""
    sort(settings, 100)  # from here on, scripts, connections and tables exist
    before = used_bytes(client)
    job_ids = sort(settings, JOBS)
    line_bytes = client.memory_usage(keys.results("line-1"), samples=0) / (JOBS + 100)
    job_bytes = (used_bytes(client) - before) / JOBS - line_bytes
    assert job_bytes <= documented_bytes("finished job")
    assert line_bytes <= documented_bytes("result in its line's stream")
    for job_id in (job_ids[0], job_ids[-1]):
        job = kit.fetch(client, job_id)
        assert job.return_value()["labels"][0]["label"] == "no cap"
        assert client.object("encoding", keys.rq_job(job_id)) == b"listpack"
