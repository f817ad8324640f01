"""Jobs that can't be answered in time: claims set them apart, without their images, and none is lost."""

from __future__ import annotations

import pytest
import redis

from shared import keys
from shared.jobs import BYTES_FIELD, CLOCK_OFFSET_FIELD, DEADLINE_FIELD, LINE_FIELD
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame, picture
from tests.worker.rq.kit import claim, expire, finished_job, ids, leases, queued
from worker.rq.job_fields import clock_offset_in
from worker.state.inflight import Inflight
from worker.state.jobs import Disposition

HOPELESS_MS, FAR_MS = 0.001, 60_000.0


def submit(settings: Settings, *deadlines_ms: float | None, queue: str = "live") -> list[str]:
    return kit.submit(settings, *[frame(deadline_ms=deadline_ms, queue=queue) for deadline_ms in deadlines_ms])


def test_jobs_that_are_past_their_deadlines_are_set_apart(settings: Settings, client: redis.Redis) -> None:
    job_ids = submit(settings, HOPELESS_MS, FAR_MS, HOPELESS_MS, None)
    claimed = kit.claimer(settings).claim(10)
    assert ids(claimed.expired) == [job_ids[0], job_ids[2]]
    assert ids(claimed.jobs) == [job_ids[1], job_ids[3]]
    assert queued(client) == []
    assert set(leases(client)) == set(job_ids), "a dead worker's jobs are found by their leases"
    assert {kit.fetch(client, job_id).get_status() for job_id in job_ids} == {"started"}


@pytest.mark.parametrize(("needs_s", "is_expired"), [(0.0, False), (50.0, False), (70.0, True)])
def test_a_deadline_within_the_time_that_is_needed_cannot_be_met(
    settings: Settings, needs_s: float, is_expired: bool
) -> None:
    submit(settings, FAR_MS)
    claimed = kit.claimer(settings).claim(10, needs_s=needs_s)
    assert (len(claimed.expired), len(claimed.jobs)) == ((1, 0) if is_expired else (0, 1))


def test_they_count_neither_as_jobs_nor_as_bytes(settings: Settings, client: redis.Redis) -> None:
    job_ids = submit(settings, *[HOPELESS_MS] * 40, FAR_MS, FAR_MS, HOPELESS_MS, FAR_MS)
    claimed = kit.claimer(settings).claim(2, max_bytes=2 * len(picture()))
    assert ids(claimed.jobs) == job_ids[40:42]
    assert ids(claimed.expired) == job_ids[:40]
    assert queued(client) == job_ids[42:], "the claim ends with the last job that it may take"


def test_one_call_sets_a_limited_number_apart(settings: Settings, client: redis.Redis) -> None:
    job_ids = submit(settings, *[HOPELESS_MS] * 130, FAR_MS)
    claimer = kit.claimer(settings)
    first = claimer.claim(4)
    assert ids(first.expired) == job_ids[:128] and first.jobs == [] and first.cut_short
    second = claimer.claim(4)
    assert ids(second.expired) == job_ids[128:130] and ids(second.jobs) == job_ids[130:] and not second.cut_short


def test_the_other_queues_are_shed_too(settings: Settings) -> None:
    bulk = submit(settings, HOPELESS_MS, FAR_MS, queue="bulk")
    live = submit(settings, HOPELESS_MS)
    claimed = kit.claimer(settings).claim(4)
    assert ids(claimed.expired) == [*live, bulk[0]] and ids(claimed.jobs) == bulk[1:]


def test_a_suspect_is_claimed_whatever_its_deadline(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = submit(settings, HOPELESS_MS)
    client.delete(keys.rq_queue("live"))
    client.rpush(keys.suspects("live"), job_id)
    assert ids(kit.claimer(settings).claim_suspect().jobs) == [job_id]


def test_their_execution_ids_differ(settings: Settings) -> None:
    submit(settings, HOPELESS_MS, FAR_MS, HOPELESS_MS, FAR_MS)
    claimed = kit.claimer(settings).claim(10)
    assert len({job.lease.execution_id for job in (*claimed.jobs, *claimed.expired)}) == 4


def test_they_come_back_if_their_worker_dies(settings: Settings, client: redis.Redis) -> None:
    job_ids = submit(settings, HOPELESS_MS, HOPELESS_MS)
    expire(client, *kit.claimer(settings, worker="dead").claim(10).expired)
    assert kit.keeper(settings, Inflight(), worker="w2").reap()[0] == 2
    assert queued(client) == job_ids and leases(client) == {}


def test_they_are_finished_like_others(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = submit(settings, HOPELESS_MS)
    (job,) = kit.claimer(settings).claim(10).expired
    assert kit.finisher(settings).finish([finished_job(settings, job)]) == [True]
    assert kit.fetch(client, job_id).get_status() == "finished"
    assert not client.keys("rq:execution*") and not client.exists(keys.image(job_id)) and leases(client) == {}


def test_a_renewal_writes_their_executions(settings: Settings, client: redis.Redis) -> None:
    """Nobody answers them at once while Redis is unavailable."""
    submit(settings, HOPELESS_MS)
    (job,) = kit.claimer(settings).claim(10).expired
    inflight = Inflight()
    inflight.add([job.lease])
    assert kit.keeper(settings, inflight).renew() == []
    execution = client.hgetall(f"rq:execution:{job.lease.job_id}:{job.lease.execution_id}")
    assert execution[b"worker_name"] == b"w1" and execution[b"job_id"] == job.lease.job_id.encode()
    assert client.zcard(f"rq:executions:{job.lease.job_id}") == 1


@pytest.mark.parametrize("forged", ["", "soon", "nan", "inf", "-inf", "1e400", "9" * 2000, "0x10"])
def test_a_forged_deadline_disturbs_no_claim(settings: Settings, client: redis.Redis, forged: str) -> None:
    job_ids = submit(settings, FAR_MS, FAR_MS)
    client.hset(keys.rq_job(job_ids[0]), DEADLINE_FIELD, forged)
    claimed = kit.claimer(settings).claim(10)
    assert sorted(ids([*claimed.jobs, *claimed.expired])) == sorted(job_ids)
    assert job_ids[1] in ids(claimed.jobs)


def test_the_worker_learns_how_the_producer_counted_the_job(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = submit(settings, None)
    client.hset(keys.rq_job(job_id), CLOCK_OFFSET_FIELD, "-30.250000")
    (job,) = claim(settings)
    assert (job.clock_offset_s, job.counted_line, job.counted_bytes) == (-30.25, "l1", str(len(picture())))


@pytest.mark.parametrize("field", [None, b"", b"much", b"nan", b"inf", b"1e300", b"\xff"])
def test_a_clock_offset_that_cannot_be_right_counts_as_none(field: bytes | None) -> None:
    assert clock_offset_in(field) == 0.0


# what a queue holds ─────────────────────────────────────────────────────────────────────────────────


def load(client: redis.Redis) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in client.hgetall(keys.load("live")).items()}


def test_a_job_counts_until_it_has_ended(settings: Settings, client: redis.Redis) -> None:
    size = len(picture())
    kit.submit(settings, frame(), frame(), frame(line="l2"))
    first, second, third = claim(settings)
    finisher = kit.finisher(settings)
    finisher.finish([finished_job(settings, first, Disposition.RETRY)])
    assert load(client) == {
        **{"items": 3, "bytes": 3 * size, "items:l1": 2, "bytes:l1": 2 * size},
        **{"items:l2": 1, "bytes:l2": size},
    }
    finisher.finish([finished_job(settings, third), finished_job(settings, second, Disposition.FAILURE)])
    assert load(client) == {"items": 1, "bytes": size, "items:l1": 1, "bytes:l1": size}
    (again,) = claim(settings)
    finisher.finish([finished_job(settings, again)])
    assert load(client) == {}


def test_a_lost_lease_and_a_repeated_finish_count_nothing(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame(), frame())
    first, second = claim(settings)
    client.zrem(keys.rq_wip("live"), f"{first.lease.job_id}:{first.lease.execution_id}")
    finisher = kit.finisher(settings)
    batch = [finished_job(settings, first), finished_job(settings, second)]
    assert finisher.finish(batch) == [False, True]
    assert finisher.finish(batch) == [False, False]
    assert load(client)["items"] == 1


@pytest.mark.parametrize("broken", ["text", "fields"])
def test_counts_that_cannot_be_right_start_again(settings: Settings, client: redis.Redis, broken: str) -> None:
    kit.submit(settings, frame(), frame())
    first, _ = claim(settings)
    client.delete(keys.load("live"))
    if broken == "text":
        client.set(keys.load("live"), "text")
    else:
        client.hset(keys.load("live"), mapping={"items": "many", "bytes": "much"})
    assert kit.finisher(settings).finish([finished_job(settings, first)]) == [True]
    assert not client.exists(keys.load("live"))


def test_jobs_of_an_older_producer_count_nothing(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, *[frame() for _ in range(4)])
    for job_id in queued(client):
        client.hdel(keys.rq_job(job_id), LINE_FIELD, BYTES_FIELD)
    jobs = claim(settings)
    kit.finisher(settings).finish([finished_job(settings, jobs[0])])
    assert load(client)["items"] == 4


def test_a_failed_job_counts_no_more_even_if_it_is_requeued(settings: Settings, client: redis.Redis) -> None:
    """`rq requeue` does not count it again."""
    kit.submit(settings, frame(), frame())
    first, second = claim(settings)
    finisher = kit.finisher(settings)
    finisher.finish([finished_job(settings, first, Disposition.FAILURE)])
    kit.fetch(client, first.lease.job_id).requeue()
    (again,) = claim(settings)
    finisher.finish([finished_job(settings, again)])
    assert load(client)["items"] == 1
    finisher.finish([finished_job(settings, second)])
    assert load(client) == {}


@pytest.mark.parametrize("forged", ["-5", "-9999999999", "much", "", "1e3"])
def test_a_length_that_cannot_be_right_counts_nothing(settings: Settings, client: redis.Redis, forged: str) -> None:
    kit.submit(settings, frame(), frame())
    client.hset(keys.rq_job(queued(client)[0]), BYTES_FIELD, forged)
    first, _ = claim(settings)
    before = load(client)
    kit.finisher(settings).finish([finished_job(settings, first)])
    assert load(client) == before


# a job that is set apart is held ────────────────────────────────────────────────────────────────────


def test_a_job_that_is_set_apart_is_given_to_no_second_worker(settings: Settings, client: redis.Redis) -> None:
    """RQ's clean-up and ours may both have put it back, so that it is listed twice."""
    (job_id,) = submit(settings, HOPELESS_MS)
    (held,) = kit.claimer(settings).claim(10).expired
    client.rpush(keys.rq_queue("live"), job_id)
    again = kit.claimer(settings, worker="w2").claim(10)
    assert again.jobs == [] and again.expired == []
    assert kit.finisher(settings).finish([finished_job(settings, held)]) == [True]


def test_an_expired_lease_beside_it_gives_it_to_nobody(settings: Settings, client: redis.Redis) -> None:
    """Anybody can write a lease that has expired."""
    (job_id,) = submit(settings, HOPELESS_MS)
    (held,) = kit.claimer(settings).claim(10).expired
    client.zadd(keys.rq_wip("live"), {f"{job_id}:forged": 1})
    assert kit.keeper(settings, Inflight(), worker="w2").reap()[0] == 0
    assert queued(client) == []
    assert kit.finisher(settings).finish([finished_job(settings, held)]) == [True]


def test_a_job_that_was_given_back_is_claimed_again(settings: Settings) -> None:
    job_ids = submit(settings, HOPELESS_MS)
    inflight = Inflight()
    inflight.add([job.lease for job in kit.claimer(settings).claim(10).expired])
    assert kit.keeper(settings, inflight).release() == 1
    assert ids(kit.claimer(settings, worker="w2").claim(10).expired) == job_ids
