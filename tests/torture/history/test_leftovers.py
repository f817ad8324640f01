"""What the server still holds: nothing after a good run, and each kind of thing where it was left."""

from __future__ import annotations

import pytest
import redis

from producer import Frame, LineProducer
from shared import keys
from shared.settings import Settings
from tests.worker import kit
from torture.history.follower import Entry
from torture.history.leftovers import read_leftovers, read_visible


def left(client: redis.Redis, settings: Settings) -> dict[str, list[str]]:
    return read_leftovers(client, queues=settings.queue_names)


@pytest.mark.slow
@pytest.mark.parametrize("before_predict", [kit.nothing, kit.always_fails], ids=["sorted", "failed"])
def test_a_good_run_leaves_nothing(settings: Settings, client: redis.Redis, before_predict: kit.BeforePredict) -> None:
    LineProducer(settings).submit(kit.picture(), line="line-1", camera="camera-1")
    assert kit.run_service(settings, kit.ToneEngine(before_predict), name="w1") == 0
    assert left(client, settings) == {}


def test_each_kind_is_named(settings: Settings, client: redis.Redis) -> None:
    (job_id,) = LineProducer(settings).submit_many([Frame(data=kit.picture(), line="line-1", camera="camera-1")])
    client.zadd(keys.rq_wip("bulk"), {"job:execution": 1})
    for name in ("rq:execution:job:1", "rq:executions:job", "rq:worker:w1:executions", keys.broken("rq:failed:live")):
        client.set(name, "1")
    assert left(client, settings) == {
        "queued": [job_id],
        "lease": ["job:execution"],
        "execution": ["rq:execution:job:1"],
        "executions of a job": ["rq:executions:job"],
        "executions of a worker": ["rq:worker:w1:executions"],
        "image": [f"{keys.image(job_id)} of a job with status queued, expires in {settings.image_ttl_s} s"],
        "job without an end": [f"{job_id} queued"],
        "broken key": [keys.broken("rq:failed:live")],
    }


def test_an_image_without_expiry_is_left_over_whatever_its_job(settings: Settings, client: redis.Redis) -> None:
    client.hset(keys.rq_job("job"), "status", "failed")
    client.set(keys.image("job"), b"image", ex=60)
    assert left(client, settings) == {}
    client.persist(keys.image("job"))
    assert list(left(client, settings)) == ["image"]


def test_what_expires_while_it_is_looked_at_is_not_left_over(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ keeps a finished job for `result_ttl_s`, and of long runs thousands expire during the look."""
    monkeypatch.setattr(client, "scan_iter", lambda pattern, count: [pattern.replace("*", "gone").encode()])
    names = {kind for kind in left(client, settings) if kind in ("image", "job without an end")}
    assert not names


def test_of_several_results_of_a_job_those_in_the_stream_are_visible(client: redis.Redis) -> None:
    stream = keys.results("line-1")
    ids = [client.xadd(stream, {"result": "{}"}).decode() for _ in range(2)]
    entries = [Entry(stream, entry_id, "sorted", 1, "w1", 0.0, None, (), None) for entry_id in ids]
    client.xdel(stream, ids[0])
    assert read_visible(client, {"twice": entries, "once": entries[:1]}) == {"twice": entries[1:]}
