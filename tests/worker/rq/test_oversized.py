"""What the holder of a producer's password can write to hold up the server: long ids, large hashes, endless times."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis
from rq.registry import FailedJobRegistry, FinishedJobRegistry

from shared import keys
from shared.jobs import MAX_ID_BYTES
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import frame
from tests.worker.rq.kit import claim, expire, finished_job, ids, queued
from tests.worker.rq.test_capacity_report import Reporting
from tests.worker.rq.test_sweep import sweeper
from worker.rq.broken_keys import BrokenKeys
from worker.rq.job_fields import MAX_ASKED_TTL_S, ttl_s
from worker.rq.sweep import Swept
from worker.state.inflight import Inflight
from worker.state.jobs import Disposition

BIG = b"x" * 1_000_000  # of a field
HUGE = b"x" * 5_000_000  # more than a job's hash may take
FIELDS = {"status": "queued", "origin": "live", "created_at": "2026-11-28T05:41:14.000000Z", "data": "junk"}
# The commands that read a job or write what belongs to it.
ABOUT_JOBS = {"hget", "hmget", "hset", "hstrlen", "strlen", "zadd", "zscore", "zcount", "zcard", "lpos", "expire"}


def enqueue(client: redis.Redis, job_id: bytes | str, **fields: bytes) -> None:
    """A job as anybody can write it."""
    client.hset(keys.rq_job("").encode() + (job_id if isinstance(job_id, bytes) else job_id.encode()), mapping=FIELDS)
    if fields:
        client.hset(keys.rq_job(str(job_id)), mapping=fields)
    client.rpush(keys.rq_queue("live"), job_id)


def commands_of(client: redis.Redis, step: Callable[[], object]) -> set[str]:
    """The commands that the server runs in a step."""
    client.config_resetstat()
    step()
    return {name.removeprefix("cmdstat_") for name in client.info("commandstats")}


# ids ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("length", [MAX_ID_BYTES + 1, 1_000_000])
def test_a_job_with_a_long_id_is_taken_off_and_reported(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture, length: int
) -> None:
    refused: list[int] = []
    enqueue(client, b"I" * length)
    (good,) = kit.submit(settings, frame())
    claimer = kit.claimer(settings, broken_keys=BrokenKeys(lambda: refused.append(1)))
    assert ids(claimer.claim(10).jobs + claimer.claim(10).jobs) == [good]
    assert (refused, queued(client)) == ([1], [])
    assert max(map(len, client.keys("*"))) < MAX_ID_BYTES, "nothing of it is left"
    assert f"its id has {length} bytes, and may have 200" in caplog.text
    assert max(map(len, caplog.text.splitlines())) < 1_000


def test_no_command_about_jobs_is_given_a_long_id(settings: Settings, client: redis.Redis) -> None:
    claimer = kit.claimer(settings)
    claimer.claim(1)
    enqueue(client, b"I" * 300_000)
    used = commands_of(client, lambda: claimer.claim(10))
    assert (used & ABOUT_JOBS, "unlink" in used) == (set(), True)


def test_the_longest_id_that_is_allowed_is_answered(settings: Settings, client: redis.Redis) -> None:
    enqueue(client, b"I" * MAX_ID_BYTES)
    assert len(claim(settings)) == 1


def test_a_claim_reads_long_ids_one_by_one(settings: Settings, client: redis.Redis) -> None:
    """All at once they would be copied at once."""
    for letter in (b"I", b"J", b"K"):
        enqueue(client, letter * 300_000)
    (good,) = kit.submit(settings, frame())
    claimer = kit.claimer(settings)
    for left in (3, 2, 1):
        claimed = claimer.claim(10)
        assert (claimed.jobs, claimed.cut_short, client.llen(keys.rq_queue("live"))) == ([], True, left)
    assert ids(claimer.claim(10).jobs) == [good]


def test_the_sweep_deletes_keys_with_very_long_names(settings: Settings, client: redis.Redis) -> None:
    for name in (keys.rq_job("x" * 20_000), keys.image("x" * 20_000)):
        client.set(name, "x")
    anothers = keys.rq_job("x" * (MAX_ID_BYTES + 1))
    client.hset(anothers, mapping=FIELDS)
    sweeping, swept = sweeper(settings), []
    used = commands_of(client, lambda: swept.append(sweeping.step()))
    assert swept == [Swept(0, 0, 2)]
    assert client.keys(f"{keys.rq_job('')}*") == [anothers.encode()], "it may be another program's"
    assert not used & {"zcount", "lpos", "zscore"}
    assert sweeping.step() == Swept(0, 0)


def test_the_sweep_takes_long_ids_off_while_all_workers_are_suspended(settings: Settings, client: redis.Redis) -> None:
    """No worker claims them then, and each scrape of a worker's metrics reads the first one."""
    client.set(keys.RQ_SUSPENDED, 1)
    enqueue(client, b"I" * 300_000)
    enqueue(client, b"J" * 300_000)
    (good,) = kit.submit(settings, frame())
    sweeping = sweeper(settings)
    assert [sweeping.step() for _ in range(3)] == [Swept(0, 0, 1), Swept(0, 0, 1), Swept(0, 0)]
    assert queued(client) == [good]


# hashes ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_hash_that_is_too_large_is_no_job(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    refused: list[int] = []
    claimer = kit.claimer(settings, broken_keys=BrokenKeys(lambda: refused.append(1)))
    claimer.claim(1)
    enqueue(client, "large", webhooks=HUGE, enqueued_at=HUGE)
    client.set(keys.image("large"), b"x")
    used = commands_of(client, lambda: claimer.claim(10))
    assert "hmget" not in used, "the fields were read"
    assert (refused, client.exists(keys.rq_job("large"), keys.image("large")), queued(client)) == ([1], 0, [])
    assert "it takes more than 4000000 bytes" in caplog.text
    (good,) = kit.submit(settings, frame())
    assert ids(claimer.claim(10).jobs) == [good]


def test_long_fields_of_a_job_are_not_read(settings: Settings, client: redis.Redis) -> None:
    enqueue(client, "odd", webhooks=BIG, enqueued_at=BIG, data=BIG)
    (job,) = claim(settings)
    assert (job.extras.strip(), job.enqueued_at, job.data) == ("(1000000 bytes)", None, None)


def test_a_worker_without_the_right_to_ask_for_memory_claims(
    settings: Settings, client: redis.Redis, restricted: Callable[[str], None]
) -> None:
    (good,) = kit.submit(settings, frame())
    restricted("~* -memory")
    theirs = settings.model_copy(update={"redis_url": settings.redis_url.replace("://", "://w:secret@")})
    assert ids(claim(theirs)) == [good]


@pytest.mark.parametrize("field", ["worker_name", keys.CRASHES, keys.SUSPECT, keys.SET_APART])
def test_a_lost_job_with_a_long_field_goes_back(settings: Settings, client: redis.Redis, field: str) -> None:
    (job_id,) = kit.submit(settings, frame())
    (job,) = claim(settings)
    client.hset(keys.rq_job(job_id), field, BIG)
    expire(client, job)
    keeper = kit.keeper(settings, Inflight(), worker="w2")
    used = commands_of(client, lambda: keeper.reap())
    assert "hmget" not in used, "the field was read"
    assert queued(client) + [item.decode() for item in client.lrange(keys.suspects("live"), 0, -1)] == [job_id]


def test_a_retry_does_not_read_a_long_field(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = kit.submit(settings, frame())
    (job,) = claim(settings)
    client.hset(keys.rq_job(job_id), "retries_left", BIG)
    finisher, batch, answers = kit.finisher(settings), [finished_job(settings, job, Disposition.RETRY)], []
    used = commands_of(client, lambda: answers.extend(finisher.finish(batch)))
    assert (answers, "hstrlen" in used) == ([True], True), "its length was not asked for"
    assert client.hget(keys.rq_job(job_id), "retries_left") == b"0"


def test_the_sweep_deletes_large_hashes_of_its_queues_only(settings: Settings, client: redis.Redis) -> None:
    client.hset(keys.rq_job("ours"), mapping=FIELDS | {"enqueued_at": HUGE})
    client.hset(keys.rq_job("theirs"), mapping=FIELDS | {"enqueued_at": HUGE, "origin": "reports"})
    client.set(keys.image("ours"), b"x")
    sweeping, swept = sweeper(settings), []
    used = commands_of(client, lambda: swept.append(sweeping.step()))
    assert swept == [Swept(0, 0, 1)]
    assert client.keys(f"{keys.rq_job('')}*") == [keys.rq_job("theirs").encode()]
    assert not client.exists(keys.image("ours"))
    assert not used & {"zcount", "lpos"}
    assert sweeping.step() == Swept(0, 0)


def test_the_list_of_missing_jobs_holds_no_long_fields(settings: Settings, client: redis.Redis) -> None:
    client.hset(keys.rq_job("odd"), mapping=FIELDS | {"started_at": b"x" * 100_000})
    sweeper(settings).step()
    ((entry, _),) = client.zrange(keys.missing(settings.queue_names), 0, -1, withscores=True)
    assert len(entry) < 300


@pytest.mark.parametrize("name", [keys.flow("live"), keys.load("live")])
def test_large_rates_of_a_queue_are_deleted(settings: Settings, client: redis.Redis, name: str) -> None:
    """Each call of a producer reads them."""
    client.hset(name, mapping={"needs_s": HUGE, "bytes": HUGE})
    reporting = Reporting(settings)
    reporting.step()
    assert client.memory_usage(name, samples=0) is None or client.memory_usage(name, samples=0) < 10_000


# times ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("asked", "default_s", "kept_s"),
    [
        ("", 900, 900),
        ("0", 900, 0),
        ("60", 900, 60),
        ("86400", 900, 86400),
        ("9999999999", 900, MAX_ASKED_TTL_S),
        ("-1", 900, MAX_ASKED_TTL_S),
        ("-1", 10**8, 10**8),
        ("9999999999", 10**8, 10**8),
    ],
)
def test_how_long_an_ended_job_is_kept(asked: str, default_s: int, kept_s: int) -> None:
    assert ttl_s(asked, default_s=default_s) == kept_s


@pytest.mark.parametrize("ttl", ["-1", "9999999999", None])
@pytest.mark.parametrize("disposition", [Disposition.SUCCESS, Disposition.FAILURE])
def test_no_ended_job_stays_forever(
    settings: Settings, client: redis.Redis, ttl: str | None, disposition: Disposition
) -> None:
    (job_id,) = kit.submit(settings, frame())
    client.hdel(keys.rq_job(job_id), "result_ttl", "failure_ttl")
    if ttl:
        client.hset(keys.rq_job(job_id), mapping={"result_ttl": ttl, "failure_ttl": ttl})
    (job,) = claim(settings)
    assert kit.finisher(settings).finish([finished_job(settings, job, disposition)]) == [True]
    for name in (keys.rq_job(job_id), keys.rq_results(job_id)):
        assert 0 < client.ttl(name) <= MAX_ASKED_TTL_S
    registry = (FinishedJobRegistry if disposition is Disposition.SUCCESS else FailedJobRegistry)("live", client)
    ((_, until),) = client.zrange(registry.key, 0, -1, withscores=True)
    assert 0 < until - kit.time.time() <= MAX_ASKED_TTL_S + 60


def test_the_sweep_lets_every_image_expire(settings: Settings, client: redis.Redis) -> None:
    client.set(keys.image("forged"), b"x")
    client.set(keys.image("ours"), b"x", ex=600)
    sweeper(settings).step()
    assert 0 < client.ttl(keys.image("forged")) <= 86400
    assert 0 < client.ttl(keys.image("ours")) <= 600
