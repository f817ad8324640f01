"""Admission: what is written, what is refused, and that RQ would have written the same."""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import redis
from rq import Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer

from producer import submit
from producer.frames import Frame, PreparedJob
from producer.queue_writer import CHUNK_BYTES, CHUNK_JOBS, JOB_TIMEOUT_S, WAKEUP_TOKENS, chunks
from producer.submit import LineProducer
from shared import keys
from shared.errors import BadSetting, QueueFull, RedisUnavailable
from shared.jobs import BYTES_FIELD, DEADLINE_FIELD, LINE_FIELD, MAX_ATTEMPTS_FIELD
from shared.schemas import ImageJob
from shared.settings import Settings
from tests.kit import run_python
from tests.producer.kit import arguments, jpeg

TIMES = {"created_at", "enqueued_at"}
# Some time of capture, long ago.
AT = 1_700_000_000.0


def frames(count: int, queue: str = "live") -> list[Frame]:
    return [
        Frame(data=jpeg(), line="line-1", camera="camera-1", frame_id=number, queue=queue) for number in range(count)
    ]


def bounded(settings: Settings, *, items: int) -> Settings:
    """A queue of so many jobs, all of which may be of one line."""
    return settings.model_copy(update={"queue_max_items": items, "line_share": 1.0})


def stored(client: redis.Redis) -> set[bytes]:
    """All keys but the one that counts arrivals."""
    return set(client.scan_iter()) - {keys.flow("live").encode()}


def connections(client: redis.Redis) -> set[str]:
    """The server's ids of its connections."""
    return {each["id"] for each in client.client_list()}


def snapshot(client: redis.Redis) -> dict[str, Any]:
    """Every key of RQ with its type, time to live and content."""
    readers = {b"hash": client.hgetall, b"list": lambda key: client.lrange(key, 0, -1), b"set": client.smembers}
    found = {}
    for key in client.scan_iter("rq:*"):
        kind = client.type(key)
        found[key.decode()] = (kind, client.ttl(key), readers[kind](key))
    return found


def as_rq_writes(client: redis.Redis, settings: Settings, ours: dict[str, Any], job_id: str) -> dict[str, Any]:
    """What RQ's own enqueue leaves for the same call, on an emptied server."""
    description = ours[keys.rq_job(job_id)][2][b"description"].decode()
    argument = arguments(client, job_id)
    client.flushall()
    retries = settings.max_attempts - 1
    Queue("live", connection=client, serializer=JSONSerializer).enqueue(
        "worker.tasks.sort_image",
        argument,
        retry=Retry(max=retries, enqueue_at_front=True) if retries else None,
        job_timeout=JOB_TIMEOUT_S,
        result_ttl=settings.result_ttl_s,
        failure_ttl=settings.failure_ttl_s,
        description=description,
        job_id=job_id,
    )
    return snapshot(client)


def comparable(found: dict[str, Any]) -> dict[str, Any]:
    """The snapshot without everything that depends on the moment, or on how the same JSON is written."""
    for kind, _, fields in found.values():
        if kind == b"hash":
            fields[b"data"] = json.loads(zlib.decompress(fields[b"data"]))
            for name in TIMES:
                datetime.strptime(fields[name.encode()].decode(), "%Y-%m-%dT%H:%M:%S.%fZ")
                fields[name.encode()] = b"a time"
    return found


@pytest.mark.parametrize("max_attempts", [1, 3])
def test_redis_holds_what_rq_itself_would_have_written(
    client: redis.Redis, settings: Settings, max_attempts: int
) -> None:
    settings = settings.model_copy(update={"max_attempts": max_attempts})
    job_id = LineProducer(settings).submit(jpeg(), line="line-1", camera="camera-1", frame_id=7, deadline_ms=100)
    ours = snapshot(client)
    theirs = as_rq_writes(client, settings, ours, job_id)
    fields = ours[keys.rq_job(job_id)][2]
    assert fields.pop(MAX_ATTEMPTS_FIELD.encode()) == str(max_attempts).encode()
    assert fields.pop(LINE_FIELD.encode()) == b"line-1"
    assert fields.pop(BYTES_FIELD.encode()) == str(len(jpeg())).encode()
    assert (
        abs(
            float(fields.pop(DEADLINE_FIELD.encode()))
            - json.loads(zlib.decompress(fields[b"data"]))[2][0]["deadline_at"]
        )
        < 1e-5
    )
    assert comparable(ours) == comparable(theirs)


def test_many_jobs_of_one_call_differ_only_where_they_should(client: redis.Redis, settings: Settings) -> None:
    first, second = LineProducer(settings).submit_many(frames(2))
    one, other = client.hgetall(keys.rq_job(first)), client.hgetall(keys.rq_job(second))
    assert {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} == {b"data", b"description"}


def test_the_job_says_all_that_was_submitted(client: redis.Redis, settings: Settings) -> None:
    data = jpeg()
    job_id = LineProducer(settings).submit(
        data, line="line-1", camera="top", frame_id="f-7", encoder_count=4711, captured_at=AT + 0.5, deadline_ms=80
    )
    job = ImageJob.model_validate(arguments(client, job_id))
    assert (job.job_id, job.line, job.camera, job.frame_id, job.encoder_count) == (job_id, "line-1", "top", "f-7", 4711)
    assert (job.captured_at, job.deadline_at, job.content_type) == (AT + 0.5, AT + 0.58, "image/jpeg")
    assert client.get(job.image_key) == data
    assert job.sha256 == hashlib.sha256(data).hexdigest()
    assert 0 < client.ttl(job.image_key) <= settings.image_ttl_s


def test_a_job_has_all_fields_and_no_other(client: redis.Redis, settings: Settings) -> None:
    job_id = LineProducer(settings).submit(jpeg(), line="line-1", camera="top")
    assert arguments(client, job_id).keys() == ImageJob.model_fields.keys()


def test_capture_is_now_unless_told(client: redis.Redis, settings: Settings) -> None:
    job_id = LineProducer(settings, clock=lambda: AT + 0.25).submit(jpeg(), line="line-1", camera="top")
    assert arguments(client, job_id)["captured_at"] == AT + 0.25
    assert arguments(client, job_id)["deadline_at"] is None


def test_ids_come_back_in_order_over_many_round_trips_and_queues(client: redis.Redis, settings: Settings) -> None:
    mixed = [
        Frame(data=jpeg(), line="line-1", camera="c", frame_id=number, queue=("live", "bulk")[number % 2])
        for number in range(2 * CHUNK_JOBS + 10)
    ]
    job_ids = LineProducer(settings).submit_many(mixed)
    assert [arguments(client, job_id)["frame_id"] for job_id in job_ids] == list(range(len(mixed)))
    assert client.lrange(keys.rq_queue("live"), 0, -1) == [job_id.encode() for job_id in job_ids[::2]]
    assert client.lrange(keys.rq_queue("bulk"), 0, -1) == [job_id.encode() for job_id in job_ids[1::2]]
    assert client.smembers(keys.RQ_QUEUES) == {b"rq:queue:live", b"rq:queue:bulk"}


def test_a_full_queue_refuses_and_nothing_is_written(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(bounded(settings, items=3))
    producer.submit_many(frames(2))
    before = stored(client)
    with pytest.raises(QueueFull, match=r"'live' holds 2 jobs, and its limit is 3 .* no room for 2 more") as refusal:
        producer.submit_many(frames(2))
    assert refusal.value.accepted == ()
    assert stored(client) == before
    producer.submit_many(frames(1))  # the bound itself is reached
    producer.submit_many(frames(3, queue="bulk"))  # each queue has its own
    with pytest.raises(QueueFull, match="holds 3 jobs"):
        producer.submit(jpeg(), line="line-1", camera="c")


def test_a_call_of_many_round_trips_is_refused_before_the_first(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(bounded(settings, items=CHUNK_JOBS + 5))
    with pytest.raises(QueueFull):
        producer.submit_many(frames(CHUNK_JOBS + 6))
    assert stored(client) == set()


def test_a_lost_race_names_what_was_accepted(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bounded(settings, items=4)

    def interrupted(jobs: list[PreparedJob]) -> Iterator[list[PreparedJob]]:
        yield jobs[:1]
        client.rpush(keys.rq_queue("live"), "another producer's")
        yield jobs[1:3]
        yield jobs[3:]

    producer = LineProducer(settings)
    jobs = [producer.prepare(frame) for frame in frames(4)]
    monkeypatch.setattr(submit, "chunks", interrupted)
    with pytest.raises(QueueFull, match="no room for 3 more") as refusal:
        producer.send(jobs)
    assert refusal.value.accepted == (jobs[0].job_id,), "two more would fit, but all three were asked for"
    assert client.llen(keys.rq_queue("live")) == 2


def test_a_partial_send_enqueues_the_first_that_fit(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(bounded(settings, items=CHUNK_JOBS + 2))
    jobs = [producer.prepare(frame) for frame in frames(CHUNK_JOBS + 5)]
    before = len(stored(client))
    with pytest.raises(QueueFull, match="no room for 3 more") as refusal:
        producer.send(jobs, partial=True)
    fit = [job.job_id for job in jobs[: CHUNK_JOBS + 2]]
    assert list(refusal.value.accepted) == fit
    assert [job_id.decode() for job_id in client.lrange(keys.rq_queue("live"), 0, -1)] == fit
    # A hash and an image for each; the queue, its load, the set of queues and the wakeup list.
    assert len(stored(client)) - before == 2 * len(fit) + 4
    assert all(client.ttl(keys.image(job_id)) > 0 for job_id in fit)
    # When all are sent again, the accepted ones stay, and the next one takes the place that has become free.
    client.ltrim(keys.rq_queue("live"), 1, -1)
    with pytest.raises(QueueFull, match="no room for 2 more") as refusal:
        producer.send(jobs, partial=True)
    assert list(refusal.value.accepted) == [job.job_id for job in jobs[: CHUNK_JOBS + 3]]


def test_a_queue_above_a_bound_that_was_lowered_takes_none(client: redis.Redis, settings: Settings) -> None:
    LineProducer(settings).submit_many(frames(4))
    lowered = LineProducer(bounded(settings, items=2))
    with pytest.raises(QueueFull, match="holds 4 jobs, and its limit is 2") as refusal:
        lowered.send([lowered.prepare(frame) for frame in frames(2)], partial=True)
    assert refusal.value.accepted == ()
    assert client.llen(keys.rq_queue("live")) == 4


def test_sending_again_changes_nothing(client: redis.Redis, settings: Settings) -> None:
    """The client library repeats a call whose answer was lost; so do cameras."""
    producer = LineProducer(bounded(settings, items=3))
    jobs = [producer.prepare(frame) for frame in frames(3)]
    producer.send(jobs[:2])
    client.hset(keys.rq_job(jobs[0].job_id), "status", "started")  # a worker has it meanwhile
    producer.send(jobs)  # only the third needs a place
    assert client.lrange(keys.rq_queue("live"), 0, -1) == [job.job_id.encode() for job in jobs]
    assert client.hget(keys.rq_job(jobs[0].job_id), "status") == b"started"
    for job in jobs:
        assert client.get(keys.image(job.job_id)) == job.image
        assert 0 < client.ttl(keys.image(job.job_id)) <= settings.image_ttl_s


def test_sending_a_finished_job_again_leaves_no_image_behind(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(settings)
    (job,) = (producer.prepare(frame) for frame in frames(1))
    producer.send([job])
    client.hset(keys.rq_job(job.job_id), "status", "finished")
    client.delete(keys.image(job.job_id), keys.rq_queue("live"))
    producer.send([job])
    assert not client.exists(keys.image(job.job_id), keys.rq_queue("live"))


def test_big_images_go_in_calls_of_their_own(settings: Settings) -> None:
    producer = LineProducer(settings)
    big = jpeg() + b"\0" * (CHUNK_BYTES // 2)
    jobs = [producer.prepare(Frame(data=data, line="l", camera="c")) for data in (big, big, jpeg(), jpeg())]
    assert [len(chunk) for chunk in chunks(jobs)] == [1, 3]


def test_wakeup_tokens_are_pushed_and_their_list_stays_short(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(settings)
    producer.submit(jpeg(), line="line-1", camera="c", queue="bulk")
    assert client.lrange(keys.wakeup("bulk"), 0, -1) == [b"1"]
    producer.submit_many(frames(3 * WAKEUP_TOKENS))
    assert client.llen(keys.wakeup("live")) == WAKEUP_TOKENS


def test_no_image_stays_for_ever_on_a_server_that_lost_the_functions(client: redis.Redis, settings: Settings) -> None:
    """Not even if the producer is not allowed to load the script."""
    client.acl_setuser("camera", enabled=True, nopass=True, keys="*", commands=["+@all", "-script"])
    producer = LineProducer(Settings(redis_url=settings.redis_url.replace("://", "://camera:x@")))
    try:
        for count in (1, 2):
            client.script_flush()
            producer.submit(jpeg(), line="line-1", camera="c")
            images = list(client.scan_iter(keys.image("*")))
            assert client.llen(keys.rq_queue("live")) == len(images) == count
            assert all(client.ttl(image) > 0 for image in images)
    finally:
        client.acl_deluser("camera")


def test_a_server_without_memory_refuses_and_nothing_is_written(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(settings)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(QueueFull, match=r"its memory is full.*lower result_ttl_s"):
            producer.submit(jpeg(), line="line-1", camera="c")
    finally:
        client.config_set("maxmemory", 0)
    assert client.dbsize() == 0


def test_a_server_that_became_a_replica_is_away_and_connected_to_anew(client: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(settings)
    others = connections(client)
    producer.submit(jpeg(), line="line-1", camera="c")
    (used,) = connections(client) - others
    client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(RedisUnavailable, match="is a replica"):
            producer.submit(jpeg(), line="line-1", camera="c")
    finally:
        client.replicaof("NO", "ONE")
    producer.submit(jpeg(), line="line-1", camera="c")
    assert used not in connections(client)
    assert client.llen(keys.rq_queue("live")) == 2


def test_a_missing_right_is_a_setting_to_fix(client: redis.Redis, settings: Settings) -> None:
    client.acl_setuser("camera", enabled=True, nopass=True, keys="*", commands=["+@all", "-set"])
    producer = LineProducer(Settings(redis_url=settings.redis_url.replace("://", "://camera:x@")))
    try:
        with pytest.raises(BadSetting, match="'set' command"):
            producer.submit(jpeg(), line="line-1", camera="c")
    finally:
        client.acl_deluser("camera")
    assert client.dbsize() == 0


def test_an_absent_server_is_named_without_its_password() -> None:
    producer = LineProducer(Settings(redis_url="redis://user:secret@127.0.0.1:1/0"))
    with pytest.raises(RedisUnavailable, match=r"redis://user:\*\*\*@127\.0\.0\.1:1/0") as away:
        producer.submit(jpeg(), line="line-1", camera="c")
    assert "secret" not in str(away.value)


def test_rq_reads_our_jobs(client: redis.Redis, settings: Settings) -> None:
    before = time.time()
    job_id = LineProducer(settings).submit(jpeg(), line="line-1", camera="c")
    job = Job.fetch(job_id, connection=client, serializer=JSONSerializer)
    assert (job.func_name, job.origin, job.kwargs, job.retries_left) == ("worker.tasks.sort_image", "live", {}, 2)
    assert job.enqueued_at is not None and before - 1 < job.enqueued_at.timestamp() < before + 60
    assert Queue("live", connection=client, serializer=JSONSerializer).job_ids == [job_id]


def test_a_producer_starts_without_rq_and_the_package_without_anything() -> None:
    code = (
        "import sys, producer; assert not {'redis', 'pydantic', 'numpy'} & set(sys.modules), 'package';"
        "producer.LineProducer;"
        "heavy = {'rq', 'tensorflow', 'matplotlib', 'inotify_simple', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    run_python(code)


def test_the_package_has_no_other_names() -> None:
    import producer

    with pytest.raises(AttributeError, match="Nonsense"):
        _ = producer.Nonsense  # type: ignore[attr-defined]
