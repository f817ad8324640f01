"""Threads that hang while they hold jobs, and what the probes report about them and the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import Gate, ToneEngine, frame, picture
from worker.models.routing import Serving
from worker.observe.metrics import Metrics
from worker.observe.supervisor import Supervisor
from worker.observe.watchdog import CONFIRM_S, Watchdog
from worker.pipeline import Pipeline
from worker.rq.claimer import Claim
from worker.state.inflight import Inflight
from worker.state.jobs import FinishedJob

POISON = picture(1, 2, blue=3)


class Clock:
    """Monotonic seconds that pass only when a test says so: a slow thread doesn't look as if it hung."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        return self._now_s

    def pass_by(self, seconds: float) -> None:
        """Move the clock ahead."""
        self._now_s += seconds


class HangingDecoder:
    """Hangs on the image POISON, as in a deadlock in native code, until its gate is opened."""

    def __init__(self) -> None:
        self.gate = Gate()
        self._decoder = kit.model().decoder

    def __call__(self, data: bytes, camera: str) -> kit.Pixels:
        return self._decoder(data, camera)

    def is_costly(self, data: bytes, camera: str) -> bool:
        return False

    def decode_into(self, data: bytes, camera: str, out: kit.Pixels) -> None:
        if data == POISON:
            self.gate(out)
        self._decoder.decode_into(data, camera, out)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def decoder() -> Iterator[HangingDecoder]:
    decoder = HangingDecoder()
    yield decoder
    decoder.gate.opened.set()


def hang_until_given_up(run: Pipeline, clock: Clock, settings: Settings, *names: str) -> None:
    """Let enough time pass for the watchdog to give up the threads that hang, which must be exactly `names`."""
    clock.pass_by(settings.stuck_after_s + 1)
    kit.wait_until(lambda: set(run.supervisor.silent(longer_than_s=settings.stuck_after_s)) == set(names), "they hang")
    kit.wait_until(lambda: run.watchdog._first_noticed_at is not None, "the lease thread notices")
    clock.pass_by(CONFIRM_S)
    kit.wait_until(run.watchdog.hanging.is_set, "they are given up")


def held_by_server(client: redis.Redis) -> set[str]:
    return {member.decode().partition(":")[0] for member in client.zrange(keys.rq_wip("live"), 0, -1)}


def events(count: int) -> list[threading.Event]:
    return [threading.Event() for _ in range(count)]


def suspects(client: redis.Redis) -> list[str]:
    return [job_id.decode() for job_id in client.lrange(keys.suspects("live"), 0, -1)]


@pytest.mark.slow
def test_an_image_that_hangs_its_decoder_is_left_to_another_worker(
    settings: Settings, client: redis.Redis, clock: Clock, decoder: HangingDecoder
) -> None:
    """No other image waits for it. It hung alone, so that counts as a crash, and in the end the job fails."""
    poison, *behind = kit.submit(settings, frame(POISON), *[frame() for _ in range(9)])
    components = kit.pipeline_components(settings, Serving(replace(kit.model(), decoder=decoder)))
    run = kit.pipeline(settings, components, monotonic=clock)
    run.start()
    assert decoder.gate.entered.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: kit.outcomes(client) == dict.fromkeys(behind, "sorted"), "the other thread does the rest")
    assert run.watchdog.health_problem() is None
    (hanging,) = [name for name, leases in run.supervisor._jobs_of.items() if leases and leases[0].job_id == poison]
    hang_until_given_up(run, clock, settings, hanging)
    assert f"the {hanging} thread has not reported" in (run.watchdog.health_problem() or "")
    assert run.ended.wait(kit.PATIENCE_S), "the worker could not end"
    kit.wait_until(lambda: suspects(client) == [poison], "it is taken back")
    assert held_by_server(client) == set()
    assert len(components.inflight) == 0, "the worker would go on renewing the job's lease"
    assert {result.attempt for result in kit.stream(client)} == {1}
    assert client.hmget(keys.rq_job(poison), keys.CRASHES, keys.LOSSES) == [b"1", b"0"]


@pytest.mark.slow
def test_jobs_of_a_claim_under_way_are_not_blamed_for_an_image_that_hangs(
    settings: Settings, client: redis.Redis, clock: Clock, decoder: HangingDecoder
) -> None:
    (poison,) = kit.submit(settings, frame(POISON))
    components = kit.pipeline_components(settings, Serving(replace(kit.model(), decoder=decoder)))
    run = kit.pipeline(settings, components, monotonic=clock)
    claim, give_back, is_claimed, is_given_back = components.claimer.claim, run.watchdog.give_back, *events(2)

    def answer_late(limit: int, **options: Any) -> Claim:
        answer = claim(limit, **options)
        if decoder.gate.entered.is_set() and answer.jobs:
            is_claimed.set()
            assert is_given_back.wait(kit.PATIENCE_S)
        return answer

    def note() -> None:
        give_back()
        is_given_back.set()

    components.claimer.claim = answer_late  # type: ignore[method-assign]
    run.watchdog.give_back = note  # type: ignore[method-assign]
    run.start()
    assert decoder.gate.entered.wait(kit.PATIENCE_S)
    innocent = kit.submit(settings, *[frame() for _ in range(3)])
    assert is_claimed.wait(kit.PATIENCE_S)
    (hanging,) = [name for name, leases in run.supervisor._jobs_of.items() if leases and leases[0].job_id == poison]
    hang_until_given_up(run, clock, settings, hanging)
    kit.wait_until(lambda: suspects(client) == [poison], "it is taken back")
    assert client.hmget(keys.rq_job(poison), keys.CRASHES, keys.LOSSES) == [b"1", b"0"]
    for job_id in innocent:
        assert client.hmget(keys.rq_job(job_id), keys.CRASHES, keys.LOSSES, keys.SUSPECT) == [None] * 3


@pytest.mark.slow
def test_a_batch_that_hangs_the_engine_is_left_to_another_worker(
    settings: Settings, client: redis.Redis, clock: Clock
) -> None:
    small = settings.model_copy(update={"max_batch": 2, "linger_ms": 10_000.0})  # full batches only
    job_ids = kit.submit(small, *[frame() for _ in range(6)])
    gate = Gate()
    run = kit.pipeline(small, kit.pipeline_components(small, ToneEngine(gate)), monotonic=clock)
    run.start()
    assert gate.entered.wait(kit.PATIENCE_S)
    in_the_model = {lease.job_id for lease in run.supervisor.jobs_of("infer")}
    assert len(in_the_model) == 2
    hang_until_given_up(run, clock, small, "infer")
    assert run.ended.wait(kit.PATIENCE_S)
    kit.wait_until(lambda: set(suspects(client)) == in_the_model, "they are to be tried alone")
    assert held_by_server(client) == set()
    assert {client.hget(keys.rq_job(job_id), keys.CRASHES) for job_id in in_the_model} == {b"0"}
    waiting = [item.decode() for item in client.lrange(keys.rq_queue("live"), 0, -1)]
    assert waiting == [job_id for job_id in job_ids if job_id not in in_the_model]
    gate.opened.set()
    assert run.supervisor.join(kit.PATIENCE_S)


def test_a_process_that_was_stopped_and_continued_does_not_hang(settings: Settings, clock: Clock) -> None:
    """After SIGSTOP and SIGCONT each thread looks as if it hung, until it has come round once."""
    stop, supervisor, inflight = (
        threading.Event(),
        Supervisor(Metrics(), redis_url="redis://here", clock=clock),
        Inflight(),
    )
    supervisor.start("infer", stop.wait)
    keeper = kit.keeper(settings, inflight)
    watchdog = Watchdog(supervisor, inflight=inflight, keeper=keeper, stuck_after_s=60.0, clock=clock)
    clock.pass_by(1_000)
    assert not watchdog.check()
    clock.pass_by(1)
    assert not watchdog.check(), "the thread has had no time to come round"
    supervisor.heartbeat("infer")
    clock.pass_by(CONFIRM_S)
    assert not watchdog.check()
    clock.pass_by(61)
    assert not watchdog.check()
    clock.pass_by(CONFIRM_S)
    assert watchdog.check(), "the infer thread hangs"
    stop.set()


# readiness ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run(settings: Settings, clock: Clock) -> Iterator[Pipeline]:
    """A pipeline that is ready."""
    run = kit.pipeline(settings, kit.pipeline_components(settings, ToneEngine()), monotonic=clock)
    assert run.ready_problem() == "Redis has not answered the first claim yet"
    run.start()
    kit.wait_until(lambda: run.ready_problem() is None, "it claims")
    yield run
    run.drain()
    kit.finish(run)


def test_suspended_workers_are_alive_but_not_ready(run: Pipeline, client: redis.Redis) -> None:
    client.set(keys.RQ_SUSPENDED, 1)
    kit.wait_until(lambda: run.ready_problem() == "workers are suspended: `rq resume` resumes them", "it says so")
    assert run.watchdog.health_problem() is None
    client.delete(keys.RQ_SUSPENDED)
    kit.wait_until(lambda: run.ready_problem() is None, "it claims again")


@pytest.mark.slow
def test_a_worker_whose_server_is_a_replica_is_alive_but_not_ready(run: Pipeline, client: redis.Redis) -> None:
    """The server answers a ping, but refuses every command of a worker."""
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        kit.wait_until(lambda: "is a replica and refuses writes" in (run.ready_problem() or ""), "it says so")
        assert run.watchdog.health_problem() is None
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    kit.wait_until(lambda: run.ready_problem() is None, "it claims again")


def test_a_worker_that_can_write_no_results_is_not_ready_but_does_not_hang(
    run: Pipeline, settings: Settings, client: redis.Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it lasts: a restart would not help, since another worker could not write the result either."""
    finisher, is_away = run._components.finisher, threading.Event()
    finish = finisher.finish

    def refuse(batch: list[FinishedJob]) -> list[bool]:
        if is_away.is_set():
            raise redis.exceptions.ResponseError("no room")
        return finish(batch)

    monkeypatch.setattr(finisher, "finish", refuse)
    is_away.set()
    (job_id,) = kit.submit(settings, frame())
    refused = "finish: the Redis server refuses a command: no room."
    kit.wait_until(lambda: run.ready_problem() == refused, "it says so")
    hour_s = 3_600.0
    clock.pass_by(hour_s)
    kit.wait_until(lambda: not run.supervisor.silent(longer_than_s=hour_s / 2), "the threads come round")
    clock.pass_by(CONFIRM_S)
    assert run.watchdog.health_problem() is None
    is_away.clear()
    kit.wait_until(lambda: kit.outcomes(client) == {job_id: "sorted"}, "its result is written")
    kit.wait_until(lambda: run.ready_problem() is None, "it claims")


def test_a_draining_worker_is_not_ready(run: Pipeline) -> None:
    run.drain()
    assert run.ready_problem() == "the worker is draining: it claims nothing more"
