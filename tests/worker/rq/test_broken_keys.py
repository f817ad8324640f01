"""One key has the wrong content, and fifteen other jobs are good: the key affects only its own job, or stops its queue.

Each script runs with each key, which is broken just before. Redis doesn't roll back a script that raises: if the script
had already ended a job's lease or taken it off the list, the job would never be answered.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Sequence

import pytest
import redis
from rq.registry import FailedJobRegistry

from shared import keys
from shared.jobs import MAX_ATTEMPTS_FIELD
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.kit import claim, expire, finished_job, ids, leases, queued
from worker.rq.broken_keys import BrokenKeys
from worker.state.inflight import Inflight
from worker.state.jobs import ClaimedJob, Disposition

STREAM_END = "18446744073709551615-18446744073709551615"
BAD, GOOD_COUNT = 5, 15  # the bad job's place among the good ones
STEPS = ("claim", "finish", "renew", "release", "reap")

Break = Callable[[redis.Redis, str], None]


def make_string(pattern: str) -> Break:
    """Break a key by storing a string in it; `{job}` in its name stands for the bad job's id."""

    def break_key(client: redis.Redis, job_id: str) -> None:
        client.set(pattern.format(job=job_id), "text")

    return break_key


def use_up_stream(pattern: str) -> Break:
    """Break a key by storing a stream in it that has no ids left for further entries."""

    def break_key(client: redis.Redis, job_id: str) -> None:
        client.delete(pattern.format(job=job_id))
        client.xadd(pattern.format(job=job_id), {"a": "b"}, id=STREAM_END)

    return break_key


def make_execution_string(client: redis.Redis, job_id: str) -> None:
    """Break the hash of each of the job's executions, if there are any."""
    for key in client.keys(f"rq:execution:{job_id}:*"):
        client.set(key, "text")


# Keys that the scripts can do without, because they can replace or ignore them: all sixteen jobs are answered.
DISPENSABLE: dict[str, Break] = {
    "executions of the job": make_string("rq:executions:{job}"),
    "execution": make_execution_string,
    "results of the job": make_string("rq:results:{job}"),
    "results of the job, used up": use_up_stream("rq:results:{job}"),
    "stream of the line": make_string("sortline:results:evil"),
    "stream of the line, used up": use_up_stream("sortline:results:evil"),
    "lines": make_string("sortline:lines"),
    "wakeup list": make_string("sortline:bell:live"),
    "suspects": make_string("sortline:suspects:live"),
    "finished jobs": make_string("rq:finished:live"),
    "failed jobs": make_string("rq:failed:live"),
    "worker": make_string("rq:worker:w1"),
    "executions of the worker": make_string("rq:worker:w1:executions"),
}


def take(settings: Settings, inflight: Inflight) -> list[ClaimedJob]:
    jobs = claim(settings)
    inflight.add([job.lease for job in jobs])
    return jobs


def submit(settings: Settings) -> tuple[list[str], str]:
    """Submit sixteen jobs; the ids of the good ones, and the id of the bad one, whose line is `evil`."""
    frames = [frame(line="evil" if number == BAD else "l1") for number in range(GOOD_COUNT + 1)]
    job_ids = kit.submit(settings, *frames)
    return [job_id for job_id in job_ids if job_id != job_ids[BAD]], job_ids[BAD]


def run_step(settings: Settings, client: redis.Redis, step: str, break_key: Callable[[], None]) -> None:
    """Break a key, run one script, and finish the jobs that the worker holds then."""
    inflight = Inflight()
    keeper = kit.keeper(settings, inflight)
    if step == "claim":
        break_key()
        finish(settings, take(settings, inflight))
        return
    jobs = take(settings, inflight)
    if step == "reap":
        expire(client, *jobs)
    break_key()
    match step:
        case "finish":
            finish(settings, jobs)
        case "renew":
            assert keeper.renew() == []
            finish(settings, jobs)
        case "release":
            keeper.release()
        case "reap":
            finish(settings, kit.keeper(settings, Inflight(), worker="w2").reap()[1], worker="w2")


def finish(settings: Settings, jobs: Sequence[ClaimedJob], *, worker: str = "w1") -> None:
    batch = [finished_job(settings, job) for job in jobs]
    assert kit.finisher(settings, worker=worker).finish(batch) == [True] * len(jobs)


def answer_the_rest(settings: Settings, client: redis.Redis) -> None:
    """Let all leases run out; then another worker takes these jobs and the queued ones, and finishes them."""
    for member, _ in client.zrange(keys.rq_wip("live"), 0, -1, withscores=True):
        client.zadd(keys.rq_wip("live"), {member: 1.0})
    keeper = kit.keeper(settings, Inflight(), worker="w2")
    finish(settings, keeper.reap()[1], worker="w2")
    finish(settings, kit.claimer(settings, worker="w2").claim(100).jobs, worker="w2")


def assert_nothing_is_left(client: redis.Redis) -> None:
    assert queued(client) == []
    assert leases(client) == {}
    assert client.keys("rq:execution*") == []
    assert client.keys("rq:worker:*:executions") == []


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", DISPENSABLE)
def test_a_broken_dispensable_key_affects_no_job(settings: Settings, client: redis.Redis, name: str, step: str) -> None:
    good, bad = submit(settings)
    run_step(settings, client, step, lambda: DISPENSABLE[name](client, bad))
    answer_the_rest(settings, client)
    assert kit.outcomes(client) == dict.fromkeys(good, "sorted")
    assert kit.outcomes(client, "evil") == {bad: "sorted"}
    assert kit.fetch(client, bad).return_value()["job_id"] == bad
    assert_nothing_is_left(client)


@pytest.mark.parametrize("step", STEPS)
def test_a_job_key_of_another_type_is_left_alone(
    settings: Settings, client: redis.Redis, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It must be somebody else's key. A worker that already holds the job can still write the job's result."""
    good, bad = submit(settings)
    run_step(settings, client, step, lambda: make_string("rq:job:{job}")(client, bad))
    answer_the_rest(settings, client)
    assert kit.outcomes(client) == dict.fromkeys(good, "sorted")
    assert kit.outcomes(client, "evil") == ({bad: "sorted"} if step in ("finish", "renew") else {})
    assert client.get(keys.rq_job(bad)) == b"text"
    assert client.ttl(keys.rq_job(bad)) == -1
    assert_nothing_is_left(client)
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 1
    assert f"'rq:job:{bad}'" in logged[0] and "type string" in logged[0]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("key", ["rq:queue:live", "rq:wip:live"])
def test_a_queue_that_cannot_be_used_waits_until_it_is_fixed(
    settings: Settings, client: redis.Redis, key: str, step: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its jobs keep their places and leases, other queues go on, and later every job is finished."""
    good, bad = submit(settings)

    def break_key() -> None:
        if client.exists(key):
            client.rename(key, "kept")
        client.set(key, "text")

    run_step(settings, client, step, break_key)
    others = kit.submit(settings, frame(queue="bulk", line="l2"))
    jobs = kit.claimer(settings, worker="w3").claim(100).jobs
    assert ids(jobs) == others
    assert kit.finisher(settings, worker="w3").finish([finished_job(settings, job) for job in jobs]) == [True]
    client.delete(key)
    if client.exists("kept"):
        client.rename("kept", key)
    answer_the_rest(settings, client)
    assert kit.outcomes(client) == dict.fromkeys(good, "sorted")
    assert kit.outcomes(client, "evil") == {bad: "sorted"}
    assert kit.outcomes(client, "l2") == dict.fromkeys(others, "sorted")
    assert_nothing_is_left(client)
    assert any(repr(key) in record.getMessage() for record in caplog.records)


def test_a_lost_lease_stays_lost_even_if_the_registry_of_leases_is_broken(
    settings: Settings, client: redis.Redis
) -> None:
    """Then the job's own list of executions says which worker holds it."""
    (job_id,) = kit.submit(settings, frame())
    (old,) = claim(settings)
    expire(client, old)
    kit.keeper(settings, Inflight(), worker="w2").reap()
    (new,) = kit.claimer(settings, worker="w2").claim(1).jobs
    client.set("rq:wip:live", "text")
    assert kit.finisher(settings).finish([finished_job(settings, old)]) == [False]
    assert kit.finisher(settings, worker="w2").finish([finished_job(settings, new)]) == [True]
    assert kit.outcomes(client) == {job_id: "sorted"}


def test_a_job_that_cannot_be_put_back_goes_back_when_its_lease_runs_out(
    settings: Settings, client: redis.Redis
) -> None:
    (job_id,) = kit.submit(settings, frame())
    jobs = claim(settings)
    client.set("rq:queue:live", "text")
    assert kit.finisher(settings).finish([finished_job(settings, job, Disposition.RETRY) for job in jobs]) == [False]
    client.delete("rq:queue:live")
    expire(client, *jobs)
    assert kit.keeper(settings, Inflight()).reap() == (1, [])
    assert queued(client) == [job_id]
    assert kit.fetch(client, job_id).retries_left == 2
    assert client.hget(keys.rq_job(job_id), keys.LOSSES) == b"1"


@pytest.mark.parametrize("key", ["sortline:results:evil", "sortline:lines", "rq:finished:live"])
def test_a_broken_shared_key_is_kept_under_another_name_for_a_day(
    settings: Settings, client: redis.Redis, key: str
) -> None:
    _, bad = submit(settings)
    run_step(settings, client, "finish", lambda: make_string(key)(client, bad))
    assert client.get(keys.broken(key)) == b"text"
    assert 86000 < client.ttl(keys.broken(key)) <= 86400
    assert client.type(key) != b"string"


def test_suspects_go_to_a_new_list_if_theirs_is_broken(settings: Settings, client: redis.Redis) -> None:
    """A claim also moves a broken list of suspects aside."""
    (job_id,) = kit.submit(settings, frame())
    claim(settings)
    client.set(keys.suspects("live"), "text")
    keeper = kit.keeper(settings, Inflight(), worker="w2")
    keeper.take_back_from("w1", crash="SIGSEGV")
    assert keeper.reap() == (1, [])
    assert client.get(keys.broken(keys.suspects("live"))) == b"text"
    client.set(keys.suspects("bulk"), "text")
    assert ids(kit.claimer(settings).claim_suspect().jobs) == [job_id]
    assert kit.claimer(settings).claim_suspect().jobs == []
    assert client.get(keys.broken(keys.suspects("bulk"))) == b"text"
    assert not client.exists(keys.suspects("bulk"))


def test_a_job_can_fail_although_the_registry_of_failed_jobs_is_broken(settings: Settings, client: redis.Redis) -> None:
    kit.submit(settings, frame(), frame())
    jobs = claim(settings)
    client.set("rq:failed:live", "text")
    assert kit.finisher(settings).finish([finished_job(settings, job, Disposition.FAILURE) for job in jobs]) == [
        True,
        True,
    ]
    assert set(FailedJobRegistry("live", connection=client).get_job_ids()) == set(ids(jobs))


def test_an_id_that_leads_to_a_key_of_another_type_is_counted_as_refused(
    settings: Settings, client: redis.Redis
) -> None:
    """An id may lead to any key that begins with `rq:job:`: here to RQ's own set of dependents."""
    good, _ = submit(settings)
    client.sadd("rq:job:abc:dependents", "x")
    client.lpush(keys.rq_queue("live"), "abc:dependents")
    metrics = kit.run_burst(settings)
    assert metrics.registry.get_sample_value("sortline_refused_total") == 1
    assert set(kit.outcomes(client)) == set(good)
    assert client.smembers("rq:job:abc:dependents") == {b"x"}


@pytest.mark.parametrize(
    "field", ["retries_left", "result_ttl", "failure_ttl", MAX_ATTEMPTS_FIELD, keys.CRASHES, keys.LOSSES]
)
@pytest.mark.parametrize("value", ["1.5", "", "soon", "1e400", "-7", b"\xff", "9" * 40])
@pytest.mark.parametrize("step", ["finish", "reap"])
def test_a_field_that_is_not_a_number_affects_no_job(
    settings: Settings, client: redis.Redis, field: str, value: str | bytes, step: str
) -> None:
    good, bad = submit(settings)
    client.hset(keys.rq_job(bad), field, value)
    run_step(settings, client, step, lambda: None)
    answer_the_rest(settings, client)
    assert kit.outcomes(client) == dict.fromkeys(good, "sorted")
    assert kit.outcomes(client, "evil") == {bad: "sorted"}
    assert_nothing_is_left(client)


# ids ────────────────────────────────────────────────────────────────────────────────────────────────

ODD_IDS = [b"\xff\xfe", b"a:b", b":", b"", b"\x00", b"x\n2026-01-01T00:00:00Z ERROR sortline.pipeline: forged", b"%s%d"]


def put_forged(client: redis.Redis, job_id: bytes) -> None:
    """Queue a job that nobody can sort."""
    client.hset(b"rq:job:" + job_id, mapping={"created_at": "x", "status": "queued", "data": b"x"})
    client.rpush(keys.rq_queue("live"), job_id)


@pytest.mark.parametrize("job_id", ODD_IDS, ids=repr)
def test_a_job_of_any_id_ends_once(
    settings: Settings, client: redis.Redis, job_id: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Ids are bytes. An id that isn't UTF-8 must go back to the server unchanged, or it would name another job."""
    (good,) = kit.submit(settings, frame())
    put_forged(client, job_id)
    metrics = kit.run_burst(settings)
    assert kit.outcomes(client) == {good: "sorted"}
    assert metrics.registry.get_sample_value("sortline_refused_total") == 1
    assert metrics.registry.get_sample_value("sortline_leases_lost_total") == 0
    assert client.hget(b"rq:job:" + job_id, "status") == b"failed"
    assert client.zrange("rq:failed:live", 0, -1) == [job_id]
    assert_nothing_is_left(client)
    assert not any("\n" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("step", ["renew", "release", "reap"])
def test_a_lease_on_a_job_of_any_id_is_kept_and_given_back(settings: Settings, client: redis.Redis, step: str) -> None:
    for job_id in ODD_IDS:
        put_forged(client, job_id)
    inflight = Inflight()
    jobs = take(settings, inflight)
    keeper = kit.keeper(settings, inflight)
    assert len(jobs) == len(ODD_IDS)
    match step:
        case "renew":
            assert keeper.renew() == []
        case "release":
            assert keeper.release() == len(ODD_IDS)
            assert client.lrange(keys.rq_queue("live"), 0, -1) == ODD_IDS
        case "reap":
            client.zadd(keys.rq_wip("live"), dict.fromkeys(client.zrange(keys.rq_wip("live"), 0, -1), 1.0), xx=True)
            assert kit.keeper(settings, Inflight(), worker="w2").reap() == (len(ODD_IDS), [])
            assert sorted(client.lrange(keys.rq_queue("live"), 0, -1)) == sorted(ODD_IDS)


# what is logged ─────────────────────────────────────────────────────────────────────────────────────


def test_a_queue_that_cannot_be_used_is_logged_from_time_to_time(caplog: pytest.LogCaptureFixture) -> None:
    now = itertools.count(step=25)
    broken_keys = BrokenKeys(clock=lambda: float(next(now)))
    for _ in range(6):
        broken_keys.report([[b"left", b"rq:wip:live", b"string", b"it must be a zset"]])
    assert len(caplog.records) == 2


def test_the_names_of_long_keys_are_not_kept_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    """A key is logged once a minute, however long its name is. Anybody may have chosen it."""
    broken_keys = BrokenKeys()
    for _ in range(2):
        for number in range(20):
            broken_keys.report([(b"replaced", b"%d" % number + bytes(1_000_000), b"string", b"WRONGTYPE")])
    assert len(caplog.records) == 20
    assert sum(sys.getsizeof(item) for entry in vars(broken_keys)["_logged_at"].items() for item in entry) < 10_000
