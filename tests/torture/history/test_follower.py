"""The follower, on a real server: what it reads, what it checks, and what it must not miss."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis

from producer import Frame, LineProducer
from shared import keys
from shared.settings import Settings
from tests.worker import kit
from torture.history.follower import Follower


@pytest.fixture
def follower(settings: Settings) -> Iterator[Follower]:
    follower = Follower(settings.redis_url, queues=settings.queue_names)
    follower.start()
    yield follower
    follower.stop()


def sort(settings: Settings, count: int) -> list[str]:
    """Have `count` images sorted by a worker in this process. Returns their job ids."""
    job_ids = LineProducer(settings).submit_many(
        [Frame(data=kit.picture(number), line="line-1", camera="camera-1", frame_id=number) for number in range(count)]
    )
    assert kit.run_service(settings, kit.ToneEngine(), name="w1") == 0
    return job_ids


def test_reads_each_result_and_finds_rq_to_agree(follower: Follower, settings: Settings) -> None:
    job_ids = sort(settings, 5)
    observed = follower.stop()
    assert observed.entries.keys() == set(job_ids)
    assert {entry.order[:3] for (entry,) in observed.entries.values()} == {("line-1", "camera-1", n) for n in range(5)}
    assert {(entry.outcome, entry.worker, entry.attempt) for (entry,) in observed.entries.values()} == {
        ("sorted", "w1", 1)
    }
    assert not observed.disagreements
    assert not observed.unreadable
    assert not observed.missed


def test_sees_a_second_result(follower: Follower, settings: Settings, client: redis.Redis) -> None:
    (job_id,) = sort(settings, 1)
    stream = keys.results("line-1")
    (_, fields) = client.xrange(stream)[0]
    client.xadd(stream, fields)
    assert len(follower.stop().entries[job_id]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda client, job_id: client.hset(keys.rq_job(job_id), "status", "started"),
        lambda client, job_id: client.zadd("rq:failed:live", {job_id: 1}),
        lambda client, job_id: client.zrem("rq:finished:live", job_id),
        lambda client, job_id: client.delete(keys.rq_job(job_id)),
    ],
    ids=["status", "two registries", "no registry", "no job"],
)
def test_finds_where_rq_disagrees(settings: Settings, client: redis.Redis, spoil: object) -> None:
    (job_id,) = sort(settings, 1)
    assert callable(spoil)
    spoil(client, job_id)
    follower = Follower(settings.redis_url, queues=settings.queue_names)
    follower.start()
    assert follower.stop().disagreements.keys() == {job_id}


@pytest.mark.slow
def test_finds_what_is_no_result(follower: Follower, settings: Settings, client: redis.Redis) -> None:
    sort(settings, 1)
    for fields in ({"result": "{"}, {"result": "[]"}, {"result": "{}"}, {"other": "1"}):
        client.xadd(keys.results("line-1"), fields)
    assert len(follower.stop().unreadable) == 4


@pytest.mark.slow
def test_says_what_was_trimmed_before_it_was_read(settings: Settings, client: redis.Redis) -> None:
    sort(settings, 5)
    client.xtrim(keys.results("line-1"), maxlen=2, approximate=False)
    follower = Follower(settings.redis_url, queues=settings.queue_names)
    follower.start()
    assert follower.stop().missed == 3


@pytest.mark.slow
def test_what_it_read_may_be_trimmed(follower: Follower, settings: Settings, client: redis.Redis) -> None:
    sort(settings, 5)
    kit.wait_until(lambda: len(follower.observed.entries) == 5, "it has read them all")
    client.xtrim(keys.results("line-1"), maxlen=2, approximate=False)
    sort(settings, 1)
    observed = follower.stop()
    assert (len(observed.entries), observed.missed) == (6, 0)


@pytest.mark.slow
def test_goes_on_after_its_connection_was_cut(follower: Follower, settings: Settings, client: redis.Redis) -> None:
    sort(settings, 1)
    kit.wait_until(lambda: follower.observed.entries, "it follows")
    client.client_kill_filter(_type="normal", skipme=True)
    job_ids = sort(settings, 2)
    assert set(job_ids) <= follower.stop().entries.keys()


@pytest.mark.slow
def test_reads_on_where_the_server_lost_its_data(follower: Follower, settings: Settings, client: redis.Redis) -> None:
    before = sort(settings, 3)
    kit.wait_until(lambda: len(follower.observed.entries) == 3, "it has read them all")
    client.flushall()
    after = sort(settings, 1)
    observed = follower.stop()
    assert observed.entries.keys() == {*before, *after}
    assert not observed.missed


# what was moved ────────────────────────────────────────────────────────────────────────────────────


def result(job_id: str) -> dict[str, str]:
    """An entry of a line's stream."""
    fields = (
        "line",
        "camera",
        "frame_id",
        "encoder_count",
        "captured_at",
        "finished_at",
        "deadline_margin_ms",
        "attempt",
        "worker",
        "error",
    )
    return {"result": json.dumps(dict.fromkeys(fields) | {"job_id": job_id, "outcome": "sorted"})}


def test_a_stream_that_was_moved_is_read_where_it_is_and_no_entry_twice(
    follower: Follower, client: redis.Redis
) -> None:
    """`a` was read before the move, `b` was not, and `c` is in the stream that was begun anew."""
    stream = keys.results("line-1")
    client.sadd(keys.LINES, "line-1")
    client.xadd(stream, result("a"))
    kit.wait_until(lambda: "a" in follower.observed.entries, "it has read the first")
    with client.pipeline() as pipeline:
        pipeline.xadd(stream, result("b"))
        pipeline.rename(stream, "aside")
        pipeline.set(stream, "forged")
        pipeline.execute()
    follower.read_moved_stream("aside", stream=stream)
    client.delete(stream)
    client.xadd(stream, result("c"))
    kit.wait_until(lambda: len(follower.observed.entries) == 3, "it has read them all")
    entries = follower.stop().entries
    assert {job_id: len(found) for job_id, found in entries.items()} == {"a": 1, "b": 1, "c": 1}


def test_a_stream_that_had_used_up_its_ids_is_read_on_when_it_is_begun_anew(
    follower: Follower, client: redis.Redis
) -> None:
    stream = keys.results("line-1")
    client.sadd(keys.LINES, "line-1")
    client.xadd(stream, result("a"), id="18446744073709551615-18446744073709551615")
    kit.wait_until(lambda: "a" in follower.observed.entries, "it has read the last id")
    client.delete(stream)
    client.xadd(stream, result("b"))
    kit.wait_until(lambda: "b" in follower.observed.entries, "it reads on")


def test_a_registry_that_was_moved_counts(settings: Settings, client: redis.Redis) -> None:
    client.sadd(keys.LINES, "line-1")
    client.xadd(keys.results("line-1"), result("a"))
    client.hset(keys.rq_job("a"), "status", "finished")
    client.zadd("aside", {"a": 1})
    follower = Follower(settings.redis_url, queues=settings.queue_names)
    follower.read_moved_registry("aside", registry="finished")
    follower.start()
    assert not follower.stop().disagreements
