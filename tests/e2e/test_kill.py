"""kill -9 in the middle of the work: nothing is lost, nothing is doubled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import redis

from producer import Frame, LineProducer, wait_for
from shared import keys
from shared.schemas import Outcome, SortResult
from shared.settings import Settings
from tests.e2e.kit import ready, running, stop, worker
from tests.kit import BOTTLES, wait_until

pytestmark = pytest.mark.e2e

JOBS = 200
MAX_BATCH = 16


@pytest.fixture
def plant(settings: Settings, tiny_models: Path) -> Settings:
    return settings.model_copy(
        update={"model_store": str(tiny_models), "model": "tiny", "max_batch": MAX_BATCH, "lease_s": 30}
    )


def _frames() -> list[Frame]:
    bottles = [path.read_bytes() for path in sorted(BOTTLES.glob("*.jpg"))[:20]]
    return [Frame(data=bottles[i % 20], line="line-1", camera="cam-1", frame_id=i) for i in range(JOBS)]


def _published(client: redis.Redis) -> list[SortResult]:
    return [SortResult.model_validate_json(fields[b"result"]) for _, fields in client.xrange(keys.results("line-1"))]


def _killed_in_the_middle(
    plant: Settings, client: redis.Redis, log: Path, *, elsewhere: bool = False
) -> tuple[list[str], int]:
    """Kill a worker that has done some of the jobs, while it holds others. Returns all jobs, and how many it held.

    On this host its leases are so long that no job comes back because a lease runs out. If it is `elsewhere`, on a host
    that this one knows nothing about, its leases are short, so that the test need not wait for long. Its successor's
    leases are not short: on a machine that is busy for two seconds, the successor would lose jobs too.
    """
    its_settings = plant.model_copy(update={"lease_s": 2 if elsewhere else 3600})
    with running("tests.worker.slow_worker", "3600", "worker", settings=its_settings, log=log) as first:
        wait_until(lambda: ready(log), "the first worker is ready")
        wait_until(lambda: len(client.keys("sortline:processes:*")) == 2, "it has recorded its process, for each queue")
        job_ids = LineProducer(plant).submit_many(_frames())
        wait_until(lambda: _published(client), "the first worker has answered some")
        wait_until(lambda: client.zcard(keys.rq_wip("live")) == 3 * MAX_BATCH, "it holds all it can")
        first.kill()
        first.wait()
    if elsewhere:
        for key in client.keys("sortline:processes:*"):
            client.rename(key, key.replace(b":processes:", b":processes:elsewhere-"))
    held = client.zcard(keys.rq_wip("live"))
    assert held == 3 * MAX_BATCH
    assert len(_published(client)) + held + client.llen(keys.rq_queue("live")) == JOBS
    return job_ids, held


@pytest.mark.parametrize("elsewhere", [False, True], ids=["on this host", "elsewhere"])
def test_a_worker_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing(
    plant: Settings, client: redis.Redis, tmp_path: Path, elsewhere: bool
) -> None:
    job_ids, held = _killed_in_the_middle(plant, client, tmp_path / "first.log", elsewhere=elsewhere)
    with worker(plant, log=tmp_path / "second.log") as second:
        results = wait_for(job_ids, timeout_s=120, settings=plant)
        assert stop(second) == 0
    assert {result.outcome for result in results.values()} == {Outcome.SORTED}
    published = Counter(result.job_id for result in _published(client))
    assert published == Counter(job_ids)
    assert Counter(result.attempt for result in results.values()) == {1: JOBS - held, 2: held}
    assert client.zcard(keys.rq_wip("live")) == 0
    assert client.llen(keys.rq_queue("live")) == 0
    assert not client.keys("rq:execution:*")
    assert not client.keys("sortline:image:*")


def test_jobs_that_are_lost_too_often_end_as_failed(plant: Settings, client: redis.Redis, tmp_path: Path) -> None:
    once = plant.model_copy(update={"max_losses": 1})
    job_ids, held = _killed_in_the_middle(once, client, tmp_path / "first.log")
    with worker(once, log=tmp_path / "second.log"):
        results = wait_for(job_ids, timeout_s=120, settings=once)
    outcomes = Counter(result.outcome for result in results.values())
    assert outcomes == {Outcome.SORTED: JOBS - held, Outcome.FAILED: held}
    assert Counter(result.job_id for result in _published(client)) == Counter(job_ids)
    assert client.zcard("rq:failed:live") == held
