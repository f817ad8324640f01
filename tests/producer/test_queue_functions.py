"""Tests of who loads the functions, and of what a producer does when the server lacks them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer import LineProducer
from producer.frames import Frame
from shared import keys
from shared.errors import BadSetting, CommandRefused, RedisUnavailable
from shared.server import functions
from shared.settings import Settings
from tests.producer.kit import jpeg
from tests.shared.server.servers import debian_server

LINE = {"line": "line-1", "camera": "c"}
# The first keys of both functions.
QUEUE_KEYS = [
    keys.RQ_QUEUES,
    *(key("live") for key in (keys.rq_queue, keys.wakeup, keys.suspects, keys.rq_wip, keys.load, keys.flow)),
]


@pytest.fixture
def lost(client: redis.Redis) -> redis.Redis:
    """The client of a server that has no functions loaded."""
    client.function_flush()
    return client


@pytest.fixture
def camera(lost: redis.Redis, settings: Settings) -> Iterator[Settings]:
    """The settings of a user that may do everything but load functions."""
    lost.acl_setuser("camera", enabled=True, nopass=True, keys="*", commands=["+@all", "-function"])
    yield Settings(redis_url=settings.redis_url.replace("://", "://camera:x@"))
    lost.acl_deluser("camera")


@pytest.fixture
def old_server(tmp_path: Path) -> Iterator[Settings]:
    """A server that knows no functions, as Redis before 7."""
    hidden = [part for name in ("fcall", "fcall_ro", "function") for part in ("--rename-command", name, "")]
    with debian_server(tmp_path, *hidden):
        yield Settings(redis_url=f"unix://{tmp_path}/socket?db=0")


def test_a_producer_that_may_load_functions_needs_no_worker(lost: redis.Redis, settings: Settings) -> None:
    producer = LineProducer(settings)
    for count in (1, 2):
        lost.function_flush()
        producer.submit(jpeg(), **LINE)
        assert lost.llen(keys.rq_queue("live")) == count
        assert functions.loaded_versions(lost) == [functions.version()]


def test_a_producer_that_may_not_load_them_waits_for_somebody_who_may(lost: redis.Redis, camera: Settings) -> None:
    producer = LineProducer(camera)
    with pytest.raises(RedisUnavailable, match=f"version {functions.version()}.*sortline functions load"):
        producer.submit(jpeg(), **LINE)
    assert lost.llen(keys.rq_queue("live")) == 0
    assert not list(lost.scan_iter(keys.image("*"))), "what was written is deleted"
    functions.load(lost)
    producer.submit(jpeg(), **LINE)
    assert lost.llen(keys.rq_queue("live")) == 1


def test_a_job_that_was_enqueued_before_keeps_its_image(lost: redis.Redis, camera: Settings) -> None:
    producer = LineProducer(camera)
    functions.load(lost)
    job = producer.prepare(Frame(data=jpeg(), **LINE))
    producer.send([job])
    lost.function_flush()
    with pytest.raises(RedisUnavailable):
        producer.send([job])  # its sender did not get the answer to the first call
    assert lost.exists(keys.image(job.job_id))


def test_a_server_without_functions_runs_the_same_text_as_a_script(old_server: Settings) -> None:
    producer = LineProducer(old_server)
    job_ids = [producer.submit(jpeg(), **LINE) for _ in range(2)]
    with redis.Redis.from_url(old_server.redis_url) as client:
        assert [job_id.decode() for job_id in client.lrange(keys.rq_queue("live"), 0, -1)] == job_ids
        assert all(client.ttl(keys.image(job_id)) > 0 for job_id in job_ids)


def test_on_a_server_without_functions_a_missing_right_is_named(old_server: Settings) -> None:
    with redis.Redis.from_url(old_server.redis_url) as client:
        client.acl_setuser("camera", enabled=True, nopass=True, keys="*", commands=["+@all", "-eval"])
    path = old_server.redis_url.removeprefix("unix://")
    producer = LineProducer(Settings(redis_url=f"unix://camera:x@{path}"))
    with pytest.raises(BadSetting, match=r"knows no functions.*from 7\.0 on.*grant it \+eval"):
        producer.submit(jpeg(), **LINE)


def test_the_functions_of_another_release_are_left_alone(lost: redis.Redis, settings: Settings) -> None:
    other = functions.library().replace(functions.version(), "0123456789ab")
    lost.function_load(other)
    LineProducer(settings).submit(jpeg(), **LINE)
    assert functions.loaded_versions(lost) == sorted({"0123456789ab", functions.version()})


def test_other_functions_under_our_names_are_found(lost: redis.Redis) -> None:
    other = functions.library().replace("local function submit", "local function ask_or_submit", 1)
    lost.function_load(other.replace(f"_{functions.version()}', submit", f"_{functions.version()}', ask_or_submit"))
    assert not functions.load(lost)
    with pytest.raises(CommandRefused, match=r"somebody.*has replaced it"):
        functions.check_text(lost)
    lost.function_flush()
    lost.function_load(functions.library().replace(f"name={functions.library_name()}", "name=other"))
    with pytest.raises(redis.exceptions.ResponseError, match="already exists"):
        functions.load(lost)


def test_loading_again_changes_nothing(lost: redis.Redis) -> None:
    assert functions.load(lost) and not functions.load(lost)
    functions.check_text(lost)
    functions.delete(lost, functions.version())
    assert functions.loaded_versions(lost) == []


@pytest.mark.parametrize("function", functions.Function)
@pytest.mark.parametrize("count", [513, 9_000])
def test_a_call_for_very_many_jobs_is_refused_before_anything_is_counted(
    client: redis.Redis, settings: Settings, function: functions.Function, count: int
) -> None:
    """Else one call would hold up the server, or stop halfway."""
    functions.load(client)
    names = [*QUEUE_KEYS, *(keys.rq_job(str(i)) for i in range(count * 2))]
    bounds = [count, 10**9, 60, 1, "line-1", count, count, "", 0, count, 64, 0]
    jobs = [part for i in range(count) for part in (str(i), "", "", 1, "")]
    with pytest.raises(redis.ResponseError, match=r"keys \(256 jobs\).*Make several calls"):
        client.fcall(functions.name_of(function), len(names), *names, *bounds, *jobs)
    assert client.keys("*") == []


@pytest.mark.parametrize("common_count", ["1000000000", "inf", "many"])
def test_a_number_of_common_fields_that_cannot_be_is_refused(
    client: redis.Redis, settings: Settings, common_count: str
) -> None:
    functions.load(client)
    names = [*QUEUE_KEYS, keys.rq_job("x"), keys.image("x")]
    bounds = [9, 9, 9, 1, "line-1", 1, 1, "", 0, 1, 64, common_count]
    with pytest.raises(redis.ResponseError, match="argument 12"):
        client.fcall(functions.name_of(functions.Function.SUBMIT), len(names), *names, *bounds, *("x", "", "", 1, ""))
