"""Leases in a running pipeline: renewed while a batch is slow, given up when lost, taken back from dead workers."""

from __future__ import annotations

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame
from tests.worker.test_pipeline import sample
from worker.state.inflight import Inflight
from worker.state.jobs import Disposition, FinishedJob, Lease


@pytest.fixture
def short(settings: Settings) -> Settings:
    """Leases of two seconds, the shortest that can be set."""
    return settings.model_copy(update={"lease_s": 2, "max_batch": 4})


def lease_ends(client: redis.Redis) -> list[float]:
    """When the leases end, ascending."""
    return [score for _, score in client.zrange(keys.rq_wip("live"), 0, -1, withscores=True)]


def take_away(client: redis.Redis, lease: Lease) -> None:
    """Remove a lease, as the reaping by another worker does."""
    assert client.zrem(keys.rq_wip(lease.queue), f"{lease.job_id}:{lease.execution_id}") == 1


# in flight ──────────────────────────────────────────────────────────────────────────────────────────


def test_renewing_during_a_finish_loses_nothing(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame())
    (job,) = kit.claimer(settings).claim(1).jobs
    inflight = Inflight()
    inflight.add([job.lease])
    inflight.finishing([job.lease])
    assert kit.finisher(settings).finish([FinishedJob(job, Disposition.RETRY, None)]) == [True]
    assert kit.keeper(settings, inflight).renew() == []


# in a pipeline ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.slow
def test_a_slow_batch_keeps_its_jobs(settings: Settings, client: redis.Redis) -> None:
    """Its leases are renewed while the batch is in the model and another worker keeps reaping."""
    long = settings.model_copy(update={"lease_s": 60, "max_batch": 4})  # long enough for any machine
    gate = Gate()
    components = kit.pipeline_components(long, ToneEngine(gate))
    run = kit.pipeline(long, components, burst=True)
    job_ids = kit.submit(long, *[frame() for _ in range(4)])
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: len(components.inflight) == 4, "all are held")
    other = kit.keeper(long, Inflight(), worker="w2")

    def renewed() -> bool:
        assert other.reap() == (0, [])
        return lease_ends(client)[0] > last_end

    for _ in range(2):
        last_end = lease_ends(client)[-1]
        kit.wait_until(renewed, "all leases are renewed")
    gate.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")
    assert sample(components.metrics, "sortline_leases_lost_total") == 0


def test_jobs_that_wait_behind_a_slow_batch_keep_their_leases_too(short: Settings, client: redis.Redis) -> None:
    gate = Gate()
    run = kit.pipeline(short, kit.pipeline_components(short, ToneEngine(gate)), burst=True)
    job_ids = kit.submit(short, *[frame() for _ in range(12)])
    run.start()
    kit.wait_until(lambda: client.zcard(keys.rq_wip("live")) == 12, "three batches are held")
    last_end = lease_ends(client)[-1]
    kit.wait_until(lambda: lease_ends(client)[0] > last_end, "all leases are renewed")
    gate.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")


def test_a_lost_lease_leaves_the_pipeline(short: Settings, client: redis.Redis) -> None:
    """A job that another worker has taken over is not classified, not written, and no longer held."""
    gate = Gate()
    engine = ToneEngine(gate)
    components = kit.pipeline_components(short, engine)
    run = kit.pipeline(short, components, burst=True)
    kit.submit(short, *[frame() for _ in range(8)])
    run.start()
    kit.wait_until(lambda: len(components.inflight) == 8, "two batches are held")
    assert gate.entered.wait(kit.PATIENCE_S)
    waiting = components.inflight.held()[-1]
    take_away(client, waiting)
    kit.wait_until(lambda: waiting not in components.inflight, "the loss is noticed")
    gate.opened.set()
    kit.finish(run)
    outcomes = kit.outcomes(client)
    assert len(outcomes) == 7
    assert waiting.job_id not in outcomes
    assert sum(engine.sizes) == 7
    assert sample(components.metrics, "sortline_leases_lost_total") == 1


def test_a_lease_that_is_lost_in_the_model_is_noticed_at_the_end(settings: Settings, client: redis.Redis) -> None:
    """No renewal notices the loss before the finish."""
    gate = Gate()
    components = kit.pipeline_components(settings, ToneEngine(gate))
    components.keeper.renew = lambda: []  # type: ignore[method-assign]
    run = kit.pipeline(settings, components, burst=True)
    lost, kept = kit.submit(settings, frame(), frame())
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: len(components.inflight) == 2, "both are claimed")
    take_away(client, next(lease for lease in components.inflight.held() if lease.job_id == lost))
    gate.opened.set()
    kit.finish(run)
    assert kit.outcomes(client) == {kept: "sorted"}
    assert sample(components.metrics, "sortline_leases_lost_total") == 1


@pytest.mark.slow
def test_jobs_of_a_dead_worker_are_taken_back_and_sorted(short: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(short, *[frame() for _ in range(4)])
    assert len(kit.claimer(short, worker="dead").claim(4).jobs) == 4
    components = kit.pipeline_components(short, ToneEngine(), worker="w2")
    run = kit.pipeline(short, components)
    run.start()
    kit.wait_until(lambda: len(kit.stream(client)) == 4, "the dead worker's jobs are sorted")
    run.drain()
    kit.finish(run)
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")
    assert {(result.worker, result.attempt) for result in kit.stream(client)} == {("w2", 2)}
    assert sample(components.metrics, "sortline_redelivered_total") == 4


@pytest.mark.slow
def test_a_job_that_was_lost_too_often_fails_with_one_result(short: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(short, frame())
    client.hset(keys.rq_job(job_id), keys.LOSSES, short.max_losses - 1)
    kit.claimer(short, worker="dead").claim(1)
    engine = ToneEngine()
    run = kit.pipeline(short, kit.pipeline_components(short, engine, worker="w2"))
    run.start()
    kit.wait_until(lambda: kit.stream(client), "the job is answered")
    run.drain()
    kit.finish(run)
    (result,) = kit.stream(client)
    assert (result.job_id, result.outcome.value, result.attempt) == (job_id, "failed", 1 + short.max_losses)
    assert result.error is not None and f"lost {short.max_losses} times" in result.error
    assert engine.sizes == [], "the job was tried again"
    job = kit.fetch(client, job_id)
    assert job.get_status() == "failed"
    assert job.get_meta()["sort_result"]["outcome"] == "failed"
    assert client.zrange("rq:failed:live", 0, -1) == [job_id.encode()]
    assert client.zcard(keys.rq_wip("live")) == 0


@pytest.mark.slow
def test_an_abandoned_job_that_is_not_ours_fails_too(short: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(short, frame())
    client.hset(keys.rq_job(job_id), mapping={"retries_left": 0, "data": b"nonsense"})
    kit.claimer(short, worker="dead").claim(1)
    run = kit.pipeline(short, kit.pipeline_components(short, ToneEngine(), worker="w2"))
    run.start()
    kit.wait_until(lambda: client.hget(keys.rq_job(job_id), "status") == b"failed", "the job is failed")
    run.drain()
    kit.finish(run)
    assert kit.stream(client) == []
