"""Jobs of a worker whose process on this host is gone: taken back at once, by the reap script on a real server.

Leases last an hour here, so no job comes back because its lease runs out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame
from tests.worker.rq.kit import KEY, SCOPE, alive, everything, finished_job, ids, leases, on_this_host, queued, register
from tests.worker.test_pipeline import sample
from worker.rq import local_workers
from worker.rq.leases import REAP_LIMIT
from worker.rq.processes import ProcessId
from worker.state.inflight import Inflight
from worker.state.jobs import ClaimedJob


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the worker has logged: not the producer's warning that no worker is running."""
    return [record for record in caplog.records if record.name != "producer.submit"]


def die(settings: Settings, ended: ProcessId, *, worker: str = "dead", limit: int = 100) -> list[ClaimedJob]:
    """Claim jobs as a worker whose process has ended."""
    register(settings, ended, worker=worker)
    return kit.claimer(settings, worker=worker).claim(limit).jobs


# taking back ────────────────────────────────────────────────────────────────────────────────────────


def test_jobs_of_a_process_that_is_gone_go_to_the_front_in_order(
    long: Settings, client: redis.Redis, ended: ProcessId, caplog: pytest.LogCaptureFixture
) -> None:
    job_ids = kit.submit(long, *[frame() for _ in range(6)])
    jobs = die(long, ended, limit=4)
    assert alive(long).reap() == (4, [])
    assert queued(client) == job_ids
    assert leases(client) == {}
    assert {kit.fetch(client, job_id).retries_left for job_id in job_ids[:4]} == {2}
    assert not client.keys("rq:execution*")
    assert not client.exists("rq:worker:dead:executions")
    assert kit.finisher(long, worker="dead").finish([finished_job(long, job) for job in jobs]) == [False] * 4
    assert [record.getMessage() for record in logged(caplog)] == [
        "worker 'dead' on this host is gone: took 4 jobs back"
    ]


def test_a_job_that_is_given_up_is_held_by_the_worker_that_finds_it(
    long: Settings, client: redis.Redis, ended: ProcessId
) -> None:
    kit.submit(long, frame())
    (job,) = die(long, ended)
    client.hset(keys.rq_job(job.lease.job_id), keys.LOSSES, long.max_losses - 1)
    inflight = Inflight()
    requeued, given_up = alive(long, inflight).reap()
    assert (requeued, ids(given_up)) == (0, ids([job]))
    assert given_up[0].lease in inflight


def test_only_what_the_dead_worker_held_is_taken(long: Settings, client: redis.Redis, ended: ProcessId) -> None:
    kit.submit(long, *[frame() for _ in range(4)], frame(queue="bulk"))
    others = kit.claimer(long, worker="w3").claim(2).jobs
    register(long, on_this_host().own, worker="w3")
    die(long, ended)
    keeper = alive(long)
    assert keeper.reap() == (3, [])
    assert set(leases(client)) == set(ids(others))
    assert keeper.reap() == (0, [])


@pytest.mark.parametrize("forgotten", ["rq:worker:dead:executions", "rq:execution:*"])
def test_jobs_are_found_whatever_rq_has_forgotten(
    long: Settings, client: redis.Redis, ended: ProcessId, forgotten: str
) -> None:
    """RQ deletes the worker's list when it unregisters the worker, and an execution's own key can expire."""
    kit.submit(long, frame(), frame())
    die(long, ended)
    client.delete(*client.keys(forgotten))
    assert alive(long).reap() == (2, [])


def test_leases_that_name_no_worker_are_left_to_run_out(long: Settings, client: redis.Redis, ended: ProcessId) -> None:
    """The dead worker's other jobs are found nevertheless."""
    broken, deleted, good = kit.submit(long, frame(), frame(), frame())
    die(long, ended)
    client.delete(keys.rq_job(deleted))
    client.set(keys.rq_job(broken), "text")
    client.zadd(keys.rq_wip("live"), {"a-member-of-an-older-rq": 1e10})
    assert alive(long).reap() == (1, [])
    assert queued(client) == [good]
    assert set(leases(client)) == {broken, deleted, "a-member-of-an-older-rq"}


def test_a_lease_of_a_job_that_ended_otherwise_is_removed(
    long: Settings, client: redis.Redis, ended: ProcessId, caplog: pytest.LogCaptureFixture
) -> None:
    (canceled,) = kit.submit(long, frame())
    die(long, ended)
    client.hset(keys.rq_job(canceled), "status", "canceled")
    assert alive(long).reap() == (0, [])
    assert leases(client) == {}
    assert queued(client) == []
    assert logged(caplog) == []


def test_many_jobs_are_taken_back_in_parts(long: Settings, client: redis.Redis, ended: ProcessId) -> None:
    count = local_workers.QUIET_STEPS * REAP_LIMIT + 1
    kit.submit(long, *[frame() for _ in range(count)])
    assert len(die(long, ended, limit=1000)) == count
    keeper = alive(long)
    for _ in range(local_workers.QUIET_STEPS):
        assert keeper.reap() == (REAP_LIMIT, [])
    assert keeper.reap() == (1, [])


def test_jobs_of_another_scope_are_left_to_their_leases(long: Settings, client: redis.Redis, ended: ProcessId) -> None:
    """On another host or in another container, nobody here can know whether the process is gone."""
    kit.submit(long, frame())
    (job,) = die(long, ended)
    keeper = alive(long, scope="another-host")
    assert keeper.reap() == (0, [])
    assert list(leases(client)) == ids([job])


def test_jobs_of_a_living_process_are_left_alone(long: Settings, client: redis.Redis) -> None:
    kit.submit(long, frame())
    jobs = die(long, on_this_host().own, worker="w1")
    keeper = alive(long)
    assert keeper.reap() == (0, [])
    assert list(leases(client)) == ids(jobs)


def test_a_worker_does_not_take_its_own_jobs(long: Settings, client: redis.Redis) -> None:
    """Not even if somebody has written a process that is gone under its name."""
    kit.submit(long, frame())
    keeper = alive(long)
    jobs = kit.claimer(long, worker="w2").claim(1).jobs
    client.hset(KEY, "w2", "1:1")
    assert [keeper.reap(), keeper.reap()] == [(0, [])] * 2
    assert list(leases(client)) == ids(jobs)
    assert client.hget(KEY, "w2") == str(on_this_host().own).encode()


def test_two_workers_take_a_job_back_once(long: Settings, client: redis.Redis, ended: ProcessId) -> None:
    (job_id,) = kit.submit(long, frame())
    die(long, ended)
    first, second = alive(long, worker="w2"), alive(long, worker="w3")
    assert [first.reap(), second.reap()] == [(1, []), (0, [])]
    assert queued(client) == [job_id]


# which workers are remembered ───────────────────────────────────────────────────────────────────────


def test_a_claim_that_arrives_after_its_worker_died_is_taken_back_too(
    long: Settings, client: redis.Redis, ended: ProcessId
) -> None:
    """The claim was still in the server's buffers when other workers first looked for the dead worker's jobs."""
    kit.submit(long, frame(), frame())
    die(long, ended, limit=1)
    first, second = alive(long, worker="w2"), alive(long, worker="w3")
    assert first.reap() == (1, [])
    assert second.reap() == (0, [])
    assert first.reap() == (0, [])
    assert len(kit.claimer(long, worker="dead").claim(2).jobs) == 2
    assert second.reap() == (2, [])


def test_a_worker_that_is_gone_is_forgotten_when_it_has_no_jobs(
    long: Settings, client: redis.Redis, ended: ProcessId
) -> None:
    register(long, ended)
    keeper = alive(long)
    for _ in range(local_workers.QUIET_STEPS):
        keeper.reap()
        assert client.hkeys(KEY) == [b"dead", b"w2"]
    keeper.reap()
    assert client.hkeys(KEY) == [b"w2"]
    assert client.hkeys(keys.processes(SCOPE, "bulk")) == [b"w2"]


def test_a_worker_is_forgotten_only_for_the_queues_that_were_checked(
    long: Settings, client: redis.Redis, ended: ProcessId
) -> None:
    kit.submit(long, frame(queue="bulk"))
    die(long, ended)
    keeper = alive(long.model_copy(update={"queues": "live"}))
    for _ in range(local_workers.QUIET_STEPS + 1):
        assert keeper.reap() == (0, [])
    assert client.hkeys(KEY) == [b"w2"]
    assert alive(long, worker="w3").reap() == (1, [])


def test_a_drained_worker_leaves_nothing(long: Settings, client: redis.Redis) -> None:
    components = kit.pipeline_components(long, ToneEngine(), processes=on_this_host())
    run = kit.pipeline(long, components)
    run.start()
    kit.wait_until(lambda: client.exists(KEY), "the worker has written its process")
    run.drain()
    kit.finish(run)
    assert client.keys("sortline:processes:*") == []


def test_processes_expire_and_are_written_again_after_a_loss(long: Settings, client: redis.Redis) -> None:
    keeper = alive(long)
    keeper.reap()
    assert 0 < client.ttl(KEY) <= 86_400
    client.expire(KEY, 100)
    keeper.reap()
    assert client.ttl(KEY) > 100
    client.flushall()
    keeper.reap()
    assert client.hkeys(KEY) == [b"w2"]


def test_a_step_without_news_writes_nothing(long: Settings, client: redis.Redis) -> None:
    """Each worker makes one step a second, and every write goes to the server's disk and replicas."""
    keeper = alive(long)
    keeper.reap()
    before = client.info("persistence")["rdb_changes_since_last_save"]
    keeper.reap()
    assert client.info("persistence")["rdb_changes_since_last_save"] == before


# what others may have written ───────────────────────────────────────────────────────────────────────


def test_text_that_is_not_a_process_is_ignored(long: Settings, client: redis.Redis, ended: ProcessId) -> None:
    kit.submit(long, frame())
    die(long, ended)
    client.hset(KEY, mapping={b"\xff": b"\xff", b"group": b"0:1", b"huge": b"9" * 100, b"": b""})
    assert alive(long).reap() == (1, [])


def test_a_name_that_is_not_utf8_works_like_any_other(long: Settings, client: redis.Redis, ended: ProcessId) -> None:
    client.hset(KEY, b"\xff\n", str(ended))
    keeper = alive(long)
    for _ in range(local_workers.QUIET_STEPS + 1):
        keeper.reap()
    assert client.hkeys(KEY) == [b"w2"]


def test_a_key_of_another_type_is_written_again(
    long: Settings, client: redis.Redis, ended: ProcessId, caplog: pytest.LogCaptureFixture
) -> None:
    kit.submit(long, frame(), frame(queue="bulk"))
    die(long, ended)
    keeper = alive(long)
    client.set(KEY, "text")
    assert keeper.reap() == (2, [])
    assert client.hkeys(KEY) == [b"w2"]
    assert [record.levelname for record in logged(caplog)] == ["ERROR", "WARNING"]


def test_a_key_with_too_many_fields_is_written_again(long: Settings, client: redis.Redis) -> None:
    client.hset(KEY, mapping={f"w-{number}": "1:1" for number in range(1001)})
    keeper = alive(long)
    keeper.reap()
    assert not client.exists(KEY)
    keeper.reap()
    assert client.hkeys(KEY) == [b"w2"]


@pytest.mark.parametrize("rule", ["~rq:* ~sortline:[^p]*", "~* -hgetall"])
def test_without_permission_jobs_come_back_when_their_leases_run_out(
    long: Settings,
    client: redis.Redis,
    ended: ProcessId,
    restricted: Callable[[str], None],  # a fixture
    caplog: pytest.LogCaptureFixture,
    rule: str,
) -> None:
    kit.submit(long, frame(), frame())
    jobs = die(long, ended)
    url = long.redis_url.replace("redis://", "redis://w:secret@")
    restricted(rule)
    keeper = alive(long.model_copy(update={"redis_url": url}))
    assert keeper.reap() == (0, [])
    client.zadd(keys.rq_wip("live"), {f"{jobs[0].lease.job_id}:{jobs[0].lease.execution_id}": 1.0})
    assert keeper.reap() == (1, [])
    messages = [record.getMessage() for record in caplog.records if "this host" in record.getMessage()]
    assert len(messages) == 1
    assert "ACL failure" in messages[0]


def test_a_worker_that_cannot_see_processes_writes_none(long: Settings, client: redis.Redis) -> None:
    keeper = kit.keeper(long, Inflight())
    before = everything(client)
    keeper.reap()
    keeper.unregister()
    assert everything(client) == before


# in a pipeline ──────────────────────────────────────────────────────────────────────────────────────


def test_a_worker_sorts_the_jobs_of_a_dead_worker_on_its_host(
    long: Settings, client: redis.Redis, ended: ProcessId
) -> None:
    job_ids = kit.submit(long, *[frame() for _ in range(4)])
    die(long, ended)
    client.hset(keys.rq_job(job_ids[0]), keys.LOSSES, long.max_losses - 1)
    components = kit.pipeline_components(long, ToneEngine(), worker="w2", processes=on_this_host())
    run = kit.pipeline(long, components)
    run.start()
    kit.wait_until(lambda: len(kit.stream(client)) == 4, "the dead worker's jobs are answered")
    run.drain()
    kit.finish(run)
    assert kit.outcomes(client) == {job_ids[0]: "failed"} | dict.fromkeys(job_ids[1:], "sorted")
    assert sample(components.metrics, "sortline_redelivered_total") == 4


def test_a_worker_that_was_believed_gone_finishes_nothing(long: Settings, client: redis.Redis) -> None:
    """A wrong process under a worker's name makes its jobs come back early, but no job gets two results."""
    job_ids = kit.submit(long, *[frame() for _ in range(2)])
    gate = Gate()
    components = kit.pipeline_components(long, ToneEngine(gate), worker="w1")
    run = kit.pipeline(long, components)
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: len(leases(client)) == 2, "both are held")
    client.hset(KEY, "w1", "1:1")
    run.drain()
    assert alive(long).reap() == (2, [])
    gate.opened.set()
    kit.finish(run)
    assert kit.stream(client) == []
    kit.run_burst(long, worker="w2")
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")


def test_an_entry_that_is_too_long_is_deleted_and_not_passed_on(long: Settings, client: redis.Redis) -> None:
    """No worker writes one. A thousand of them could fill the memory of each worker."""
    client.hset(KEY, mapping={"forged": "1" * 1_000_000, "f" * 1_000_000: "1:1", "dead": "999999999:1"})
    keeper = alive(long)
    keeper.reap()
    left = client.hgetall(KEY)
    assert b"dead" in left
    assert all(len(name) + len(value) < 1000 for name, value in left.items())
