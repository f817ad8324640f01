"""The archive of real workers: a disk that fills up, workers that are killed and stopped, and bad folders."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from producer import Frame, LineProducer, wait_for
from shared.settings import Settings
from tests.e2e.kit import child_of, environment, metric, ready, sortline, stop, worker
from tests.kit import BOTTLES, PROJECT, is_gone, wait_until
from tests.worker.archive.kit import archived, files, writer_of
from tests.worker.kit import stream

pytestmark = pytest.mark.e2e

IMAGES = [path.read_bytes() for path in sorted(BOTTLES.glob("*.jpg"))[:20]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The archive's folder."""
    root = tmp_path / "archive"
    root.mkdir()
    return root


@pytest.fixture
def plant(settings: Settings, tiny_models: Path, root: Path) -> Settings:
    """Settings that archive every image."""
    return settings.model_copy(
        update={"model_store": str(tiny_models), "model": "tiny", "archive_dir": root, "archive_share": 1.0}
    )


def send(plant: Settings, count: int) -> dict[str, bytes]:
    """Put images on the queue; the images by job id."""
    images = [IMAGES[number % len(IMAGES)] for number in range(count)]
    frames = [Frame(data=image, line="l1", camera="c1") for image in images]
    return dict(zip(LineProducer(plant).submit_many(frames), images, strict=True))


def test_workers_that_are_killed_leave_whole_images_only_and_their_successors_go_on(
    plant: Settings, client: redis.Redis, root: Path, tmp_path: Path
) -> None:
    with worker(plant, log=tmp_path / "log") as process:
        wait_until(lambda: ready(tmp_path / "log"), "the worker is ready")
        sent: dict[str, bytes] = {}
        for _ in range(2):
            before = len(stream(client))
            sent |= send(plant, 150)
            wait_until(lambda before=before: len(stream(client)) > before, "some are sorted")
            killed = child_of(process)
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda killed=killed: is_gone(killed), "it is gone")
        sent |= send(plant, 150)
        wait_for(list(sent), timeout_s=120, settings=plant)
        assert stop(process) == 0
    alone = [path for path in files(root) if path.suffix != ".json" and not path.with_suffix(".json").exists()]
    assert len(alone) <= 2, "a worker was killed before it wrote the image's result"
    for path in alone:
        assert path.read_bytes() == sent[path.stem.split("_")[1]]
        path.unlink()
    found = archived(root)
    assert all(image == sent[job_id] for job_id, (image, _) in found.items())
    published = {result.job_id: result for result in stream(client)}
    assert all(result == published[job_id] for job_id, (_, result) in found.items())
    assert len(found) > len(sent) / 4, "only what waited when a worker was killed is missing"


def test_what_waits_is_written_when_a_worker_is_stopped(plant: Settings, root: Path, tmp_path: Path) -> None:
    with worker(plant, log=tmp_path / "log") as process:
        wait_until(lambda: ready(tmp_path / "log"), "the worker is ready")
        sent = send(plant, 100)
        wait_for(list(sent), timeout_s=120, settings=plant)
        assert stop(process) == 0
    assert {job_id: image for job_id, (image, _) in archived(root).items()} == sent


def jobs_in(root: Path) -> set[str]:
    """The jobs whose results are in the archive, also while a worker writes to it."""
    return {path.stem.split("_")[1] for path in files(root) if path.suffix == ".json"}


def test_a_killed_worker_is_replaced_while_the_disk_hangs(
    plant: Settings, root: Path, tmp_path: Path, pause: Callable[[int], None]
) -> None:
    """Its writer can't end. Neither the line nor the next worker waits for it."""
    log = tmp_path / "log"
    with worker(plant, log=log) as process:
        wait_until(lambda: ready(log), "the worker is ready")
        wait_for(list(send(plant, 5)), timeout_s=120, settings=plant)
        wait_until(lambda: len(jobs_in(root)) == 5, "they are archived")
        hanging = writer_of(root, worker=child_of(process))
        pause(hanging)
        for _ in range(2):
            wait_for(list(send(plant, 50)), timeout_s=120, settings=plant)
            killed = child_of(process)
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda killed=killed: is_gone(killed), "it is gone")
        sent = send(plant, 50)
        assert len(wait_for(list(sent), timeout_s=120, settings=plant)) == 50
        wait_until(lambda: set(sent) <= jobs_in(root), "the next worker archives them")
        assert not is_gone(hanging)
        os.kill(hanging, signal.SIGCONT)
        wait_until(lambda: is_gone(hanging), "it ends once the disk answers")
        assert stop(process) == 0


def test_a_worker_that_is_stopped_does_not_wait_for_a_disk_that_hangs(
    plant: Settings, tmp_path: Path, pause: Callable[[int], None], root: Path
) -> None:
    log = tmp_path / "log"
    with worker(plant, log=log) as process:
        wait_until(lambda: ready(log), "the worker is ready")
        wait_for(list(send(plant, 5)), timeout_s=120, settings=plant)
        wait_until(lambda: len(jobs_in(root)) == 5, "they are archived")
        hanging = writer_of(root, worker=child_of(process))
        pause(hanging)
        wait_for(list(send(plant, 50)), timeout_s=120, settings=plant)
        assert stop(process) == 0
        assert not is_gone(hanging)
    assert "50 images were not written before the worker ended; process " in log.read_text()


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_bad_folder_is_logged_in_one_line_and_the_worker_sorts(
    plant: Settings, client: redis.Redis, root: Path, kind: str
) -> None:
    root.rmdir()
    if kind == "file":
        root.write_bytes(b"")
    send(plant, 20)
    done = sortline("worker", "--burst", settings=plant)
    assert done.returncode == 0
    assert len(stream(client)) == 20
    logged = [line for line in done.stderr.splitlines() if f"archive_dir {root}: " in line]
    fix = (
        "it is not a folder: move it away, or name another folder"
        if kind == "file"
        else "it does not exist: create the folder"
    )
    assert fix in logged[0]
    assert "20 images were not written" in logged[1]
    assert len(logged) == 2
    assert "Traceback" not in done.stderr


@pytest.fixture
def on_small_disk(plant: Settings, root: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A worker whose archive is a disk of its own of 500 kB; the disk's folder, as this process sees it."""
    in_namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*in_namespace, "true"], check=False).returncode:
        pytest.skip("unshare (util-linux) is not installed, or may not mount a file system here")
    mount = 'mount -t tmpfs -o size=500k tmpfs "$0" && exec "$@"'
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*in_namespace, "sh", "-c", mount, str(root), sys.executable, "-m", "sortline", "worker"],
            env=environment(plant, PYTHONPATH=str(PROJECT), SORTLINE_ARCHIVE_MAX_BYTES="300000"),
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: ready(tmp_path / "log"), "the worker is ready")
        yield process, Path(f"/proc/{process.pid}/root{root}")
    finally:
        process.kill()
        process.wait()


def test_a_disk_that_is_full_costs_images_of_the_archive_only(
    plant: Settings, client: redis.Redis, tmp_path: Path, on_small_disk: tuple[subprocess.Popen[bytes], Path]
) -> None:
    process, disk = on_small_disk
    log = tmp_path / "log"
    (disk / "ballast").write_bytes(bytes(490_000))
    sent = send(plant, 20)
    results = wait_for(list(sent), timeout_s=120, settings=plant)
    assert len(results) == 20
    wait_until(lambda: metric(log, 'sortline_archive_total{result="failed"}') > 0, "it is counted")
    (disk / "ballast").unlink()
    (job_id,) = send(plant, 1)
    wait_until(lambda: job_id in jobs_in(disk), "it works again")
    assert stop(process) == 0
    text = log.read_text()
    assert text.count(": it is on a full disk: free some space, and lower archive_max_bytes") == 1
    assert "Traceback" not in text
