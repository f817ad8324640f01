"""The sweep for lost jobs, on a real server: a lost job comes back once, and no other job is touched."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer

from shared import keys
from shared.server.connection import connect
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine, frame
from worker.rq.sweep import Sweeper, Swept
from worker.state.inflight import Inflight

LATER = 4e9
LONG_AGO = "2026-01-01T00:00:00.000000Z"
NOTHING, ONE_BACK = Swept(0, 0), Swept(1, 0)


def sweeper(settings: Settings, **options: Any) -> Sweeper:
    """A sweeper that works at every call, looks at all keys in one step, and waits for no grace period."""
    options = {"interval_s": 0, "grace_s": 0, "keys_per_step": 100_000} | options
    return Sweeper(connect(settings.redis_url), queues=settings.queue_names, lease_s=settings.lease_s, **options)


def sweep(settings: Settings) -> Swept:
    """Make a whole sweep: the first step finds the missing jobs, the second recovers those that are still missing."""
    sweeping = sweeper(settings)
    assert sweeping.step() == NOTHING
    return sweeping.step()


def lose(client: redis.Redis, job_id: str, **fields: str) -> None:
    """Take the job off its list, and make it older than the jobs that wait; `fields` are further fields of it."""
    client.lrem(keys.rq_queue("live"), 0, job_id)
    client.hset(keys.rq_job(job_id), mapping={"enqueued_at": LONG_AGO} | fields)


def started_without_lease(client: redis.Redis, settings: Settings) -> str:
    """A started job without a lease, as if a claim had failed after the pop; older releases lost such jobs."""
    (job_id,) = kit.submit(settings, frame())
    (job,) = kit.claimer(settings).claim(1).jobs
    composite = f"{job_id}:{job.lease.execution_id}"
    client.zrem(keys.rq_wip("live"), composite)
    client.delete(f"rq:executions:{job_id}", f"rq:execution:{composite}")
    return job_id


def waiting(client: redis.Redis, queue: str = "live") -> list[str]:
    return [job_id.decode() for job_id in client.lrange(keys.rq_queue(queue), 0, -1)]


# what is lost ───────────────────────────────────────────────────────────────────────────────────────


def test_a_queued_job_that_is_in_no_queue_is_sorted(settings: Settings, client: redis.Redis) -> None:
    lost, kept = kit.submit(settings, frame(), frame())
    lose(client, lost)
    assert sweep(settings) == ONE_BACK
    assert waiting(client) == [lost, kept], "the lost job has waited longest, so it goes first"
    assert client.hget(keys.rq_job(lost), "sortline_recovered") == b"1"
    assert client.llen(keys.wakeup("live")) > 0
    assert sweep(settings) == NOTHING
    kit.run_burst(settings)
    assert kit.outcomes(client) == {lost: "sorted", kept: "sorted"}


def test_a_started_job_without_a_lease_is_sorted(settings: Settings, client: redis.Redis) -> None:
    lost = started_without_lease(client, settings)
    assert sweep(settings) == ONE_BACK
    kit.run_burst(settings)
    assert kit.outcomes(client) == {lost: "sorted"}
    assert kit.fetch(client, lost).get_status() == "finished"


def test_a_suspect_goes_back_to_the_suspects(settings: Settings, client: redis.Redis) -> None:
    (lost,) = kit.submit(settings, frame())
    lose(client, lost, sortline_suspect="SIGSEGV")
    assert sweep(settings) == ONE_BACK
    assert (waiting(client), client.lrange(keys.suspects("live"), 0, -1)) == ([], [lost.encode()])


def test_a_suspect_that_an_older_release_swept_does_not_count_as_recovered(
    settings: Settings, client: redis.Redis
) -> None:
    """The sweep fails a job that it finds a second time, and an older release's sweep takes each suspect for lost."""
    (job_id,) = kit.submit(settings, frame())
    kit.claimer(settings).claim(1)
    client.hset(keys.rq_job(job_id), keys.RECOVERED, 1)
    keeper = kit.keeper(settings, Inflight(), worker="w2")
    keeper.take_back_from("w1", crash="SIGSEGV")
    assert keeper.reap() == (1, [])
    assert not client.hexists(keys.rq_job(job_id), keys.RECOVERED)


def test_a_lost_job_is_found_behind_a_backlog(settings: Settings, client: redis.Redis) -> None:
    """It is older than the jobs that wait, so the sweep searches the whole list for it."""
    lost, *backlog = kit.submit(settings, *[frame() for _ in range(20)])
    lose(client, lost)
    assert sweep(settings) == ONE_BACK
    assert waiting(client) == [lost, *backlog]


def test_a_job_that_is_lost_again_fails_with_a_result(settings: Settings, client: redis.Redis) -> None:
    """Otherwise a job that gets lost every time would be put back for ever."""
    (lost,) = kit.submit(settings, frame())
    lose(client, lost)
    assert sweep(settings) == ONE_BACK
    lose(client, lost)
    assert sweep(settings) == Swept(0, 1)
    assert sweep(settings) == NOTHING
    run = kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine(), worker="w2"))
    run.start()
    kit.wait_until(lambda: kit.stream(client), "the job is answered")
    run.drain()
    kit.finish(run)
    assert kit.outcomes(client) == {lost: "failed"}
    assert kit.fetch(client, lost).get_status() == "failed"
    assert client.zrange("rq:failed:live", 0, -1) == [lost.encode()]


# what is not lost ───────────────────────────────────────────────────────────────────────────────────


def _waits(client: redis.Redis, settings: Settings, job_id: str) -> None:
    """It is in its queue, but looks older than the job at the front, because a producer's clock may be wrong."""
    client.hset(keys.rq_job(job_id), "enqueued_at", LONG_AGO)
    kit.submit(settings, frame())
    client.lmove(keys.rq_queue("live"), keys.rq_queue("live"), "LEFT", "RIGHT")


def _is_held(client: redis.Redis, settings: Settings, job_id: str) -> None:
    assert len(kit.claimer(settings).claim(1).jobs) == 1


def _has_a_lease_alone(client: redis.Redis, settings: Settings, job_id: str) -> None:
    _is_held(client, settings, job_id)
    client.delete(f"rq:executions:{job_id}")


def _has_an_execution_alone(client: redis.Redis, settings: Settings, job_id: str) -> None:
    _is_held(client, settings, job_id)
    client.delete(keys.rq_wip("live"))


def _is_in_rqs_intermediate_list(client: redis.Redis, settings: Settings, job_id: str) -> None:
    client.lmove(keys.rq_queue("live"), keys.rq_queue("live") + ":intermediate", "LEFT", "LEFT")


def _is_a_suspect(client: redis.Redis, settings: Settings, job_id: str) -> None:
    lose(client, job_id)
    client.rpush(keys.suspects("live"), job_id)


def _is_in_a_registry(name: str) -> Callable[[redis.Redis, Settings, str], None]:
    def put(client: redis.Redis, settings: Settings, job_id: str) -> None:
        lose(client, job_id)
        client.zadd(f"rq:{name}:live", {job_id: LATER})

    return put


def _has_the_status(status: str) -> Callable[[redis.Redis, Settings, str], None]:
    return lambda client, settings, job_id: lose(client, job_id, status=status)


def _is_of_another_queue(client: redis.Redis, settings: Settings, job_id: str) -> None:
    lose(client, job_id, origin="another")


def _is_no_whole_job(client: redis.Redis, settings: Settings, job_id: str) -> None:
    lose(client, job_id)
    client.hdel(keys.rq_job(job_id), "created_at")


def _is_suspended(client: redis.Redis, settings: Settings, job_id: str) -> None:
    lose(client, job_id)
    client.set(keys.RQ_SUSPENDED, 1)


def _queue_is_no_list(client: redis.Redis, settings: Settings, job_id: str) -> None:
    client.set(keys.rq_queue("live"), "x")


def _leases_are_no_sorted_set(client: redis.Redis, settings: Settings, job_id: str) -> None:
    lose(client, job_id)
    client.set(keys.rq_wip("live"), "x")


@pytest.mark.parametrize(
    "leave",
    [
        _waits,
        _is_held,
        _has_a_lease_alone,
        _has_an_execution_alone,
        _is_in_rqs_intermediate_list,
        _is_a_suspect,
        *map(_is_in_a_registry, ("finished", "failed", "deferred", "scheduled", "canceled")),
        *map(
            _has_the_status,
            ("finished", "failed", "deferred", "scheduled", "canceled", "stopped", "created", "rate_limited", ""),
        ),
        _is_of_another_queue,
        _is_no_whole_job,
        _is_suspended,
        _queue_is_no_list,
        _leases_are_no_sorted_set,
    ],
)
def test_jobs_that_are_not_lost_are_left_alone(
    settings: Settings, client: redis.Redis, leave: Callable[[redis.Redis, Settings, str], None]
) -> None:
    (job_id,) = kit.submit(settings, frame())
    leave(client, settings, job_id)
    before = {key: client.dump(key) for key in client.keys("rq:*")}
    assert sweep(settings) == NOTHING
    assert {key: client.dump(key) for key in client.keys("rq:*")} == before


def test_a_job_that_rqs_own_worker_has_just_popped_is_only_missing(settings: Settings, client: redis.Redis) -> None:
    """RQ's worker pops a job first and registers it later. After the grace period the sweep looks again."""
    (job_id,) = kit.submit(settings, frame())
    client.lpop(keys.rq_queue("live"))
    sweeping = sweeper(settings, grace_s=3600)
    assert [sweeping.step() for _ in range(3)] == [NOTHING] * 3
    assert client.zcard(keys.missing(settings.queue_names)) == 1
    client.hset(keys.rq_job(job_id), mapping={"status": "started", "started_at": LONG_AGO})
    assert sweeper(settings).step() == NOTHING, "a worker has started the job since"
    assert client.hget(keys.rq_job(job_id), "status") == b"started"


def test_the_sweep_doubles_no_job_of_rqs_own_worker(settings: Settings, client: redis.Redis) -> None:
    """Sweeps run without a grace period between the worker's pop and its start, and while it works."""
    kit.submit(settings, *[frame() for _ in range(3)])
    swept = []

    class Disturbed(SimpleWorker):
        def execute_job(self, job: Any, queue: Any) -> None:
            swept.append(sweep(settings))
            super().execute_job(job, queue)

        def prepare_job_execution(self, *arguments: Any, **named: Any) -> None:
            super().prepare_job_execution(*arguments, **named)
            swept.append(sweep(settings))
            raise RuntimeError("the job needs no model")

    worker = Disturbed(["live"], connection=client, serializer=JSONSerializer)
    worker.work(burst=True, max_jobs=3, logging_level="CRITICAL")
    assert swept == [NOTHING] * 6


# bounds ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["string", "set", "list", "zset"])
def test_keys_of_a_wrong_type_are_skipped(settings: Settings, client: redis.Redis, kind: str) -> None:
    """A job's key, its executions, a registry, or the sweep's own keys: none of them may stop the sweep."""
    (lost,) = kit.submit(settings, frame())
    lose(client, lost)
    put: dict[str, Callable[[str], Any]] = {
        "string": lambda key: client.set(key, "x"),
        "set": lambda key: client.sadd(key, "x"),
        "list": lambda key: client.rpush(key, "x"),
        "zset": lambda key: client.zadd(key, {"x": 1}),
    }
    names = (keys.sweep(settings.queue_names), keys.missing(settings.queue_names), "rq:job:odd", "rq:finished:live")
    for name in (*names, f"rq:executions:{lost}"):
        put[kind](name)
    sweeping = sweeper(settings)
    assert sum((sweeping.step().requeued for _ in range(3)), 0) == 1


def test_a_large_keyspace_is_scanned_in_bounded_steps(settings: Settings, client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        for number in range(3000):
            pipe.set(f"other:{number}", 1)
        pipe.execute()
    lost = kit.submit(settings, *[frame() for _ in range(5)])
    for job_id in lost:
        lose(client, job_id)
    sweeping = sweeper(settings, keys_per_step=100)
    assert client.hget(keys.sweep(settings.queue_names), "cursor") is None
    steps = 0
    while len(waiting(client)) < len(lost):
        sweeping.step()
        steps += 1
        assert steps < 200, "at a hundred keys a step, 3,000 keys take thirty steps"
    assert steps > 5, "a step scanned more keys than it may"
    kit.run_burst(settings)
    assert kit.outcomes(client) == dict.fromkeys(lost, "sorted")


@pytest.mark.parametrize("cursor", ["junk", "-1", "", b"\xff", "9" * 40])
def test_an_invalid_cursor_does_not_end_the_sweep(settings: Settings, client: redis.Redis, cursor: str | bytes) -> None:
    (lost,) = kit.submit(settings, frame())
    lose(client, lost)
    client.hset(keys.sweep(settings.queue_names), "cursor", cursor)
    assert sweep(settings) == ONE_BACK


def test_an_invalid_missing_job_does_not_end_the_sweep(settings: Settings, client: redis.Redis) -> None:
    (lost,) = kit.submit(settings, frame())
    lose(client, lost)
    client.zadd(keys.missing(settings.queue_names), dict.fromkeys(["no-space", "", b"\xff"], 1))
    assert sweep(settings) == ONE_BACK


def test_two_workers_share_one_sweep(settings: Settings, client: redis.Redis) -> None:
    first, second = (sweeper(settings, interval_s=3600) for _ in range(2))
    (lost,) = kit.submit(settings, frame())
    lose(client, lost)
    first.step()
    cursor = client.hgetall(keys.sweep(settings.queue_names))
    assert second.step() == first.step() == NOTHING
    assert client.hgetall(keys.sweep(settings.queue_names)) == cursor, "two steps in one interval"
    client.hset(keys.sweep(settings.queue_names), "next_s", time.time() - 1)
    assert second.step() == ONE_BACK
    assert first.step() == NOTHING
    assert waiting(client) == [lost]


def test_a_server_clock_that_was_set_back_does_not_stop_the_sweep(settings: Settings, client: redis.Redis) -> None:
    (lost,) = kit.submit(settings, frame())
    lose(client, lost)
    client.hset(keys.sweep(settings.queue_names), "next_s", time.time() + 1_000_000)
    assert sweep(settings) == ONE_BACK


def test_the_sweeps_keys_expire(settings: Settings, client: redis.Redis) -> None:
    (lost,) = kit.submit(settings, frame())
    lose(client, lost)
    sweeper(settings).step()
    for key in (keys.sweep(settings.queue_names), keys.missing(settings.queue_names)):
        assert client.ttl(key) > 0


def test_a_replica_refuses_the_step(settings: Settings, client: redis.Redis) -> None:
    sweeping = sweeper(settings)
    client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(redis.exceptions.ReadOnlyError):
            sweeping.step()
    finally:
        client.replicaof("NO", "ONE")


def test_a_login_without_permission_to_scan_is_logged_once(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.acl_setuser("worker", enabled=True, nopass=True, keys="*", commands=["+@all", "-scan"])
    try:
        limited = settings.model_copy(update={"redis_url": settings.redis_url.replace("://", "://worker:x@")})
        sweeping = sweeper(limited)
        assert [sweeping.step() for _ in range(3)] == [NOTHING] * 3
    finally:
        client.acl_deluser("worker")
    assert len([record for record in caplog.records if record.name == "sortline.sweep"]) == 1


def test_a_recovered_job_is_claimed_like_any_other(settings: Settings, client: redis.Redis) -> None:
    """Its new lease can be renewed."""
    (lost,) = kit.submit(settings, frame())
    lose(client, lost)
    sweep(settings)
    (job,) = kit.claimer(settings).claim(5).jobs
    inflight = Inflight()
    inflight.add([job.lease])
    assert kit.keeper(settings, inflight).renew() == []
