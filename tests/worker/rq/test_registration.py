"""The worker in RQ's registry: it registers, sends heartbeats, registers again after data loss, and unregisters."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from rq import Queue, Worker
from rq.command import send_shutdown_command, send_stop_job_command
from rq.serializers import JSONSerializer
from rq.worker import WorkerStatus

from shared import keys
from shared.server import functions
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame
from worker.observe.metrics import Metrics
from worker.rq import registration as registration_module
from worker.rq.registration import WORKER_TTL_S, RegistrationThread, RqRegistration, new_worker_name


@pytest.fixture
def registration(settings: Settings) -> Iterator[RqRegistration]:
    with redis.Redis.from_url(settings.redis_url) as own:
        registration = RqRegistration(own, name="w1", queues=["live", "bulk"])
        registration.register()
        yield registration
        registration.unregister()


def only_worker(client: redis.Redis) -> Worker:
    (worker,) = Worker.all(connection=client)
    return worker


def test_names_are_unique() -> None:
    assert len({new_worker_name() for _ in range(50)}) == 50


def test_registers_for_its_queues(registration: RqRegistration, client: redis.Redis) -> None:
    assert only_worker(client).name == "w1"
    assert only_worker(client).get_state() == "started"
    for queue in ("live", "bulk"):
        assert Worker.count(queue=Queue(queue, connection=client)) == 1
    assert Worker.count(queue=Queue("other", connection=client)) == 0


def test_heartbeats(registration: RqRegistration, client: redis.Redis) -> None:
    client.expire(keys.rq_worker("w1"), 5)
    registration.send_heartbeat(state=WorkerStatus.BUSY)
    assert only_worker(client).get_state() == "busy"
    assert client.ttl(keys.rq_worker("w1")) > WORKER_TTL_S
    registration.send_heartbeat(state=WorkerStatus.IDLE)
    assert only_worker(client).get_state() == "idle"


def test_registers_again_after_the_server_lost_everything(registration: RqRegistration, client: redis.Redis) -> None:
    registration.send_heartbeat(state=WorkerStatus.IDLE)
    born = client.hget(keys.rq_worker("w1"), "queues")
    client.flushall()
    client.hincrby(keys.rq_worker("w1"), "successful_job_count", 3)  # a finish step was faster than the heartbeat
    registration.send_heartbeat(state=WorkerStatus.IDLE)
    worker = only_worker(client)
    assert worker.get_state() == "idle"
    assert worker.queue_names() == ["live", "bulk"]
    assert client.hget(keys.rq_worker("w1"), "queues") == born
    assert client.ttl(keys.rq_worker("w1")) > WORKER_TTL_S


def test_unregisters(settings: Settings, client: redis.Redis) -> None:
    with redis.Redis.from_url(settings.redis_url) as own:
        registration = RqRegistration(own, name="w1", queues=["live"])
        registration.register()
        registration.unregister()
    assert Worker.all(connection=client) == []
    assert 0 < client.ttl(keys.rq_worker("w1")) <= 60


def test_the_clean_up_forgets_old_jobs_and_leaves_started_ones_alone(
    registration: RqRegistration, settings: Settings, client: redis.Redis
) -> None:
    """RQ's own clean-up would fail abandoned jobs without a SortResult."""
    (job_id,) = kit.submit(settings, frame())
    (job,) = kit.claimer(settings).claim(1).jobs
    client.zincrby(keys.rq_wip("live"), -1000, f"{job_id}:{job.lease.execution_id}")
    client.zadd("rq:finished:live", {"old": time.time() - 1, "new": time.time() + 1000})
    client.zadd("rq:failed:live", {"old": time.time() - 1, "new": time.time() + 1000})
    client.sadd("rq:workers", keys.rq_worker("long-dead"))
    client.sadd("rq:workers:live", keys.rq_worker("long-dead"))
    for _, clean in registration.cleanup_tasks():
        clean()
    assert client.zrange("rq:finished:live", 0, -1) == client.zrange("rq:failed:live", 0, -1) == [b"new"]
    assert client.zcard(keys.rq_wip("live")) == 1
    assert client.hget(keys.rq_job(job_id), "status") == b"started"
    assert keys.rq_worker("long-dead").encode() not in client.smembers("rq:workers:live")


@pytest.mark.usefixtures("own_signals")
def test_rqs_commands(settings: Settings, client: redis.Redis) -> None:
    """`stop-job` is refused, `shutdown` drains."""
    gate, problems = Gate(), []
    (job_id,) = kit.submit(settings, frame())

    def command() -> None:
        try:
            assert gate.entered.wait(kit.PATIENCE_S)
            kit.wait_until(lambda: client.pubsub_numsub("rq:pubsub:w1")[0][1], "the worker listens")
            send_stop_job_command(client, job_id, serializer=JSONSerializer)
            send_shutdown_command(client, "w1")
        except BaseException as error:
            problems.append(error)
        finally:
            gate.opened.set()

    commander = threading.Thread(target=command)
    commander.start()
    service = kit.WorkerService(settings, load=lambda given: kit.loaded_model(given, ToneEngine(gate)))
    service.name = "w1"
    assert service.run() == 0
    commander.join()
    assert problems == []
    assert kit.outcomes(client) == {job_id: "sorted"}


# what RQ's clean-up must survive ────────────────────────────────────────────────────────────────────


def test_registers_over_a_hash_that_the_finish_step_wrote(settings: Settings, client: redis.Redis) -> None:
    """RQ's `register_birth` raises ValueError if the hash exists; that must not end the worker."""
    key = keys.rq_worker("w1")
    client.hincrby(key, "successful_job_count", 3)
    with redis.Redis.from_url(settings.redis_url) as own:
        registration = RqRegistration(own, name="w1", queues=["live"])
        registration.register()
        registration.register()
    assert only_worker(client).successful_job_count == 3
    assert 0 < client.ttl(key) <= WORKER_TTL_S + 60


def test_registers_over_a_key_of_another_type(registration: RqRegistration, client: redis.Redis) -> None:
    client.set(keys.rq_worker("w1"), "x")
    registration.send_heartbeat(state=WorkerStatus.BUSY)
    assert only_worker(client).get_state() == "busy"


def test_forgets_dead_workers_although_a_name_is_not_utf8(registration: RqRegistration, client: redis.Redis) -> None:
    """RQ's own clean-up, like `rq info`, raises UnicodeDecodeError on such a name; that must not end the worker."""
    for key in (keys.RQ_WORKERS, keys.rq_queue_workers("live")):
        client.sadd(key, b"rq:worker:\xff\xfe", keys.rq_worker("long-dead"), "another:key")
    client.set("another:key", "exists")
    for _, clean in registration.cleanup_tasks():
        clean()
    assert client.smembers(keys.RQ_WORKERS) == client.smembers(keys.rq_queue_workers("live")) == {b"rq:worker:w1"}
    assert only_worker(client).name == "w1"


def registration_thread(settings: Settings, metrics: Metrics | None = None) -> RegistrationThread:
    """The thread of worker `w1`, not started."""
    return RegistrationThread(
        settings.redis_url,
        name="w1",
        queues=["live", "bulk"],
        state=lambda: WorkerStatus.IDLE,
        metrics=metrics or Metrics(),
    )


@contextmanager
def running(settings: Settings, metrics: Metrics | None = None) -> Iterator[RegistrationThread]:
    """A thread that keeps worker `w1` registered."""
    thread = registration_thread(settings, metrics)
    thread.start()
    yield thread
    assert thread.stop(kit.PATIENCE_S), "the thread has not ended"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many heartbeats in a short test."""
    monkeypatch.setattr(registration_module, "HEARTBEAT_INTERVAL_S", 0.01)


def is_registered(client: redis.Redis) -> bool:
    return bool(client.hexists(keys.rq_worker("w1"), "birth"))


@pytest.mark.usefixtures("quick")
def test_is_registered_again_however_often_its_key_disappears(settings: Settings, client: redis.Redis) -> None:
    """Between two heartbeats the key is deleted, and the finish step writes only a part of it again."""
    with running(settings) as thread:
        for _ in range(20):
            kit.wait_until(lambda: is_registered(client), "it is registered")
            client.delete(keys.rq_worker("w1"))
            client.hincrby(keys.rq_worker("w1"), "successful_job_count", 1)
        kit.wait_until(lambda: is_registered(client), "it is registered")
        assert thread._thread.is_alive()
    assert Worker.all(connection=client) == []
    assert 0 < client.ttl(keys.rq_worker("w1")) <= 60


@pytest.mark.usefixtures("quick")
def test_the_functions_are_loaded_and_loaded_again_when_they_are_gone(settings: Settings, client: redis.Redis) -> None:
    """A server that is restarted without its data has lost them."""

    def are_loaded() -> bool:
        return functions.loaded_versions(client) == [functions.version()]

    client.function_flush()
    with running(settings):
        kit.wait_until(are_loaded, "the functions are loaded")
        client.function_flush()
        kit.wait_until(are_loaded, "the functions are loaded again")


@pytest.mark.usefixtures("quick")
def test_a_worker_that_may_not_load_functions_says_what_that_means(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.acl_setuser("old", enabled=True, nopass=True, keys="*", channels="*", commands=["+@all", "-function"])
    limited = settings.model_copy(update={"redis_url": settings.redis_url.replace("://", "://old:x@")})
    try:
        with running(limited):
            kit.wait_until(lambda: "producers wait" in caplog.text, "the log says so")
            assert is_registered(client)
    finally:
        client.acl_deluser("old")


@pytest.mark.usefixtures("quick")
def test_one_bad_key_does_not_stop_the_rest_of_the_clean_up(
    settings: Settings, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for key in (keys.RQ_QUEUES, keys.rq_queue_workers("live"), "rq:finished:live"):
        client.set(key, "x")
    client.zadd("rq:failed:live", {b"\xff\xfe": 1})
    client.zadd("rq:finished:bulk", {"old": 1})
    client.sadd(keys.RQ_WORKERS, keys.rq_worker("long-dead"))
    metrics = Metrics()
    with running(settings, metrics) as thread:
        kit.wait_until(lambda: client.smembers(keys.RQ_WORKERS) == {b"rq:worker:w1"}, "the last clean-up is done")
        assert not client.exists("rq:failed:live", "rq:finished:bulk")
        before = client.hget(keys.rq_worker("w1"), "last_heartbeat")
        kit.wait_until(lambda: client.hget(keys.rq_worker("w1"), "last_heartbeat") != before, "the heartbeats go on")
        assert thread._thread.is_alive()
    errors = metrics.registry.get_sample_value("sortline_server_errors_total", {"step": "presence"})
    assert errors is not None and errors >= 3
    messages = [
        record.getMessage() for record in caplog.records if "clean-up of live's finished jobs" in record.message
    ]
    assert len(messages) == 1
    assert not any(record.exc_info for record in caplog.records), "a traceback says nothing that an operator can use"


def test_a_worker_that_stops_does_not_clean_up(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ's clean-up of a large registry would hold up the worker's end."""
    monkeypatch.setattr(registration_module, "HEARTBEAT_INTERVAL_S", 3600.0)  # it stops before its clean-up is due
    client.zadd("rq:finished:live", {"old": 1})
    with running(settings):
        kit.wait_until(lambda: is_registered(client), "it is registered")
    assert Worker.all(connection=client) == []
    assert client.exists("rq:finished:live")


@pytest.mark.usefixtures("quick")
def test_the_thread_goes_on_whatever_rq_raises(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RQ also raises errors that aren't the Redis client's, such as ValueError or UnicodeDecodeError."""
    raised: list[str] = []

    def broken(registration: RqRegistration, **fields: object) -> None:
        raised.append(registration.name)
        raise ValueError("There exists an active worker named 'w1' already")

    with monkeypatch.context() as patch:
        patch.setattr(RqRegistration, "register", broken)
        with running(settings):
            kit.wait_until(lambda: len(raised) > 2, "it tries again")
            patch.undo()
            kit.wait_until(lambda: is_registered(client), "it is registered")


@pytest.mark.usefixtures("own_signals")
def test_the_thread_still_listens_after_odd_messages(settings: Settings, client: redis.Redis) -> None:
    """RQ's own thread for commands ends with a traceback at the first of them; ours obeys `shutdown` after all."""
    told_to_stop: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: told_to_stop.append(number))
    odd = [b"not json", b"\xff\xfe", b"{}", b"[]", b"1", b'"x"', b'{"command": "nosuch"}', b'{"command": []}']
    odd += [b'{"command": "stop-job"}', b'{"command": "kill-horse"}', b"[" * 100_000]
    with running(settings):
        kit.wait_until(lambda: client.pubsub_numsub("rq:pubsub:w1")[0][1], "the thread listens")
        for message in odd:
            assert client.publish("rq:pubsub:w1", message) == 1
        send_shutdown_command(client, "w1")
        kit.wait_until(lambda: told_to_stop, "the thread obeys")


@pytest.fixture
def full(client: redis.Redis) -> Iterator[redis.Redis]:
    """The server; a test sets `maxmemory` to 1, and then it refuses every command that takes memory."""
    yield client
    client.config_set("maxmemory", 0)


@pytest.mark.usefixtures("own_signals")
def test_a_full_server_does_not_keep_a_worker_from_its_jobs(settings: Settings, full: redis.Redis) -> None:
    """It refuses the registration, but its memory is freed only by workers that claim and finish jobs."""
    job_ids = kit.submit(settings, *[frame() for _ in range(20)])
    full.config_set("maxmemory", 1)
    assert kit.run_service(settings, ToneEngine()) == 0
    full.config_set("maxmemory", 0)
    assert kit.outcomes(full) == dict.fromkeys(job_ids, "sorted")


@pytest.mark.usefixtures("quick")
def test_registers_once_the_server_has_memory(settings: Settings, full: redis.Redis) -> None:
    full.config_set("maxmemory", 1)
    metrics = Metrics()
    with running(settings, metrics):
        kit.wait_until(
            lambda: metrics.registry.get_sample_value("sortline_server_errors_total", {"step": "presence"}),
            "the registration is refused",
        )
        assert not is_registered(full)
        full.config_set("maxmemory", 0)
        kit.wait_until(lambda: is_registered(full), "it is registered")
        # A registered worker stays so while the server is full, for longer than RQ remembers one without a heartbeat.
        full.config_set("maxmemory", 1)
        full.expire(keys.rq_worker("w1"), 30)
        kit.wait_until(lambda: full.ttl(keys.rq_worker("w1")) > 30, "its registration is prolonged")
        full.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("error", "logged"),
    [
        (redis.exceptions.ConnectionError("Connection refused."), 0),  # the pipeline logs it
        (redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file"), 1),
    ],
)
def test_a_reason_for_which_all_work_fails_is_logged_at_most_once(
    settings: Settings, caplog: pytest.LogCaptureFixture, error: redis.RedisError, logged: int
) -> None:
    thread = registration_thread(settings)

    def fail() -> None:
        raise error

    for what in ("the registration", "listening", "the registration"):
        assert not thread.attempt(what, fail)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * logged
    caplog.set_level("INFO")
    assert thread.attempt("the registration", lambda: None)
    assert caplog.text.count("the registration works again") == logged
