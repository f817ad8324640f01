"""How the deaths of its workers change a job, on a real server: not at all, to a suspect, or to a job given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from rq.registry import FailedJobRegistry

from shared import keys
from shared.jobs import MAX_CRASHES
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.kit import (
    CRASH,
    alive,
    claim,
    claim_suspect,
    counts,
    crash,
    expire,
    finished_job,
    ids,
    leases,
    queued,
    register,
    suspects,
)
from tests.worker.rq.test_rq_tools import rq
from worker.rq.leases import REAP_LIMIT
from worker.rq.processes import ProcessId
from worker.state.inflight import Inflight
from worker.state.jobs import ClaimedJob, Deaths, Disposition
from worker.steps.admit import admit


def lose(settings: Settings, client: redis.Redis, times: int) -> None:
    """Claim the only job and let its lease run out, several times."""
    for _ in range(times):
        expire(client, *(claim(settings) or claim_suspect(settings)))
        assert kit.keeper(settings, Inflight(), worker="w2").reap() == (1, [])


# how a death changes a job ──────────────────────────────────────────────────────────────────────────


def test_a_crash_with_one_job_in_hand_counts_against_it(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    claim(settings)
    assert crash(settings) == (1, [])
    assert counts(client, job_id) == (1, 0)
    assert (suspects(client), queued(client), leases(client)) == ([job_id], [], {})
    job = kit.fetch(client, job_id)
    assert (job.get_status(), job.retries_left) == ("queued", 2)


def test_a_crash_with_several_jobs_in_hand_makes_all_of_them_suspects(settings: Settings, client: redis.Redis) -> None:
    """That is so for the jobs of all queues. The crash counts against none of them, since only one can be the cause."""
    job_ids = kit.submit(settings, *[frame() for _ in range(3)])
    (bulk,) = kit.submit(settings, frame(queue="bulk"))
    others = kit.submit(settings, frame())
    kit.claimer(settings).claim(3)
    kit.claimer(settings.model_copy(update={"queues": "bulk"})).claim(1)
    assert crash(settings) == (4, [])
    assert sorted(suspects(client)) == sorted(job_ids)
    assert suspects(client, "bulk") == [bulk]
    assert queued(client) == others
    assert {counts(client, job_id) for job_id in [*job_ids, bulk]} == {(0, 1)}


def test_all_jobs_of_a_crash_go_back_in_one_step(settings: Settings, client: redis.Redis) -> None:
    """Otherwise a second step might find a single job left, and take it for the cause."""
    job_ids = kit.submit(settings, *[frame() for _ in range(REAP_LIMIT + 1)])
    claim(settings, limit=REAP_LIMIT + 1)
    assert crash(settings) == (REAP_LIMIT + 1, [])
    assert {counts(client, job_id) for job_id in job_ids} == {(0, 1)}


def test_a_crash_explains_only_the_jobs_that_the_worker_held(settings: Settings, client: redis.Redis) -> None:
    """A claim that reaches the server after the worker's end gave the worker no job."""
    first, second, late = kit.submit(settings, *[frame() for _ in range(3)])
    claim(settings, limit=2)
    keeper = kit.keeper(settings, Inflight(), worker="w2")
    keeper.take_back_from("w1", crash=CRASH)
    assert keeper.reap() == (2, [])
    claim(settings)
    assert keeper.reap() == (1, [])
    assert sorted(suspects(client)) == sorted([first, second])
    assert (queued(client), counts(client, late)) == ([late], (0, 1))


def test_a_crash_is_remembered_until_the_server_can_be_asked(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    claim(settings)
    keeper = kit.keeper(settings, Inflight(), worker="w2")
    keeper.take_back_from("w1", crash=CRASH)
    client.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(redis.exceptions.ResponseError, match="NOREPLICAS"):
            keeper.reap()
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert keeper.reap() == (1, [])
    assert counts(client, job_id) == (1, 0)


def test_an_end_without_a_cause_is_a_loss(settings: Settings, client: redis.Redis) -> None:
    """It is treated like a lease that ran out: the job goes to the front of its queue and keeps all its attempts."""
    job_ids = kit.submit(settings, *[frame() for _ in range(3)])
    claim(settings, limit=1)
    keeper = kit.keeper(settings, Inflight(), worker="w2")
    keeper.take_back_from("w1")
    assert keeper.reap() == (1, [])
    assert queued(client) == job_ids
    assert counts(client, job_ids[0]) == (0, 1)
    assert kit.fetch(client, job_ids[0]).retries_left == 2


def test_a_crash_is_known_although_the_lease_has_run_out(settings: Settings, client: redis.Redis) -> None:
    """A worker that starts slowly may come after its predecessor's leases have run out."""
    (job_id,) = kit.submit(settings, frame())
    expire(client, *claim(settings))
    assert crash(settings) == (1, [])
    assert counts(client, job_id) == (1, 0)


def test_a_crash_counts_although_the_process_is_gone_too(
    settings: Settings, client: redis.Redis, ended: ProcessId
) -> None:
    (job_id,) = kit.submit(settings, frame())
    register(settings, ended, worker="w1")
    claim(settings)
    keeper = alive(settings)
    keeper.take_back_from("w1", crash=CRASH)
    assert keeper.reap() == (1, [])
    assert counts(client, job_id) == (1, 0)


def test_the_third_loss_makes_a_suspect(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    lose(settings, client, 2)
    assert (queued(client), suspects(client)) == ([job_id], [])
    lose(settings, client, 1)
    assert (queued(client), suspects(client)) == ([], [job_id])
    lose(settings, client, 1)
    assert (queued(client), suspects(client)) == ([], [job_id])


def test_after_its_third_crash_a_job_is_not_tried_again(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    (job_id,) = kit.submit(settings, frame())
    claim(settings)
    for _ in range(MAX_CRASHES - 1):
        assert crash(settings) == (1, [])
        assert ids(claim_suspect(settings)) == [job_id]
    requeued, (job,) = crash(settings)
    assert requeued == 0
    assert job.deaths == Deaths(crashes=MAX_CRASHES, losses=0, suspicion=CRASH)
    assert (suspects(client), queued(client)) == ([], [])
    assert list(leases(client)) == [job_id], "the worker that reaps the job holds it in order to answer it"
    assert f"worker 'w1' crashed ({CRASH}): took 1 jobs back" in caplog.text


def test_a_job_that_is_given_up_never_runs_again(settings: Settings, client: redis.Redis) -> None:
    """Not even if the worker that should answer it dies."""
    kit.submit(settings, frame())
    (job,) = claim(settings)
    client.hset(keys.rq_job(job.lease.job_id), keys.CRASHES, MAX_CRASHES - 1)
    _, (job,) = crash(settings)
    expire(client, job)
    _, (again,) = kit.keeper(settings, Inflight(), worker="w3").reap()
    assert again.deaths.crashes == MAX_CRASHES
    assert again.lease.job_id == job.lease.job_id


def test_a_job_that_was_lost_too_often_is_not_tried_again(settings: Settings, client: redis.Redis) -> None:
    few = settings.model_copy(update={"max_losses": 4})
    kit.submit(few, frame())
    lose(few, client, 3)
    expire(client, *claim_suspect(few))
    requeued, (job,) = kit.keeper(few, Inflight(), worker="w2").reap()
    assert (requeued, job.deaths) == (0, Deaths(losses=4, suspicion="lost"))


# claiming suspects ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def three(settings: Settings, client: redis.Redis) -> list[str]:
    """Three suspects: two of `live`, one of `bulk`."""
    job_ids = kit.submit(settings, frame(), frame(), frame(queue="bulk"))
    assert len(claim(settings)) == 3
    assert crash(settings) == (3, [])
    return [*suspects(client), *job_ids[2:]]


def test_suspects_are_claimed_one_by_one_the_urgent_queue_first(
    settings: Settings, client: redis.Redis, three: list[str]
) -> None:
    (other,) = kit.submit(settings, frame())
    claimer = kit.claimer(settings)
    assert claimer.suspects_wait()
    claims = [claimer.claim_suspect() for _ in range(4)]
    assert [ids(each.jobs) for each in claims] == [[job_id] for job_id in three] + [[]]
    assert not claimer.suspects_wait()
    assert queued(client) == [other]
    assert {kit.fetch(client, job_id).get_status() for job_id in three} == {"started"}
    jobs = [job for each in claims for job in each.jobs]
    assert {job.deaths.suspicion for job in jobs} == {CRASH}
    assert {admit(job, max_attempts=3).attempt for job in jobs} == {2}
    assert kit.finisher(settings).finish([finished_job(settings, job) for job in jobs]) == [True] * 3
    assert kit.outcomes(client) == dict.fromkeys(three, "sorted")


def test_a_claim_of_other_jobs_takes_no_suspect(settings: Settings, client: redis.Redis, three: list[str]) -> None:
    assert claim(settings) == []
    assert suspects(client) == three[:2]


def test_suspects_that_have_not_been_tried_alone_go_first(
    settings: Settings, client: redis.Redis, three: list[str]
) -> None:
    assert ids(claim_suspect(settings)) == three[:1]
    assert crash(settings) == (1, [])
    assert suspects(client) == [three[1], three[0]]


def test_suspension_holds_suspects_back_too(settings: Settings, client: redis.Redis, three: list[str]) -> None:
    client.set(keys.RQ_SUSPENDED, 1)
    claim = kit.claimer(settings).claim_suspect()
    assert (claim.jobs, claim.suspended) == ([], True)


@pytest.mark.parametrize("end", ["deleted", "canceled", "finished"])
def test_a_suspect_that_ended_otherwise_is_skipped(
    settings: Settings, client: redis.Redis, three: list[str], end: str
) -> None:
    """RQ removes a job only from its own list, not from the suspects."""
    match end:
        case "deleted":
            kit.fetch(client, three[0]).delete()
        case "canceled":
            kit.fetch(client, three[0]).cancel()
        case _:
            client.hset(keys.rq_job(three[0]), "status", end)
    assert ids(claim_suspect(settings)) == [three[1]]


@pytest.mark.parametrize("first", ["suspects", "queue"])
def test_a_job_in_both_lists_runs_once(settings: Settings, client: redis.Redis, three: list[str], first: str) -> None:
    """An older release's sweep looks for a suspect only in RQ's list, doesn't find it, and adds it to that list."""
    client.rpush(keys.rq_queue("live"), three[0])
    take: list[Callable[[Settings], list[ClaimedJob]]] = [claim_suspect, claim]
    one, other = take if first == "suspects" else reversed(take)
    assert ids(one(settings)) == [three[0]]
    assert three[0] not in ids(other(settings))
    assert three[0] not in queued(client) + suspects(client)


@pytest.mark.parametrize("way", ["released", "retried"])
def test_a_suspect_that_is_given_back_stays_a_suspect(
    settings: Settings, client: redis.Redis, three: list[str], way: str
) -> None:
    (job,) = claim_suspect(settings)
    if way == "released":
        inflight = Inflight()
        inflight.add([job.lease])
        assert kit.keeper(settings, inflight).release() == 1
    else:
        assert kit.finisher(settings).finish([finished_job(settings, job, Disposition.RETRY)]) == [True]
    assert suspects(client) == [three[1], three[0]]
    assert queued(client) == []


def test_a_suspect_wakes_an_idle_worker(settings: Settings, client: redis.Redis, three: list[str]) -> None:
    assert client.llen(keys.wakeup("live")) > 0


# other users of suspects ────────────────────────────────────────────────────────────────────────────


def test_rq_requeue_resets_crashes_and_losses(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    claim(settings)
    client.hset(keys.rq_job(job_id), mapping={keys.CRASHES: MAX_CRASHES - 1, keys.LOSSES: 5})
    _, jobs = crash(settings)
    batch = [finished_job(settings, job, Disposition.FAILURE) for job in jobs]
    assert kit.finisher(settings, worker="w2").finish(batch) == [True]
    assert FailedJobRegistry("live", connection=client).get_job_ids() == [job_id]
    rq(settings, "requeue", "--queue", "live", "--all")
    (job,) = claim(settings)
    assert job.deaths == Deaths()
    assert admit(job, max_attempts=3).attempt == 1


def test_suspects_count_towards_the_bound_of_their_queue(
    settings: Settings, client: redis.Redis, three: list[str]
) -> None:
    """They take memory like other jobs."""
    bounded = settings.model_copy(update={"queue_max_items": 3, "line_share": 1.0})
    kit.submit(bounded, frame())
    with pytest.raises(Exception, match="holds 3 jobs"):
        kit.submit(bounded, frame())


def test_a_broken_list_of_suspects_does_not_disturb_a_producer(settings: Settings, client: redis.Redis) -> None:
    client.set(keys.suspects("live"), "text")
    assert len(kit.submit(settings, frame())) == 1


@pytest.mark.parametrize("command", ["sadd", "zadd", "ltrim", "hset", "expire", "persist"])
def test_a_claim_that_lacks_a_permission_gives_no_suspect_to_two_workers(
    settings: Settings, client: redis.Redis, three: list[str], restricted: Callable[[str], None], command: str
) -> None:
    url = settings.redis_url.replace("redis://", "redis://w:secret@")
    claimer = kit.claimer(settings.model_copy(update={"redis_url": url}))
    restricted(f"~* -{command}")
    with pytest.raises(redis.exceptions.ResponseError, match="ACL failure"):
        claimer.claim_suspect()
    restricted("~* +@all")
    other = kit.claimer(settings, worker="w2")
    jobs = [job for _ in range(3) for job in other.claim_suspect().jobs] + claimer.claim_suspect().jobs
    assert sorted(ids(jobs)) == sorted(three)
    assert client.zcard(keys.rq_wip("live")) + client.zcard(keys.rq_wip("bulk")) == 3


@pytest.mark.parametrize("command", ["rpush", "lpush", "zrem", "srem", "hset", "hdel", "del"])
@pytest.mark.parametrize("cause", [CRASH, ""])
def test_a_reaper_that_lacks_a_permission_loses_no_job_and_doubles_none(
    settings: Settings, client: redis.Redis, restricted: Callable[[str], None], command: str, cause: str
) -> None:
    """Whatever the script has written before it fails, a later call finds each job."""
    job_ids = kit.submit(settings, *[frame() for _ in range(3)])
    claim(settings)
    url = settings.redis_url.replace("redis://", "redis://w:secret@")
    keeper = kit.keeper(settings.model_copy(update={"redis_url": url}), Inflight(), worker="w2")
    keeper.take_back_from("w1", crash=cause)
    restricted(f"~* -{command}")
    for _ in range(2):
        try:
            keeper.reap()
        except redis.exceptions.ResponseError as error:
            assert "ACL failure" in str(error)
    restricted("~* +@all")
    keeper.reap()
    jobs = claim(settings, limit=10) + [job for _ in range(4) for job in claim_suspect(settings)]
    assert sorted(ids(jobs)) == sorted(job_ids)
    assert {counts(client, job_id)[0] for job_id in job_ids} == {0} or cause == CRASH
    assert kit.finisher(settings).finish([finished_job(settings, job) for job in jobs]) == [True] * 3
    assert leases(client) == {}
