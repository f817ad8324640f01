"""A round of the lease step: it tells the other workers of this one, and while it stops it takes no jobs back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import redis

from shared import keys
from shared.settings import Settings
from tests.worker import kit
from tests.worker.kit import ToneEngine
from tests.worker.rq.kit import KEY, claim, expire, ids, leases, on_this_host
from worker.observe.supervisor import StageThread
from worker.state.inflight import Inflight
from worker.steps.admit import Admission
from worker.steps.keep_leases import LeaseStep

AWAY = redis.exceptions.ConnectionError("Connection refused.")
DENIED = redis.exceptions.NoPermissionError("User w has no permissions to run the 'evalsha' command")


@pytest.fixture
def announced() -> threading.Event:
    return threading.Event()


@pytest.fixture
def stop() -> threading.Event:
    """Set when the worker is told to stop."""
    return threading.Event()


@pytest.fixture
def keep(
    settings: Settings, announced: threading.Event, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], None]], None]:
    """A function that runs one round of the lease step, with a call to make before each reap."""

    def once(before_reap: Callable[[], None]) -> None:
        components = kit.pipeline_components(settings, ToneEngine(), processes=on_this_host())
        run = kit.pipeline(settings, components)
        reap = components.keeper.reap

        def reap_later() -> object:
            before_reap()
            return reap()

        monkeypatch.setattr(components.keeper, "reap", reap_later)
        step = LeaseStep(
            run._flow,
            components.keeper,
            Admission(run._flow, max_attempts=settings.max_attempts),
            watchdog=run.watchdog,
            interval_s=0.0,
            stop=stop,
            claims_ended=threading.Event(),
            ended=threading.Event(),
            announced=announced,
        )
        step(StageThread("leases", run.supervisor))

    return once


def test_a_worker_claims_once_the_others_on_its_host_know_of_it(
    client: redis.Redis, announced: threading.Event, keep: Callable[[Callable[[], None]], None]
) -> None:
    """If it crashed with jobs before that, the others would notice only when the jobs' leases expire."""
    before = list[bool]()
    keep(lambda: before.append(announced.is_set()))
    assert before == [False]
    assert announced.is_set()
    assert client.hkeys(KEY) == [b"w1"]


@pytest.mark.parametrize("error", [AWAY, DENIED], ids=["unavailable", "denied"])
def test_a_worker_claims_even_if_the_others_could_not_be_told(
    announced: threading.Event, keep: Callable[[Callable[[], None]], None], error: redis.exceptions.RedisError
) -> None:
    """Otherwise a server that refuses only this call would keep it from all work."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        keep(fail)
    assert announced.is_set()


@pytest.mark.parametrize("stopping", [False, True])
def test_a_worker_that_stops_leaves_the_jobs_of_dead_workers_to_others(
    settings: Settings,
    client: redis.Redis,
    stop: threading.Event,
    keep: Callable[[Callable[[], None]], None],
    stopping: bool,
) -> None:
    """A job that was lost too often would be this worker's to answer, and it might not come to that any more."""
    (job_id,) = kit.submit(settings, kit.frame())
    client.hset(keys.rq_job(job_id), keys.LOSSES, settings.max_losses - 1)
    expire(client, *claim(settings, worker="dead"))
    ended_at = leases(client)[job_id]
    if stopping:
        stop.set()
    keep(lambda: None)
    assert (leases(client)[job_id] == ended_at) is stopping, "a job that is taken back has a new lease"
    _, given_up = kit.keeper(settings, Inflight(), worker="other").reap()
    assert ids(given_up) == ([job_id] if stopping else [])
