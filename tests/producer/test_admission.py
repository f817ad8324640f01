"""The bounds of a queue: in items, bytes and expected wait, for all lines together and for each; and deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from rq import Queue

from producer import congestion
from producer.frames import Frame, PreparedJob
from producer.queue_writer import Demand, QueueWriter
from producer.submit import LineProducer
from shared import keys
from shared.arrivals import arrival_rate
from shared.clock import ServerClock
from shared.errors import Bound, QueueFull, RedisUnavailable
from shared.settings import Settings
from tests.producer.kit import jpeg

IMAGE_BYTES = len(jpeg())


def server_now(client: redis.Redis) -> float:
    seconds, microseconds = client.time()
    return float(seconds + microseconds / 1e6)


def report_rate(client: redis.Redis, images_per_s: float, *, needs_s: float = 0.05, age_s: float = 0.0) -> None:
    """What the workers write once a second, for the queue `live`."""
    at = server_now(client) - age_s
    client.hset(keys.flow("live"), mapping={"capacity": images_per_s, "needs_s": needs_s, "capacity_at": at})


def make(producer: LineProducer, count: int, *, line: str = "line-1", deadline_ms: float | None = None) -> list[Any]:
    frame = Frame(data=jpeg(), line=line, camera="c", deadline_ms=deadline_ms)
    return [producer.prepare(frame) for _ in range(count)]


def send(producer: LineProducer, jobs: Sequence[PreparedJob]) -> tuple[int, QueueFull | None]:
    """How many of the jobs were accepted, and the refusal of the others."""
    try:
        producer.send(jobs, partial=True)
    except QueueFull as refusal:
        assert {*refusal.accepted, *refusal.refused} == {job.job_id for job in jobs}
        assert len(refusal.accepted) + len(refusal.refused) == len(jobs)
        return len(refusal.accepted), refusal
    return len(jobs), None


def with_settings(settings: Settings, **changed: Any) -> LineProducer:
    return LineProducer(settings.model_copy(update=changed))


def load(client: redis.Redis) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in client.hgetall(keys.load("live")).items()}


def calls(client: redis.Redis, command: str) -> int:
    """How often the server has run a command."""
    return int(client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def test_bytes_are_bounded_whatever_the_images_size(client: redis.Redis, settings: Settings) -> None:
    producer = with_settings(settings, queue_max_bytes=3 * IMAGE_BYTES, line_share=1.0)
    accepted, refusal = send(producer, make(producer, 5))
    assert accepted == 3 and refusal is not None
    assert set(refusal.refused.values()) == {Bound.BYTES}
    assert "KB (queue_max_bytes): there is no room for 2 more. No worker listens" in str(refusal)
    assert load(client)["bytes"] == 3 * IMAGE_BYTES


def test_an_image_above_the_bound_in_bytes_is_taken_alone(client: redis.Redis, settings: Settings) -> None:
    """Otherwise it could never be sorted."""
    producer = with_settings(settings, queue_max_bytes=1)
    jobs = make(producer, 2)
    assert send(producer, jobs)[0] == 1


def test_all_or_none_counts_the_bytes_of_all_calls(client: redis.Redis, settings: Settings) -> None:
    producer = with_settings(settings, queue_max_bytes=70 * IMAGE_BYTES, line_share=1.0)
    with pytest.raises(QueueFull) as refusal:
        producer.send(make(producer, 71))
    assert refusal.value.bound is Bound.BYTES and refusal.value.accepted == ()
    assert not client.exists(keys.rq_queue("live"))
    producer.send(make(producer, 70))


def test_a_line_gets_its_share_and_leaves_the_rest_to_the_others(client: redis.Redis, settings: Settings) -> None:
    producer = with_settings(settings, queue_max_items=10)
    accepted, refusal = send(producer, make(producer, 9, line="greedy"))
    assert accepted == 5 and refusal is not None and refusal.bound is Bound.LINE
    assert "line 'greedy' has 5 jobs (" in str(refusal)
    assert "in queue 'live', and may have 50% (line_share) of 10 jobs (queue_max_items): there is no" in str(refusal)
    assert send(producer, make(producer, 3, line="second"))[0] == 3
    accepted, refusal = send(producer, make(producer, 3, line="third"))
    assert accepted == 2 and refusal is not None and refusal.bound is Bound.ITEMS


def test_a_line_gets_its_share_of_the_bytes(client: redis.Redis, settings: Settings) -> None:
    producer = with_settings(settings, queue_max_bytes=10 * IMAGE_BYTES)
    assert send(producer, make(producer, 9, line="greedy"))[0] == 5
    assert send(producer, make(producer, 9, line="other"))[0] == 5


def test_one_line_at_its_bound_does_not_stop_another_of_the_same_call(client: redis.Redis, settings: Settings) -> None:
    producer = with_settings(settings, queue_max_items=4)
    mixed = [*make(producer, 4, line="greedy"), *make(producer, 2, line="other")]
    accepted, refusal = send(producer, mixed)
    assert accepted == 4 and refusal is not None
    assert refusal.accepted == tuple(job.job_id for job in (*mixed[:2], *mixed[4:]))
    assert refusal.refused == {job.job_id: Bound.LINE for job in mixed[2:4]}


def test_the_expected_wait_is_bounded(client: redis.Redis, settings: Settings) -> None:
    report_rate(client, 2.0)
    producer = with_settings(settings, queue_max_wait_s=3.0, line_share=1.0)
    accepted, refusal = send(producer, make(producer, 20))
    assert accepted == 7 and refusal is not None and refusal.bound is Bound.WAIT  # 6 jobs before it are 3 s
    assert "would wait for 4 s, and the limit is 3 s (queue_max_wait_s): 7 jobs wait." in str(refusal)
    assert refusal.retry_after_s == pytest.approx(0.5)  # until one job more has been sorted


def test_a_deadline_that_cannot_be_met_is_refused_at_the_door(client: redis.Redis, settings: Settings) -> None:
    report_rate(client, 10.0, needs_s=0.1)
    producer = with_settings(settings, line_share=1.0)
    accepted, refusal = send(producer, make(producer, 20, deadline_ms=60_000))
    assert (accepted, refusal) == (20, None)
    accepted, refusal = send(producer, make(producer, 1, deadline_ms=1_500))
    assert accepted == 0 and refusal is not None and refusal.bound is Bound.DEADLINE
    assert (
        "an image can't be answered by the deadline: 20 jobs wait in queue 'live', which takes about 2,000 ms. No"
        in (str(refusal))
    )
    assert 0.4 < refusal.retry_after_s < 0.8  # 2.0 s for the jobs before it and 0.1 s for itself, less 1.5 s
    assert send(producer, make(producer, 1, deadline_ms=60_000))[0] == 1
    assert send(producer, make(producer, 1))[0] == 1, "without a deadline it waits"


def test_an_image_that_need_not_wait_is_never_refused_for_its_deadline(client: redis.Redis, settings: Settings) -> None:
    """The workers' figures may be wrong; an idle worker shows it."""
    report_rate(client, 0.001, needs_s=100.0)
    producer = with_settings(settings)
    assert send(producer, make(producer, 1, deadline_ms=100))[0] == 1


def test_a_deadline_that_has_passed_is_not_the_queues_doing(client: redis.Redis, settings: Settings) -> None:
    """A worker answers it `expired`, as for a camera with `--too-old expire`."""
    report_rate(client, 10.0)
    producer = with_settings(settings)
    producer.send(make(producer, 3))
    old = producer.prepare(
        Frame(data=jpeg(), line="line-1", camera="c", captured_at=server_now(client) - 60, deadline_ms=100)
    )
    assert send(producer, [old])[0] == 1


@pytest.mark.parametrize("deadline_ms", [2_000, 60_000, None])
def test_of_the_places_before_the_shortest_deadline_a_line_gets_its_share(
    client: redis.Redis, settings: Settings, deadline_ms: float | None
) -> None:
    """Also a line without a deadline: its images would go before those of the others."""
    report_rate(client, 10.0, needs_s=0.0)
    producer = with_settings(settings)
    assert send(producer, make(producer, 1, line="other", deadline_ms=2_000))[0] == 1  # 20 places
    accepted, refusal = send(producer, make(producer, 30, line="greedy", deadline_ms=deadline_ms))
    assert refusal is not None and set(refusal.refused.values()) == {Bound.LINE}
    assert "50% (line_share) of the 19 jobs that can be sorted before the shortest deadline: there is" in str(refusal)
    assert accepted == 10
    assert send(producer, make(producer, 5, line="other", deadline_ms=2_000))[0] == 5


def test_a_line_that_is_alone_gets_all_places_before_its_deadline(client: redis.Redis, settings: Settings) -> None:
    report_rate(client, 10.0, needs_s=0.0)
    producer = with_settings(settings)
    accepted, refusal = send(producer, make(producer, 30, deadline_ms=2_000))
    assert refusal is not None and set(refusal.refused.values()) == {Bound.DEADLINE}
    assert 19 <= accepted <= 20


def test_a_line_has_its_part_of_the_places_in_workers_too(client: redis.Redis, settings: Settings) -> None:
    """Under overload the workers hold most jobs, and hardly any wait."""
    report_rate(client, 10.0, needs_s=0.0)
    producer = with_settings(settings)
    send(producer, make(producer, 1, line="other", deadline_ms=2_000))
    send(producer, make(producer, 10, line="greedy", deadline_ms=2_000))
    taken = client.lpop(keys.rq_queue("live"), 11)
    assert taken is not None
    client.zadd(keys.rq_wip("live"), {f"{job_id.decode()}:x": server_now(client) + 60 for job_id in taken})
    accepted, refusal = send(producer, make(producer, 1, line="greedy", deadline_ms=2_000))
    assert accepted == 0 and refusal is not None and refusal.bound is Bound.LINE
    assert send(producer, make(producer, 1, line="other", deadline_ms=2_000))[0] == 1


def test_after_rq_has_deleted_most_jobs_no_line_is_blamed(client: redis.Redis, settings: Settings) -> None:
    """Under overload the queue may never be empty, where all counts would start again."""
    producer = with_settings(settings, queue_max_items=200)
    assert send(producer, make(producer, 90, line="emptied"))[0] == 90
    send(producer, make(producer, 60, line="other"))
    for job_id in Queue("live", connection=client).job_ids[:90]:
        client.lrem(keys.rq_queue("live"), 1, job_id)
    assert send(producer, make(producer, 90, line="emptied"))[0] == 90
    held = {name: count for name, count in load(client).items() if name.startswith("items")}
    assert held == {"items": 150, "items:emptied": 90}


def test_an_idle_worker_needs_no_more_than_the_wait(client: redis.Redis, settings: Settings) -> None:
    """What a busy worker needs says nothing while no worker holds a job."""
    report_rate(client, 1_000.0, needs_s=100.0)
    producer = with_settings(settings)
    assert send(producer, make(producer, 4, deadline_ms=1_000))[0] == 4
    client.zadd(keys.rq_wip("live"), {"some:job": server_now(client) + 60})
    accepted, refusal = send(producer, make(producer, 1, deadline_ms=1_000))
    assert accepted == 0 and refusal is not None and refusal.bound is Bound.DEADLINE


def test_wrong_figures_refuse_no_image_that_need_not_wait(client: redis.Redis, settings: Settings) -> None:
    report_rate(client, 1e-9, needs_s=1e9)
    producer = with_settings(settings, queue_max_wait_s=1.0)
    client.zadd(keys.rq_wip("live"), {"some:job": server_now(client) + 60})
    assert send(producer, make(producer, 1, deadline_ms=100))[0] == 1


@pytest.mark.parametrize("age_s", [11.0, 3600.0, -3600.0])
def test_a_rate_that_nobody_renews_refuses_nothing(client: redis.Redis, settings: Settings, age_s: float) -> None:
    report_rate(client, 0.001, age_s=age_s)
    producer = with_settings(settings, queue_max_wait_s=1.0)
    assert send(producer, make(producer, 20, deadline_ms=100))[0] == 20


def test_a_congested_queue_is_asked_before_bytes_are_sent(client: redis.Redis, settings: Settings) -> None:
    producer = with_settings(settings, queue_max_items=4, line_share=1.0)
    assert send(producer, make(producer, 5))[0] == 4
    sent = calls(client, "set")
    accepted, refusal = send(producer, make(producer, 3))
    assert accepted == 0 and refusal is not None and refusal.bound is Bound.ITEMS
    assert calls(client, "set") == sent, "no image was sent"
    client.ltrim(keys.rq_queue("live"), 3, -1)  # workers take three
    assert send(producer, make(producer, 2))[0] == 2
    assert calls(client, "set") == sent + 2, "each image of the call is written"
    assert send(producer, make(producer, 2))[0] == 1, "what the queue answers when asked is checked again"


def test_all_that_arrive_are_counted_once(client: redis.Redis, settings: Settings) -> None:
    producer = with_settings(settings, queue_max_items=4, line_share=1.0)
    jobs = make(producer, 6)
    send(producer, jobs)  # refused by the script that enqueues
    send(producer, make(producer, 3))  # refused when asked
    send(producer, jobs)  # sent again: two were refused before, and four are enqueued
    names = ("arrived", "arrived_for", "arrived_at")
    fields = {name: float(value) for name, value in zip(names, client.hmget(keys.flow("live"), names), strict=True)}
    assert fields["arrived"] == pytest.approx(6 + 3, rel=0.05)
    now = fields["arrived_at"] + 15.0
    rate = arrival_rate(
        arrived=fields["arrived"], arrived_for=fields["arrived_for"], arrived_at=fields["arrived_at"], now=now
    )
    assert 0 < rate < 9 / 15
    assert 0 < client.ttl(keys.flow("live")) <= 3600


def test_counts_follow_rqs_own_tools(client: redis.Redis, settings: Settings) -> None:
    """RQ's tools don't know the counts: these are scaled, and start again when the queue is empty."""
    producer = with_settings(settings, queue_max_bytes=4 * IMAGE_BYTES, line_share=1.0)
    assert send(producer, make(producer, 5))[0] == 4
    for job_id in Queue("live", connection=client).job_ids[:2]:
        client.lrem(keys.rq_queue("live"), 1, job_id)
    assert send(producer, make(producer, 3))[0] == 2
    Queue("live", connection=client).empty()
    assert send(producer, make(producer, 5))[0] == 4
    assert load(client) == {
        "items": 4,
        "bytes": 4 * IMAGE_BYTES,
        "items:line-1": 4,
        "bytes:line-1": 4 * IMAGE_BYTES,
    }


@pytest.mark.parametrize("content", ["text", "fields"])
@pytest.mark.parametrize("name", ["load", "flow"])
def test_counts_that_cannot_be_used_are_replaced(
    client: redis.Redis, settings: Settings, name: str, content: str
) -> None:
    key = getattr(keys, name)("live")
    if content == "text":
        client.set(key, "text")
    else:
        fields = ("items", "bytes", "items:line-1", "capacity", "capacity_at", "arrived", "arrived_at", "needs_s")
        client.hset(key, mapping=dict.fromkeys(fields, "much"))
    producer = with_settings(settings)
    for _ in range(2):
        assert send(producer, make(producer, 2, deadline_ms=1000))[0] == 2
    assert load(client)["items"] in (2, 4)


def test_an_all_or_none_call_names_the_bound_of_the_first(client: redis.Redis, settings: Settings) -> None:
    report_rate(client, 10.0)
    producer = with_settings(settings, line_share=1.0)
    producer.send(make(producer, 20))
    jobs = [*make(producer, 1, deadline_ms=60_000), *make(producer, 1, deadline_ms=100)]
    with pytest.raises(QueueFull) as refusal:
        producer.send(jobs)
    assert refusal.value.refused == {job.job_id: Bound.DEADLINE for job in jobs}
    assert client.llen(keys.rq_queue("live")) == 20


@pytest.mark.parametrize(
    ("limits", "deadline_ms", "bound"),
    [({"queue_max_wait_s": 8.0, "line_share": 1.0}, None, Bound.WAIT), ({}, 8_000, Bound.DEADLINE)],
)
def test_all_or_none_counts_the_wait_of_all_calls(
    client: redis.Redis, settings: Settings, limits: dict[str, float], deadline_ms: float | None, bound: Bound
) -> None:
    """At 10 images a second, the last of 130 images waits for 13 s."""
    report_rate(client, 10.0)
    producer = with_settings(settings, **limits)
    jobs = make(producer, 130, deadline_ms=deadline_ms)
    with pytest.raises(QueueFull) as refusal:
        producer.send(jobs)
    assert refusal.value.bound is bound and refusal.value.accepted == ()
    assert not client.exists(keys.rq_queue("live"))
    arrived = client.hget(keys.flow("live"), "arrived")
    assert arrived is not None and float(arrived) == pytest.approx(130, rel=0.01)
    producer.send(make(producer, 70, deadline_ms=deadline_ms))


def test_lines_are_congested_one_by_one(client: redis.Redis, settings: Settings) -> None:
    producer = with_settings(settings, queue_max_items=10)
    send(producer, make(producer, 6, line="full"))
    sent = calls(client, "set")
    for _ in range(3):
        assert send(producer, make(producer, 1, line="full"))[0] == 0
        assert send(producer, make(producer, 1, line="other"))[0] == 1
    assert calls(client, "set") == sent + 3, "no image of the full line was sent"


def test_jobs_that_nobody_counted_are_no_lines(client: redis.Redis, settings: Settings) -> None:
    """E.g. failed jobs that were requeued."""
    client.rpush(keys.rq_queue("live"), *[f"job-{number}" for number in range(60)])
    producer = with_settings(settings, queue_max_items=100)
    assert send(producer, make(producer, 1, line="innocent"))[0] == 1
    assert send(producer, make(producer, 39, line="innocent"))[0] == 39
    accepted, refusal = send(producer, make(producer, 1, line="innocent"))
    assert accepted == 0 and refusal is not None and refusal.bound is Bound.ITEMS


@pytest.mark.parametrize("capacity", ["inf", "nan", "-1", "1e-300", "1e300", ""])
def test_a_rate_that_cannot_be_right_disturbs_nothing(client: redis.Redis, settings: Settings, capacity: str) -> None:
    report_rate(client, 1.0)
    client.hset(keys.flow("live"), mapping={"capacity": capacity, "arrived": capacity, "slack_s": capacity})
    producer = with_settings(settings, queue_max_wait_s=1.0)
    for _ in range(3):
        accepted, refusal = send(producer, make(producer, 2, deadline_ms=60_000))
        assert accepted == 2 or (refusal is not None and 0.05 <= refusal.retry_after_s <= 60)
    arrived = client.hget(keys.flow("live"), "arrived")
    assert arrived is not None and 0 <= float(arrived) <= 1e15


def test_threads_share_a_producer_whose_jobs_are_refused(
    client: redis.Redis, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(congestion, "REMEMBERED_JOBS", 3)
    producer = with_settings(settings, queue_max_items=1)
    send(producer, make(producer, 1))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: send(producer, make(producer, 5)), range(40)))
    assert all(accepted == 0 and refusal is not None for accepted, refusal in answers)


def test_a_replica_is_not_asked(client: redis.Redis, settings: Settings) -> None:
    """It would answer from old data, and a camera that waits would never look for the new primary."""
    producer = with_settings(settings, queue_max_items=1)
    jobs = make(producer, 2)
    send(producer, jobs)
    writer = QueueWriter(client, settings, ServerClock(client, tolerance_s=5.0))
    client.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(RedisUnavailable, match="READONLY"):
            producer.send(jobs[1:], partial=True)
        with pytest.raises(RedisUnavailable, match="READONLY"):  # although there would be nothing to write
            writer.ask(jobs[:1], Demand.of(jobs[:1], partial=True, arriving=0))
    finally:
        client.replicaof("NO", "ONE")


def test_a_job_that_is_enqueued_is_not_refused_when_a_congested_queue_is_asked(
    client: redis.Redis, settings: Settings
) -> None:
    """A camera sends its frames again if the answer was lost."""
    producer = with_settings(settings, queue_max_items=4, line_share=1.0)
    jobs = make(producer, 5)
    send(producer, jobs)
    accepted, refusal = send(producer, jobs)
    assert accepted == 4 and refusal is not None
    assert list(refusal.refused) == [jobs[4].job_id]
