"""The archive in the pipeline when its disk is full, missing or hangs: what it logs, and that no line waits for it."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis

from producer.submit import LineProducer
from shared.server.connection import connect
from shared.settings import Settings
from tests.kit import ManualClock, is_gone
from tests.worker import kit
from tests.worker.archive.kit import (
    AT,
    archived,
    counts,
    files,
    files_of_at_most,
    images_on,
    sort,
    started,
    troubles,
    writer_of,
)
from tests.worker.kit import frame, picture
from worker.archive import writer as writer_module
from worker.archive.writer import Writer
from worker.rq.kept_images import KeptImages


def test_a_full_disk_is_logged_once_and_so_is_its_recovery(
    archiving: Settings, client: redis.Redis, root: Path, quiet: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = started(archiving, quiet)
    small = sort(run, archiving, client, picture(1))
    kit.wait_until(lambda: counts(run._components) == {"written": 1}, "the first one is written")
    with files_of_at_most(100_000, pid=writer_of(root)):
        sort(run, archiving, client, *[picture() + bytes(200_000) for _ in range(5)])
        kit.wait_until(lambda: counts(run._components) == {"written": 1, "failed": 5}, "five are counted")
        # The disk still takes small images. That is not a recovery: the next large one would fail again.
        small += sort(run, archiving, client, picture(2))
        kit.wait_until(lambda: counts(run._components) == {"written": 2, "failed": 5}, "it is counted")
    assert set(archived(root)) == set(small)
    assert os.listdir(root / ".incoming") == []
    (said,) = troubles(caplog)
    assert said.startswith(f"archive_dir {root}: it can't hold so large an image: ")
    quiet.now += 100
    large = sort(run, archiving, client, picture() + bytes(200_000))
    kit.wait_until(lambda: counts(run._components) == {"written": 3, "failed": 5}, "it works again")
    run.drain()
    kit.finish(run)
    assert set(archived(root)) == {*small, *large}
    assert troubles(caplog)[1:] == [f"archive_dir {root} works again; 5 images were not archived"]


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_bad_folder_is_logged_at_the_start_and_used_once_it_is_fixed(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: ManualClock,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    root.rmdir()
    if kind == "file":
        root.write_bytes(b"")
    run = started(archiving, quiet)
    kit.wait_until(lambda: troubles(caplog), "the trouble is logged")
    job_ids = sort(run, archiving, client, *[picture(tone) for tone in range(20)])
    assert len(troubles(caplog)) == 1
    root.unlink(missing_ok=True)
    root.mkdir()
    kit.wait_until(lambda: counts(run._components) == {"written": 20}, "the waiting images are written")
    assert set(archived(root)) == set(job_ids)
    run.drain()
    kit.finish(run)


def test_a_folder_that_disappears_is_not_created_again(
    archiving: Settings, client: redis.Redis, root: Path, quiet: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    run = started(archiving, quiet)
    sort(run, archiving, client, picture(1))
    kit.wait_until(lambda: len(files(root)) == 2, "it is written")
    away = root.rename(root.with_name("unmounted"))
    sort(run, archiving, client, *[picture(tone) for tone in range(5)])
    kit.wait_until(lambda: troubles(caplog), "the trouble is logged")
    assert not root.exists()
    away.rename(root)
    kit.wait_until(lambda: sum(counts(run._components).values()) == 6, "all are counted")
    assert len(archived(root)) == counts(run._components)["written"] > 1, "the archive writes to the folder again"
    run.drain()
    kit.finish(run)
    assert len(troubles(caplog)) == 1


def jobs_of_results(root: Path) -> set[str]:
    """The jobs whose results are in an archive: `archived` can't be used where the first image is a pipe."""
    return {json.loads(path.read_bytes())["job_id"] for path in files(root) if path.suffix == ".json"}


def test_no_line_waits_for_a_disk_that_hangs(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: ManualClock,
    hang: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """More images come than may wait for the archive: all are sorted, and those that find no room are counted."""
    caplog.set_level(logging.INFO)
    (first,) = kit.prepare(archiving, [frame()])
    path = hang(first.job_id)
    run = started(archiving, quiet, clock=lambda: AT, max_bytes=2_000_000)
    LineProducer(archiving).send([first])
    kit.wait_until(lambda: kit.stream(client), "the first one is sorted")
    large = picture() + bytes(500_000)
    job_ids = [job_id for _ in range(6) for job_id in sort(run, archiving, client, *[large] * 8)]
    kit.wait_until(lambda: counts(run._components).get("dropped", 0) >= 8, "some are counted")
    assert "archive" not in run.supervisor.silent(longer_than_s=0), "the worker would be restarted"
    (said,) = troubles(caplog)
    assert " images wait to be written, and no more may: lower archive_share" in said
    assert path.read_bytes() == picture()
    kit.wait_until(lambda: sum(counts(run._components).values()) == 1 + len(job_ids), "the rest is written")
    assert counts(run._components)["dropped"] <= 44, "four of them can wait"
    assert len(jobs_of_results(root)) == counts(run._components)["written"]
    quiet.now += 100
    sort(run, archiving, client, picture())
    run.drain()
    kit.finish(run)
    assert len(troubles(caplog)) == 2


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_worker_that_ends_does_not_wait_for_a_disk_that_hangs(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: ManualClock,
    hang: Callable[[str], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    (first,) = kit.prepare(archiving, [frame()])
    path = hang(first.job_id)
    run = started(archiving, quiet, clock=lambda: AT)
    kit.wait_until(lambda: "archiving 100 %" in caplog.text, "the writer is ready")
    LineProducer(archiving).send([first])
    kit.wait_until(lambda: kit.stream(client), "the first one is sorted")
    sort(run, archiving, client, *[picture()] * 5)
    run.drain()
    kit.wait_until(run.ended.is_set, "the pipeline ends")
    writer = writer_of(root)
    run.join(0.0)
    assert counts(run._components) == {"dropped": 6}
    assert troubles(caplog) == [
        f"archive_dir {root}: 6 images were not written before the worker ended; process {writer} writes to it, "
        "and ends when the disk answers"
    ]
    assert run.supervisor.join(kit.PATIENCE_S)
    assert not is_gone(writer)
    path.read_bytes()
    kit.wait_until(lambda: is_gone(writer), "the writer has ended")


def test_waiting_images_are_written_before_the_worker_ends(
    archiving: Settings, client: redis.Redis, root: Path, quiet: ManualClock, hang: Callable[[str], Path]
) -> None:
    """The disk hangs until every other thread has ended, and then goes on."""
    (first,) = kit.prepare(archiving, [frame()])
    path = hang(first.job_id)
    run = started(archiving, quiet, clock=lambda: AT)
    LineProducer(archiving).send([first])
    kit.wait_until(lambda: kit.stream(client), "the first one is sorted")
    job_ids = sort(run, archiving, client, *[picture(tone) for tone in range(20)])
    run.drain()
    kit.wait_until(run.ended.is_set, "every other thread has ended")
    path.read_bytes()
    assert run.supervisor.join(kit.PATIENCE_S)
    assert counts(run._components) == {"written": 21}
    assert jobs_of_results(root) == {first.job_id, *job_ids}


def test_a_writer_that_is_killed_is_replaced(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: ManualClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    pause: Callable[[int], None],
) -> None:
    monkeypatch.setattr(writer_module, "_RESTART_WAIT_S", 0.01)
    run = started(archiving, quiet)
    sort(run, archiving, client, picture(1))
    kit.wait_until(lambda: counts(run._components) == {"written": 1}, "the first one is written")
    pause(writer_of(root))
    sort(run, archiving, client, picture(2))
    kit.wait_until(lambda: not images_on(client), "it is read from the server")
    os.kill(writer_of(root), signal.SIGKILL)
    kit.wait_until(lambda: counts(run._components) == {"written": 1, "failed": 1}, "it is counted")
    last = sort(run, archiving, client, picture(3))
    kit.wait_until(lambda: counts(run._components) == {"written": 2, "failed": 1}, "another writer writes")
    assert last[0] in archived(root)
    (said,) = troubles(caplog)
    assert said.startswith(f"archive_dir {root}: the process that writes it ended (SIGKILL)")
    run.drain()
    kit.finish(run)


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_bug_of_the_archive_does_not_end_the_worker(
    archiving: Settings,
    client: redis.Redis,
    root: Path,
    quiet: ManualClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer_module, "_RESTART_WAIT_S", 0.01)
    broken: list[Exception] = []
    exchange = Writer.exchange

    def fails_once(writer: Writer, timeout_s: float) -> list[tuple[str, str]]:
        if broken:
            raise broken.pop()
        return exchange(writer, timeout_s)

    monkeypatch.setattr(Writer, "exchange", fails_once)
    run = started(archiving, quiet)
    sort(run, archiving, client, picture(1))
    kit.wait_until(lambda: counts(run._components) == {"written": 1}, "the first one is written")
    broken.append(ValueError("a bug"))
    sort(run, archiving, client, picture(2))
    kit.wait_until(lambda: not broken and sum(counts(run._components).values()) == 2, "it is counted")
    sort(run, archiving, client, picture(3))
    kit.wait_until(lambda: sum(counts(run._components).values()) == 3, "it is written")
    assert counts(run._components)["written"] >= 2
    assert not run.supervisor.failed.is_set()
    (said,) = [record for record in caplog.records if record.name == "sortline.archive"]
    assert "ValueError('a bug')" in said.getMessage() and said.exc_info is not None
    run.drain()
    kit.finish(run)


class AwayTwice(KeptImages):
    """Images on a server that is away at first."""

    errors = 2

    def read(self, images: Sequence[str]) -> list[bytes | None]:
        if self.errors:
            self.errors -= 1
            raise redis.exceptions.ConnectionError("away")
        return super().read(images)


def test_images_wait_on_the_server_while_redis_is_away(
    archiving: Settings, client: redis.Redis, root: Path, quiet: ManualClock
) -> None:
    images = AwayTwice(connect(archiving.redis_url))
    run = started(archiving, quiet, images=images)
    job_ids = sort(run, archiving, client, picture(1), picture(2))
    kit.wait_until(lambda: counts(run._components) == {"written": 2}, "they are written")
    assert images.errors == 0
    assert set(archived(root)) == set(job_ids)
    run.drain()
    kit.finish(run)
