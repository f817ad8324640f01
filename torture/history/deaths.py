"""The deaths of workers in a run, and how soon another worker had the result of each job that a dead one held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torture.history.follower import Observations


class Death(NamedTuple):
    """A worker that was killed or crashed, when that was (UTC epoch seconds), and the jobs that it held."""

    worker: str
    at: float
    job_ids: tuple[str, ...]


def times_to_result(deaths: Sequence[Death], observed: Observations) -> list[float]:
    """For each job whose worker died: seconds from the (last) death until another worker had the result."""
    last_deaths = {job_id: death for death in deaths for job_id in death.job_ids}
    return [
        entry.finished_at - death.at
        for job_id, death in last_deaths.items()
        for entry in observed.entries.get(job_id, ())[:1]
        if entry.worker != death.worker
    ]
