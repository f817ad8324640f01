"""A worker is killed exactly before and after each step that changes who has a job; another one takes over.

Claim, fetch, finish, renew, reap and release are requests to the server: a proxy kills the worker before the server has
the request, or after it has obeyed and before the worker knows. Decode and infer are the worker's own: its decoder or
its engine kills it.
"""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from rq.job import JobStatus

from shared import keys
from shared.schemas import Outcome, SortResult
from shared.settings import Settings
from tests.e2e.kit import running
from tests.kit import PATIENCE_S, wait_until
from tests.worker import kit
from torture.server.proxy import Moment, Proxy, proxy_to
from worker import pipeline
from worker.rq import scripts

pytestmark = pytest.mark.e2e

JOBS = 3


@dataclass(frozen=True)
class Boundary:
    """Where a worker is killed; where its jobs are then; and in which attempt they must be answered in the end."""

    step: str
    moment: Moment
    jobs_are: str  # "queued", "held" or "answered"
    attempt: int

    def __str__(self) -> str:
        return f"{self.moment} {self.step}"


AT_THE_SERVER = [
    Boundary("claim", "before", "queued", attempt=1),
    Boundary("claim", "after", "held", attempt=2),
    Boundary("fetch", "before", "held", attempt=2),
    Boundary("fetch", "after", "held", attempt=2),
    Boundary("renew", "before", "held", attempt=2),
    Boundary("renew", "after", "held", attempt=2),
    Boundary("finish", "before", "held", attempt=2),
    Boundary("finish", "after", "answered", attempt=1),
    # Their first attempt was an earlier worker's, which died.
    Boundary("reap", "before", "held", attempt=2),
    Boundary("reap", "after", "queued", attempt=2),
    # A worker that is told twice to stop gives its jobs back, which uses up no attempt.
    Boundary("release", "before", "held", attempt=2),
    Boundary("release", "after", "queued", attempt=1),
]
IN_THE_WORKER = [
    Boundary("decode", "before", "held", attempt=2),
    Boundary("decode", "after", "held", attempt=2),
    Boundary("infer", "before", "held", attempt=2),
    Boundary("infer", "after", "held", attempt=2),
]


@pytest.fixture
def plant(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """All jobs go through the worker as one batch, which starts when it is full."""
    monkeypatch.setattr(pipeline, "IDLE_WAIT_S", 0.05)  # so that the second worker ends sooner
    return settings.model_copy(update={"max_batch": JOBS, "linger_ms": 10_000, "lease_s": 30})


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    with proxy_to(redis_url) as proxy:
        yield proxy


@pytest.mark.parametrize("boundary", AT_THE_SERVER, ids=str)
def test_killed_at_a_request(
    plant: Settings, client: redis.Redis, proxy: Proxy, tmp_path: Path, boundary: Boundary
) -> None:
    job_ids = kit.submit(plant, *[kit.frame() for _ in range(JOBS)])
    if boundary.step == "reap":
        kit.claimer(plant, worker="died-before").claim(JOBS)
        _let_leases_run_out(client)
        client.set(keys.RQ_SUSPENDED, 1)  # the worker reaps, but does not claim what it has put back
    started: Future[subprocess.Popen[bytes]] = Future()
    killed = proxy.on(_marker(client, boundary.step), boundary.moment, lambda: _kill(started), ends_connection=True)
    behind_proxy = plant.model_copy(update={"redis_url": proxy.url})
    program = "hold" if boundary.step in ("renew", "release") else "none"
    log = tmp_path / "worker.log"
    with running("tests.e2e.boundary_worker", program, settings=behind_proxy, log=log) as process:
        started.set_result(process)
        if boundary.step == "release":
            _tell_twice_to_stop(process, client, log)
        assert killed.result(PATIENCE_S) == -signal.SIGKILL, log.read_text()
    client.delete(keys.RQ_SUSPENDED)
    if boundary.step == "renew":
        assert _renewed(client) == (JOBS if boundary.moment == "after" else 0)
    _check_takeover(plant, client, job_ids, boundary)


@pytest.mark.parametrize("boundary", IN_THE_WORKER, ids=str)
def test_killed_in_the_worker(plant: Settings, client: redis.Redis, tmp_path: Path, boundary: Boundary) -> None:
    job_ids = kit.submit(plant, *[kit.frame() for _ in range(JOBS)])
    log = tmp_path / "worker.log"
    where = f"{boundary.step}-{boundary.moment}"
    with running("tests.e2e.boundary_worker", where, settings=plant, log=log) as process:
        assert process.wait(PATIENCE_S) == -signal.SIGKILL, log.read_text()
    assert f"reached {where}" in log.read_text()
    _check_takeover(plant, client, job_ids, boundary)


def _marker(client: redis.Redis, step: str) -> bytes:
    """Bytes that only requests of this step contain."""
    if step == "fetch":
        return b"$4\r\nMGET\r\n"  # as an argument of its own, because scripts that are sent as text contain MGET too
    sha: str = client.script_load(scripts.source(step))  # so that the server obeys the first EVALSHA
    return sha.encode()


def _kill(started: Future[subprocess.Popen[bytes]]) -> int:
    process = started.result(PATIENCE_S)
    process.kill()
    return process.wait(PATIENCE_S)


def _tell_twice_to_stop(process: subprocess.Popen[bytes], client: redis.Redis, log: Path) -> None:
    wait_until(lambda: client.zcard(keys.rq_wip("live")) == JOBS, "the worker holds the jobs")
    process.terminate()
    wait_until(lambda: "told to stop" in log.read_text(), "the worker has heard it")
    process.terminate()


def _let_leases_run_out(client: redis.Redis) -> None:
    """Let all leases run out at once, in the order that they had, so that no test waits for that."""
    wip = keys.rq_wip("live")
    for place, lease in enumerate(client.zrange(wip, 0, -1)):
        client.zadd(wip, {lease: 1 + place}, xx=True)


def _renewed(client: redis.Redis) -> int:
    """How many executions have a later heartbeat than that of their start."""
    executions = [client.hgetall(key) for key in client.keys("rq:execution:*")]
    return sum(execution[b"last_heartbeat"] != execution[b"created_at"] for execution in executions)


def _check_takeover(plant: Settings, client: redis.Redis, job_ids: list[str], boundary: Boundary) -> None:
    """The jobs are where the killed worker must have left them; a second worker answers each that has no answer."""
    assert +_whereabouts(client) == Counter({boundary.jobs_are: JOBS})
    _let_leases_run_out(client)
    components = kit.pipeline_components(plant, kit.ToneEngine(), worker="second")
    second = kit.pipeline(plant, components)
    second.start()
    try:
        wait_until(lambda: len(kit.stream(client)) >= JOBS, "every job is answered")
    finally:
        second.drain()
        kit.finish(second)
    assert components.keeper.reap() == (0, []), "a job that is answered can be taken back"
    results = kit.stream(client)
    assert Counter(result.job_id for result in results) == Counter(job_ids)
    assert {(result.outcome, result.attempt) for result in results} == {(Outcome.SORTED, boundary.attempt)}
    for result in results:
        job = kit.fetch(client, result.job_id)
        assert job.get_status() is JobStatus.FINISHED
        assert [SortResult.model_validate(each.return_value) for each in job.results()] == [result]
    _check_nothing_is_left(client)


def _whereabouts(client: redis.Redis) -> Counter[str]:
    return Counter(
        queued=client.llen(keys.rq_queue("live")),
        held=client.zcard(keys.rq_wip("live")),
        answered=client.xlen(keys.results("l1")),
    )


def _check_nothing_is_left(client: redis.Redis) -> None:
    for pattern in (
        "rq:queue:*",
        "rq:wip:*",
        "rq:execution:*",
        "rq:executions:*",
        "rq:worker:*:executions",
        "sortline:image:*",
    ):
        assert client.keys(pattern) == []
