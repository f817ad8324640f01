"""`sortline worker` with its parent process, on a real server: restarts, requests to stop, and what is left."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import redis

from producer import Frame, LineProducer, wait_for
from shared import keys
from shared.schemas import Outcome, SortResult
from shared.settings import Settings
from tests.e2e.kit import child_of, running, stop, worker
from tests.kit import BOTTLES, PATIENCE_S, children_of, is_gone, wait_until
from worker.rq import processes
from worker.rq.processes import find_processes

pytestmark = pytest.mark.e2e

JOBS = 100
MAX_BATCH = 8


@pytest.fixture
def plant(settings: Settings, tiny_models: Path) -> Settings:
    """Leases last an hour: no job comes back by its lease."""
    return settings.model_copy(
        update={"model_store": str(tiny_models), "model": "tiny", "max_batch": MAX_BATCH, "lease_s": 3600}
    )


def submit(plant: Settings) -> list[str]:
    bottles = [path.read_bytes() for path in sorted(BOTTLES.glob("*.jpg"))[:10]]
    frames = [Frame(data=bottles[i % 10], line="line-1", camera="cam-1", frame_id=i) for i in range(JOBS)]
    return LineProducer(plant).submit_many(frames)


def held(client: redis.Redis) -> int:
    return int(client.zcard(keys.rq_wip("live")))


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_worker_that_dies_is_replaced_and_its_jobs_get_their_results(
    plant: Settings, client: redis.Redis, tmp_path: Path, number: signal.Signals
) -> None:
    """There is no other worker. The successor takes the jobs back although their leases have not run out."""
    log = tmp_path / "log"
    with running("tests.worker.slow_worker", "0.3", "worker", settings=plant, log=log) as parent:
        job_ids = submit(plant)
        wait_until(lambda: client.xlen(keys.results("line-1")) and held(client), "it has sorted some and holds others")
        first = child_of(parent)
        os.kill(first, number)
        results = wait_for(job_ids, timeout_s=2 * PATIENCE_S, settings=plant)
        second = child_of(parent)
        assert second != first
        assert stop(parent) == 0
        assert is_gone(second)
    assert {result.outcome for result in results.values()} == {Outcome.SORTED}
    stream = [SortResult.model_validate_json(fields[b"result"]) for _, fields in client.xrange(keys.results("line-1"))]
    assert Counter(result.job_id for result in stream) == Counter(job_ids)
    assert {result.attempt for result in results.values()} == {1, 2}
    assert len({result.worker for result in results.values()}) == 2
    assert held(client) == 0
    text = log.read_text()
    assert number.name in text
    assert ("is gone: took" if number == signal.SIGKILL else "to try each alone") in text


def test_jobs_are_taken_back_before_the_model_is_loaded(plant: Settings, client: redis.Redis, tmp_path: Path) -> None:
    """The successor never gets its model, and the jobs wait for other workers."""
    log = tmp_path / "log"
    with running("tests.worker.slow_worker", "3600,successor-hangs", "worker", settings=plant, log=log) as parent:
        job_ids = submit(plant)
        wait_until(lambda: client.xlen(keys.results("line-1")) and held(client), "it has sorted some and holds others")
        os.kill(child_of(parent), signal.SIGSEGV)
        wait_until(lambda: held(client) == 0, "the jobs are back")
    waiting = client.llen(keys.rq_queue("live")) + client.llen(keys.suspects("live"))
    assert waiting + client.xlen(keys.results("line-1")) == len(job_ids)


def test_a_signal_to_both_processes_counts_once(plant: Settings, client: redis.Redis, tmp_path: Path) -> None:
    """As Ctrl-C in a terminal. One signal drains, which waits for the batch in hand; a second gives the jobs back."""
    log = tmp_path / "log"
    with running("tests.worker.slow_worker", "3600", "worker", settings=plant, log=log) as parent:
        submit(plant)
        wait_until(lambda: client.xlen(keys.results("line-1")) and held(client), "it has sorted some and holds others")
        os.killpg(parent.pid, signal.SIGINT)
        wait_until(lambda: "a second signal quits" in log.read_text(), "it drains")
        with pytest.raises(AssertionError):  # a worker that counted two signals would quit within half a second
            wait_until(lambda: parent.poll() is not None, "it ends", timeout_s=1.5)
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.wait(PATIENCE_S) == 130
    assert "quitting: gave" in log.read_text()
    assert held(client) == 0


def test_shutdown_by_rq_ends_parent_and_worker(plant: Settings, client: redis.Redis, tmp_path: Path) -> None:
    """RQ's command reaches only the worker proper."""
    with worker(plant, log=tmp_path / "log") as parent:
        wait_until(lambda: client.smembers(keys.RQ_WORKERS), "it is registered")
        (name,) = client.smembers(keys.RQ_WORKERS)
        channel = "rq:pubsub:" + name.decode().removeprefix("rq:worker:")
        wait_until(lambda: client.publish(channel, '{"command": "shutdown"}'), "it listens")
        assert parent.wait(PATIENCE_S) == 0
        assert children_of(parent.pid) == []


def test_a_worker_is_not_gone_while_its_parent_lives(plant: Settings, client: redis.Redis, tmp_path: Path) -> None:
    """It tells its neighbors both processes. Only when both are gone may the neighbors take its jobs."""
    own = find_processes()
    assert own is not None
    with worker(plant, log=tmp_path / "log") as parent:
        key = keys.processes(own.scope, "live")
        wait_until(lambda: client.hlen(key), "it has told its processes")
        ((told),) = client.hvals(key)
        child = child_of(parent)
        assert [process.pid for process in processes.parse_process_ids(told.decode())] == [child, parent.pid]
        parent.send_signal(signal.SIGSTOP)  # it starts no other worker
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: is_gone(child), "the worker is gone")
        assert not own.is_worker_gone(told.decode())
        parent.kill()
        parent.wait()
        wait_until(lambda: own.is_worker_gone(told.decode()), "its neighbors see that it is gone")
