"""A plant whose processes log in as users of their roles, on Debian's Redis with TLS and client certificates."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import cast

import pytest
import redis

from producer import Frame, LineProducer
from producer.streams.group_reader import ResultGroupReader
from shared import keys
from shared.server import functions
from shared.server.roles import Role, user_line
from shared.settings import Settings
from tests.e2e.kit import answers, child_of, environment, ready, sortline, stop, worker
from tests.e2e.roles_kit import EXPECTED, Plant, images
from tests.kit import PATIENCE_S, PROJECT, wait_until
from tests.shared.server.servers import debian_server

pytestmark = pytest.mark.e2e


def test_each_role_does_its_work(plant: Plant, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    producer, viewer, admin = (plant.settings_of(role) for role in (Role.PRODUCER, Role.VIEWER, Role.ADMIN))
    with worker(plant.settings_of(Role.WORKER), log=log) as process:
        wait_until(lambda: ready(log), "the worker is ready", log=log)
        uploaded = sortline("upload", *images(20), "--wait", settings=producer)
        assert uploaded.returncode == 0, uploaded.stderr
        camera = sortline(
            "camera", "--line", "line-1", "--source", "simulated", "--count", "5", "--rate", "50", settings=producer
        )
        assert camera.returncode == 0 and "WARNING" not in camera.stderr, camera.stderr
        wait_until(lambda: plant.default.xlen(keys.results("line-1")) == 5, "the camera's frames are sorted")
        shown = sortline("results", "--json", "--count", "100", settings=viewer)
        assert shown.returncode == 0 and shown.stderr == ""
        assert shown.stdout.count('"outcome"') == 25
        metrics = answers(log, "/metrics") or ""
        assert 'sortline_queue_depth{queue="live"} 0.0' in metrics and "sortline_redis_up 1.0" in metrics
        listed = sortline("functions", "list", settings=admin)
        assert listed.stdout == f"{functions.version()}  this release\n", "the worker has loaded them"
        assert rq_info(admin).startswith("1 workers")
        assert stop(process) == 0
    assert "WARNING" not in without_durability(log), log.read_text()
    assert plant.denials() <= EXPECTED


def test_ejectors_share_results_in_a_group(plant: Plant, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    stopping = threading.Event()
    found: list[str] = []
    with ResultGroupReader(plant.settings_of(Role.READER), line="line-1", group="ejectors") as reader:

        def read() -> None:
            for result in reader.follow(stopping):
                found.append(result.job_id)
                if len(found) == 3:
                    stopping.set()

        thread = threading.Thread(target=read)
        thread.start()
        wait_until(lambda: plant.default.exists(keys.results("line-1")), "the group is made")
        with worker(plant.settings_of(Role.WORKER), log=log) as process:
            wait_until(lambda: ready(log), "the worker is ready", log=log)
            producer = plant.settings_of(Role.PRODUCER)
            camera = sortline("camera", "--line", "line-1", "--source", "simulated", "--count", "3", settings=producer)
            assert camera.returncode == 0, camera.stderr
            thread.join(PATIENCE_S)
            assert stop(process) == 0
    stopping.set()
    assert len(set(found)) == 3
    pending = cast("dict[str, int]", plant.default.xpending(keys.results("line-1"), "ejectors"))
    assert pending["pending"] == 0, "all are acknowledged"
    assert plant.denials() <= EXPECTED


def test_a_worker_repairs_recovers_and_starts_again_with_its_rights(plant: Plant, tmp_path: Path) -> None:
    """The steps after a crash, a broken key and lost data need rights of their own."""
    log = tmp_path / "worker.log"
    with worker(plant.settings_of(Role.WORKER), log=log) as process:
        wait_until(lambda: ready(log), "the worker is ready", log=log)
        first = child_of(process)
        plant.default.set(keys.LINES, "of a wrong type")
        plant.default.sadd(keys.RQ_WORKERS, "other:key", b"\xff")
        producer = plant.settings_of(Role.PRODUCER)
        assert sortline("upload", *images(5), "--wait", settings=producer).returncode == 0
        assert plant.default.type(keys.LINES) == b"set", "the key is moved aside"
        subprocess.run(["kill", "-9", str(first)], check=True)
        assert sortline("upload", *images(9)[5:], "--wait", settings=producer).returncode == 0
        assert child_of(process) != first
        plant.default.flushall()
        plant.default.function_flush()
        wait_until(lambda: functions.loaded_versions(plant.default), "the functions are loaded again")
        assert sortline("upload", *images(12)[9:], "--wait", settings=producer).returncode == 0
        assert stop(process) == 0
    assert plant.denials() <= EXPECTED


def rq_info(settings: Settings) -> str:
    """What RQ's own tool shows to the user of these settings."""
    program = (
        "import sys; from rq import Queue, Worker; from shared.server.connection import connect\n"
        "client = connect(sys.argv[1])\n"
        "print(len(Worker.all(connection=client)), 'workers', [queue.count for queue in Queue.all(connection=client)])"
    )
    command = [sys.executable, "-c", program, settings.redis_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(settings))
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_durability(log: Path) -> str:
    """The log without the warnings about this server's settings, which are not the subject."""
    return "\n".join(line for line in log.read_text().splitlines() if "CONFIG SET" not in line)


def test_jobs_survive_a_restart_of_a_server_with_users(settings: Settings, tmp_path: Path) -> None:
    """Redis 7.0 reads its append-only file as the user `default`, and drops what that user may not write."""
    page = (PROJECT / "docs" / "server-users.md").read_text()
    (first_line,) = re.findall(r'^ +echo "(user default .*)" > users\.acl$', page, re.MULTILINE)
    assert first_line in (PROJECT / "deploy" / "make-users.sh").read_text()
    users = tmp_path / "users.acl"
    lines = [user_line(role, name=role, password="secret") for role in Role]
    users.write_text("\n".join([first_line, *lines, ""]))
    options = ("--aclfile", str(users), "--appendonly", "yes")
    socket = f"unix://producer:secret@{tmp_path}/socket?db=0"
    with debian_server(tmp_path, *options):
        with redis.Redis.from_url(f"unix://worker:secret@{tmp_path}/socket?db=0") as loader:
            functions.load(loader)
        producer = LineProducer(settings.model_copy(update={"redis_url": socket}))
        producer.submit_many([Frame(data=Path(path).read_bytes(), line="a", camera="c") for path in images(10)])
        with (
            redis.Redis(unix_socket_path=str(tmp_path / "socket")) as nobody,
            pytest.raises(redis.exceptions.AuthenticationError),
        ):
            nobody.ping()
    with debian_server(tmp_path, *options), redis.Redis.from_url(socket) as client:
        assert client.llen(keys.rq_queue("live")) == 10


def test_a_worker_with_the_rights_of_another_role_ends_and_says_why(plant: Plant, tmp_path: Path) -> None:
    for role in (Role.PRODUCER, Role.VIEWER):
        done = sortline("worker", settings=plant.settings_of(role))
        assert done.returncode == 2
        assert "sortline acl" in done.stderr and "Traceback" not in done.stderr
