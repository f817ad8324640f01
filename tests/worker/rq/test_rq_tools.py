"""RQ's own tools see and control our jobs and our worker."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue, Worker
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.worker_registration import REDIS_WORKER_KEYS

from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame
from worker.rq.claimer import Claim, Claimer


def rq(settings: Settings, command: str, *arguments: str) -> str:
    """Standard output of `rq command`, which must succeed."""
    tool = Path(sys.executable).with_name("rq")
    run = subprocess.run(
        [tool, command, "--url", settings.redis_url, *arguments], capture_output=True, text=True, timeout=kit.PATIENCE_S
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_queue_and_registries(settings: Settings, client: redis.Redis) -> None:
    gate = Gate()
    good, bad = kit.submit(settings, frame(), frame(kit.picture(255)))
    queue = Queue("live", connection=client, serializer=JSONSerializer)
    assert queue.count == 2
    assert queue.job_ids == [good, bad]

    def hold_then_fail_on_red(batch: kit.Pixels) -> None:
        gate(batch)
        kit.fails_on_red(batch)

    run = kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine(hold_then_fail_on_red)), burst=True)
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    started = StartedJobRegistry(queue=queue)
    kit.wait_until(lambda: sorted(started.get_job_ids()) == sorted([good, bad]), "both jobs are started")
    assert queue.count == 0
    assert kit.fetch(client, good).get_status() == "started"
    gate.opened.set()
    kit.finish(run)
    assert started.count == 0
    assert FinishedJobRegistry(queue=queue).get_job_ids() == [good]
    assert FailedJobRegistry(queue=queue).get_job_ids() == [bad]
    assert kit.fetch(client, good).return_value()["outcome"] == "sorted"
    failed = kit.fetch(client, bad)
    assert failed.return_value() is None
    assert failed.get_meta()["sort_result"]["outcome"] == "failed"
    assert "can't stand red" in failed.latest_result().exc_string


def test_a_requeued_job_is_sorted(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    kit.run_burst(settings, ToneEngine(kit.always_fails))
    failed = FailedJobRegistry("live", connection=client, serializer=JSONSerializer)
    assert failed.get_job_ids() == [job_id]
    failed.requeue(job_id)
    kit.run_burst(settings)
    assert [result.outcome.value for result in kit.stream(client)] == ["failed", "sorted"]
    assert kit.fetch(client, job_id).get_status() == "finished"
    assert failed.get_job_ids() == []


def test_rq_requeue_all(settings: Settings, client: redis.Redis) -> None:
    job_ids = kit.submit(settings, *[frame() for _ in range(3)])
    kit.run_burst(settings, ToneEngine(kit.always_fails))
    rq(settings, "requeue", "--queue", "live", "--all", "--serializer", "json")
    kit.run_burst(settings)
    assert {kit.fetch(client, job_id).get_status() for job_id in job_ids} == {"finished"}


@pytest.mark.slow
@pytest.mark.usefixtures("own_signals")
def test_the_worker_is_visible(settings: Settings, client: redis.Redis) -> None:
    """It is in RQ's registry, with its state and its current job, until it ends."""
    kit.submit(settings, *[frame() for _ in range(3)])
    gate, problems = Gate(), []

    def look() -> None:
        try:
            assert gate.entered.wait(kit.PATIENCE_S)
            kit.wait_until(lambda: _state(client) == "busy", "the heartbeat says busy")
            (worker,) = Worker.all(connection=client)
            assert worker.name == "w1"
            assert worker.queue_names() == ["live", "bulk"]
            executions = worker.get_current_executions()
            assert {execution.job_id for execution in executions} == set(_wip(client))
            info = rq(settings, "info")
            assert "w1" in info
            assert "1 workers, 1 queues" in info
        except BaseException as error:
            problems.append(error)
        finally:
            gate.opened.set()

    looker = threading.Thread(target=look)
    looker.start()
    assert kit.run_service(settings, ToneEngine(gate)) == 0
    looker.join()
    if problems:
        raise problems[0]
    assert Worker.all(connection=client) == []
    assert client.smembers(REDIS_WORKER_KEYS) == set()
    assert set(kit.outcomes(client).values()) == {"sorted"}


def _state(client: redis.Redis) -> str | None:
    workers = Worker.all(connection=client)
    return workers[0].get_state() if workers else None


def _wip(client: redis.Redis) -> list[str]:
    return StartedJobRegistry("live", connection=client).get_job_ids()


def test_suspend_and_resume(settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sortline.claim")
    components = kit.pipeline_components(settings, ToneEngine())
    suspended = _count_suspended(components.claimer)
    run = kit.pipeline(settings, components)
    rq(settings, "suspend")
    run.start()
    (job_id,) = kit.submit(settings, frame())
    seen = len(suspended)
    kit.wait_until(lambda: len(suspended) > seen + 1, "the worker claims and learns of the suspension")
    assert kit.fetch(client, job_id).get_status() == "queued"
    rq(settings, "resume")
    kit.wait_until(lambda: kit.outcomes(client) == {job_id: "sorted"}, "the job is sorted after the resumption")
    run.drain()
    kit.finish(run)
    messages = [record.getMessage() for record in caplog.records if "workers are" in record.getMessage()]
    assert messages == ["workers are suspended: `rq resume` resumes them", "workers are resumed"]


def _count_suspended(claimer: Claimer) -> list[Claim]:
    seen: list[Claim] = []
    claim = claimer.claim

    def counted(*args: Any, **options: Any) -> Claim:
        answer = claim(*args, **options)
        if answer.suspended:
            seen.append(answer)
        return answer

    claimer.claim = counted  # type: ignore[method-assign]
    return seen


def _abandon(settings: Settings, client: redis.Redis, job_id: str) -> None:
    """Let the job's worker die in the last attempt, and RQ's clean-up find the job before ours does."""
    client.hset(f"rq:job:{job_id}", "retries_left", 0)
    assert [job.lease.job_id for job in kit.claimer(settings, worker="dead").claim(1).jobs] == [job_id]
    for member, _ in client.zrange("rq:wip:live", 0, -1, withscores=True):
        client.zadd("rq:wip:live", {member: 1.0})
    rq(settings, "info")
    assert kit.fetch(client, job_id).get_status() == "failed"
    assert client.hget(f"rq:job:{job_id}", "meta") is None


def test_a_job_that_rqs_clean_up_failed_gets_its_one_result(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    _abandon(settings, client, job_id)
    run = kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine(), worker="w2"))
    run.start()
    kit.wait_until(lambda: kit.stream(client), "a result appears")
    keeper = kit.keeper(settings, run._flow.inflight, worker="w2")
    assert keeper.reap() == (0, []), "the job was answered twice"
    run.drain()
    kit.finish(run)
    (result,) = kit.stream(client)
    assert (result.job_id, result.outcome.value) == (job_id, "failed")
    failed = kit.fetch(client, job_id)
    assert failed.get_status() == "failed"
    assert failed.get_meta()["sort_result"]["job_id"] == job_id
    assert FailedJobRegistry("live", connection=client, serializer=JSONSerializer).get_job_ids() == [job_id]
    assert client.zcard("rq:wip:live") == 0


def test_failures_of_others_are_left_as_they_are(settings: Settings, client: redis.Redis) -> None:
    """One is a job that our worker refused, the other failed in a plain RQ worker."""
    queue = Queue("live", connection=client, serializer=JSONSerializer)
    refused = queue.enqueue("os.getcwd")
    kit.run_burst(settings)
    assert kit.fetch(client, refused.id).get_status() == "failed"
    assert kit.keeper(settings, kit.Inflight(), worker="w2").reap() == (0, [])
    assert client.zscore("rq:failed:live", refused.id) is not None
