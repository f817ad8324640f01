"""The archive's stage alone, one round at a time: what it reads when, how often it wakes, and what it refuses."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from shared.server.connection import connect
from shared.settings import Settings
from tests.kit import ManualClock
from tests.worker import kit
from tests.worker.archive.kit import archived, images_on, troubles, writer_of
from tests.worker.kit import frame, picture
from tests.worker.rq.kit import claim, finished_job
from worker.archive.archive import HANGS_AFTER_S, ROUND_S, SLOW_S, Archive
from worker.archive.backlog import Backlog
from worker.archive.selection import Selection
from worker.archive.writer import Writer
from worker.observe.metrics import Metrics
from worker.observe.supervisor import StageThread, Supervisor
from worker.rq.kept_images import KeptImages
from worker.state.jobs import Disposition, FinishedJob

ALL = Selection(1.0, frozenset())


class Server(KeptImages):
    """Kept images on a server whose memory may be full."""

    share = 0.0

    def memory_share(self) -> float:
        return self.share


class Stage:
    """An archive, its parts, and what it does in each round."""

    def __init__(self, settings: Settings, root: Path, quiet: ManualClock) -> None:
        self._settings = settings
        self.server = Server(connect(settings.redis_url))
        self.writer = Writer(root, max_bytes=10**9, retry_wait_s=0.01)
        self.backlog = Backlog(self.server, max_bytes=10_000_000, monotonic=quiet)
        self.pauses: list[float] = []
        self.metrics = Metrics()
        self.archive = Archive(
            root,
            self.writer,
            ALL,
            self.backlog,
            metrics=self.metrics,
            monotonic=quiet,
            sleep=self.pauses.append,
        )
        self._thread = StageThread("archive", Supervisor(self.metrics, redis_url="redis://here"))

    def finish(self, *images: bytes, disposition: Disposition = Disposition.SUCCESS) -> list[FinishedJob]:
        """Sort these images, as the finish step would; the jobs as they were written."""
        kit.submit(self._settings, *map(frame, images))
        jobs = [finished_job(self._settings, job, disposition) for job in claim(self._settings)]
        jobs = self.archive.before_finish(jobs)
        assert kit.finisher(self._settings).finish(jobs) == [True] * len(jobs)
        self.archive.after_finish(jobs)
        return jobs

    def round(self) -> None:
        self.archive(self._thread)

    def rounds_until(self, condition: Callable[[], object], what: str) -> None:
        """As many rounds as it takes."""

        def condition_after_a_round() -> bool:
            self.round()
            return bool(condition())

        kit.wait_until(condition_after_a_round, what)

    def count(self, result: str) -> int:
        value = self.metrics.registry.get_sample_value("sortline_archive_total", {"result": result})
        return int(value or 0)


@pytest.fixture
def stage(settings: Settings, root: Path, quiet: ManualClock) -> Iterator[Stage]:
    """An archive whose writer has answered that the folder can be written to."""
    stage = Stage(settings, root, quiet)
    stage.rounds_until(lambda: stage.pauses, "the writer is ready")
    stage.pauses.clear()
    yield stage
    stage.writer.unanswered = 0  # so that closing waits for the end
    stage.writer.close()


def written(stage: Stage, count: int) -> None:
    stage.rounds_until(lambda: stage.count("written") == count, f"{count} are written")


def test_no_image_is_read_while_the_writer_has_not_taken_those_before(
    stage: Stage, client: redis.Redis, root: Path, pause: Callable[[int], None]
) -> None:
    """deploy/README.md counts on it: one image, or a few small ones, in the worker's memory."""
    pause(writer_of(root))
    stage.finish(*[picture() + bytes(1_500_000)] * 4)  # more than a pipe holds
    for _ in range(5):
        stage.round()
        assert stage.writer.is_sending
        assert len(images_on(client)) == 3
    os.kill(writer_of(root), signal.SIGCONT)
    written(stage, 4)
    assert images_on(client) == {}


def test_a_round_after_an_answer_takes_a_while(stage: Stage) -> None:
    """Otherwise the thread would wake for each image, and take the time of the threads that sort."""
    stage.finish(*[picture(tone) for tone in range(20)])
    written(stage, 20)
    assert 0 < len(stage.pauses) <= 20
    assert set(stage.pauses) == {ROUND_S}
    stage.pauses.clear()
    stage.round()
    assert stage.pauses == [], "a round without answers has waited for one"


def test_nothing_is_kept_on_a_server_that_is_nearly_full(
    stage: Stage, client: redis.Redis, root: Path, quiet: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    stage.finish(picture(1))
    stage.server.share = 0.95
    stage.round()
    assert stage.count("dropped") == 1
    for dropped in (2, 3):
        (job,) = stage.finish(picture(2))
        assert not job.keeps_image
        stage.round()
        assert stage.count("dropped") == dropped
    (said,) = troubles(caplog)
    assert "more than 90% of the server's memory is in use, so no image waits there: raise its maxmemory" in said
    quiet.now += 10
    stage.server.share = 0.5
    stage.round()
    (job,) = stage.finish(picture(3))
    assert job.keeps_image
    written(stage, 1)
    assert set(archived(root)) == {job.claimed.lease.job_id}


@pytest.mark.parametrize(
    ("silent_s", "fix"),
    [(0.0, "use a faster disk"), (SLOW_S + 1, "has not answered for 3 s: check the disk")],
)
def test_a_disk_that_hangs_is_told_from_one_that_is_slow(
    stage: Stage,
    root: Path,
    quiet: ManualClock,
    pause: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
    silent_s: float,
    fix: str,
) -> None:
    """The first message says it: it is the only one."""
    pause(writer_of(root))
    stage.finish(picture())
    stage.round()
    quiet.now += silent_s
    assert silent_s < HANGS_AFTER_S
    stage.finish(*[picture() + bytes(2_100_000)] * 6)  # one is read, the others take all the room
    stage.round()
    stage.finish(picture(), picture())
    assert stage.count("dropped") == 2
    (said,) = troubles(caplog)
    assert said.partition(". Sorting goes on")[0].endswith(fix)
    assert "images wait to be written, and no more may" in said


def test_a_writer_that_hangs_is_logged_once(
    stage: Stage, root: Path, quiet: ManualClock, pause: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    pid = writer_of(root)
    pause(pid)
    stage.finish(picture())
    stage.round()
    assert troubles(caplog) == []
    for _ in range(3):
        quiet.now += HANGS_AFTER_S + 1
        stage.round()
    (said,) = troubles(caplog)
    hangs = f"process {pid} has not answered for {HANGS_AFTER_S:.0f} s: check the disk"
    assert said.startswith(f"archive_dir {root}: {hangs}")
    os.kill(pid, signal.SIGCONT)
    written(stage, 1)
    assert stage.archive.is_done, "nothing is lost"


def test_a_writer_that_owes_no_answer_does_not_hang(
    stage: Stage, quiet: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """No image came for an hour."""
    for _ in range(3):
        quiet.now += 3600
        stage.round()
    assert troubles(caplog) == []


@pytest.mark.parametrize("disposition", [Disposition.SUCCESS, Disposition.FAILURE])
def test_an_image_that_is_gone_when_it_is_read_is_counted(
    stage: Stage, client: redis.Redis, caplog: pytest.LogCaptureFixture, disposition: Disposition
) -> None:
    """That of a failed job is gone if the job was requeued and sorted meanwhile: that is no trouble."""
    stage.finish(picture(), disposition=disposition)
    client.delete(*images_on(client))
    stage.round()
    assert stage.count("no_image") == 1
    assert len(troubles(caplog)) == (disposition is Disposition.SUCCESS)
    assert stage.archive.is_done
