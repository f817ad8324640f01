"""A worker that takes another one's place: the jobs of its predecessor are taken back at its first step.

Leases last an hour here, so no job comes back because its lease runs out.
"""

from __future__ import annotations

import pytest
import redis

from shared import keys
from shared.jobs import MAX_CRASHES
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.kit import KEY, on_this_host, queued, register
from worker.rq import local_workers
from worker.rq.processes import Processes
from worker.state.inflight import Inflight


@pytest.mark.parametrize("processes", [on_this_host(), None], ids=["", "processes can't be seen"])
def test_the_jobs_of_a_predecessor_are_taken_at_the_first_step(
    long: Settings, client: redis.Redis, processes: Processes | None
) -> None:
    """The keeper doesn't ask whether the process is gone: the parent, which still lives, has said so."""
    job_ids = kit.submit(long, *[frame() for _ in range(3)])
    register(long, on_this_host().own)
    kit.claimer(long, worker="dead").claim(3)
    keeper = kit.keeper(long, Inflight(), worker="w2", processes=processes)
    keeper.take_back_from("dead")
    assert keeper.reap() == (3, [])
    assert queued(client) == job_ids


def test_a_predecessor_is_forgotten_after_a_while(long: Settings, client: redis.Redis) -> None:
    """Its last commands may reach the server late. Later Redis holds nothing of it, and no step looks for it."""
    register(long, on_this_host().own)
    keeper = kit.keeper(long, Inflight(), worker="w2", processes=on_this_host())
    keeper.take_back_from("dead", crash="SIGSEGV")
    for _ in range(local_workers.QUIET_STEPS):
        assert keeper.reap() == (0, [])
    kit.submit(long, frame())
    keeper.reap()
    assert client.hkeys(KEY) == [b"w2"]
    assert keeper._local_workers.find_gone() == ({}, [])


def test_a_job_that_was_given_up_before_the_model_was_loaded_is_answered_afterwards(
    long: Settings, client: redis.Redis
) -> None:
    """During the early step nobody could answer it, so the next step returns it, once."""
    (job_id,) = kit.submit(long, frame())
    client.hset(keys.rq_job(job_id), mapping={keys.CRASHES: MAX_CRASHES - 1, keys.SUSPECT: "SIGSEGV"})
    assert [job.lease.job_id for job in kit.claimer(long, worker="dead").claim(1).jobs] == [job_id]
    keeper = kit.keeper(long, Inflight(), worker="w2")
    keeper.take_back_from("dead", crash="SIGSEGV")
    assert keeper.reap_early() == 0
    requeued, given_up = keeper.reap()
    assert (requeued, [job.lease.job_id for job in given_up]) == (0, [job_id])
    assert given_up[0].lease in keeper.inflight
    assert keeper.reap() == (0, [])
