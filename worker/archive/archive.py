"""The archive: a stage of the pipeline that keeps images with their results in a folder. No other stage waits for it.

In: as a `JobObserver`, the jobs before and after their results are written. Out: files (`worker.archive.files` has
their names), which a process of its own writes (`worker.archive.writer_program`).

The archive decides once a result is known. If it wants the image, the finish script leaves it on the server instead of
deleting it. The archive's thread reads it from there, a few images at a time, and only when the writer has taken those
before. If the disk is slow, full or gone, images are dropped and counted, and the log says so once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import redis

from shared import keys
from shared.server.connection import connect
from shared.settings import Settings
from worker.archive import writer_messages as messages
from worker.archive.backlog import MAX_SERVER_SHARE, Backlog, WaitingImage
from worker.archive.selection import Selection
from worker.archive.trouble import Trouble
from worker.archive.writer import Writer, WriterEnded
from worker.observe.metrics import Metrics
from worker.observe.supervisor import StageThread
from worker.rq.kept_images import KeptImages
from worker.state.jobs import Disposition, FinishedJob
from worker.steps.flow import IDLE_WAIT_S

log = logging.getLogger("sortline.archive")

# How long the writer waits before it tries the disk again.
RETRY_WAIT_S = 0.5
# A round takes at least this long: otherwise the thread would wake for each image, and hold up the other threads.
ROUND_S = 0.01
# A disk is slow as long as the writer answers within this time. After more than the second, the log says that it hangs.
SLOW_S = 2.0
HANGS_AFTER_S = 10.0

_SERVER_FULL = (
    f"more than {MAX_SERVER_SHARE:.0%} of the server's memory is in use, so no image waits there: "
    "raise its maxmemory, or shorten its queues"
)
_EXPIRED = f"images waited too long: the server deletes them after {keys.KEPT_IMAGE_S} s: use a faster disk"


class Archive:
    """Archives a worker's images. Its step is for one thread; `close` is for any; the rest is for the finish thread."""

    def __init__(
        self,
        root: Path,
        writer: Writer,
        selection: Selection,
        backlog: Backlog,
        *,
        metrics: Metrics,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Starts no process yet."""
        self._root, self._name = root, f"archive_dir {root}"
        self._writer, self._selection, self._backlog = writer, selection, backlog
        self._count = metrics.archive.labels
        self._trouble = Trouble(self._name, clock=monotonic)
        self._monotonic, self._sleep = monotonic, sleep
        self._refusal: str | None = None  # why `before_finish` has marked no image of the last jobs
        self._lock = threading.Lock()  # guards the next two
        self._pending = 0  # images that wait or are being written
        self._is_closed = False
        self._works: bool | None = None  # None until the writer has tried the disk
        self._answered_at = monotonic()  # when the writer last answered, or owed no answer

    # What the finish step calls.

    def before_finish(self, jobs: list[FinishedJob]) -> list[FinishedJob]:
        """Have the server keep the images that are wanted, unless too many wait already."""
        self._refusal = self._why_none_may_wait()
        if self._refusal is not None:
            return jobs
        return [replace(job, keeps_image=True) if _has_image(job) and self._wants(job) else job for job in jobs]

    def after_finish(self, finished: Sequence[FinishedJob]) -> None:
        """Queue the images that are wanted; count those that are not archived."""
        for job in finished:
            if job.keeps_image:
                with self._lock:
                    self._pending += 1
                self._backlog.add(_waiting_image(job))
            elif not _has_image(job):
                self._count("no_image").inc(self._wants(job))
            elif self._refusal is not None and self._wants(job):
                self._count("dropped").inc()
                self._trouble.report(f"{self._name}: {self._refusal}", lost=1)

    def _wants(self, job: FinishedJob) -> bool:
        return job.result is not None and self._selection.wants(job.result)

    def _why_none_may_wait(self) -> str | None:
        if self._backlog.is_server_full:
            return _SERVER_FULL
        if not self._backlog.is_full:
            return None
        silent_s = self._monotonic() - self._answered_at
        if silent_s < SLOW_S:
            fix = "lower archive_share or archive_max_bytes, shorten archive_outcomes, or use a faster disk"
        else:
            fix = f"process {self._writer.pid} has not answered for {silent_s:.0f} s: check the disk"
        return f"{self._backlog.count:,} images wait to be written, and no more may: {fix}"

    # The stage.

    def __call__(self, thread: StageThread) -> None:
        """Read a few images, hand them to the writer, and count what it has written."""
        thread.wait_for_work()  # until the next round: no job waits for it
        try:
            self._work(thread)
        except redis.exceptions.RedisError:
            raise  # the supervisor waits
        except WriterEnded as error:
            self._works = False
            self._lose("failed", error.lost, str(error))
        except Exception as error:  # whatever it is, sorting goes on
            self._works = False
            self._lose("failed", self._writer.close(), repr(error), bug=error)
            self._sleep(RETRY_WAIT_S)

    @property
    def is_done(self) -> bool:
        """Whether no image waits, or none can be written."""
        return self._works is False or self._is_closed or not self._pending

    def end(self) -> None:
        """Let the writer end once it has written what it was given, and delete the images that still wait."""
        self._writer.close()
        self._backlog.give_up()

    def close(self) -> None:
        """Drop the images that still wait: the worker ends. A writer that hangs is left behind."""
        with self._lock:
            dropped, self._is_closed = self._pending, True
        if dropped:
            self._count("dropped").inc(dropped)
            log.warning(
                "%s: %d images were not written before the worker ended%s",
                self._name,
                dropped,
                f"; process {self._writer.pid} writes to it, and ends when the disk answers" if self._works else "",
            )

    def _work(self, thread: StageThread) -> None:
        self._backlog.check_server(thread)
        if self._backlog.is_server_full:
            self._lose("dropped", self._backlog.give_up(), _SERVER_FULL)
        if self._writer.pid is None:
            self._answered_at = self._monotonic()
        if self._works and not self._writer.is_sending:
            self._send_some(thread)
        is_owed_answers = self._writer.unanswered > 0 or not self._works
        answers = self._writer.exchange(IDLE_WAIT_S if is_owed_answers else 0.0)
        for kind, text in answers:
            self._observe(kind, text)
        if answers:
            self._answered_at = self._monotonic()
            self._sleep(ROUND_S)
        elif self._monotonic() - self._answered_at > HANGS_AFTER_S and not self._is_closed:
            hangs = f"process {self._writer.pid} has not answered for {HANGS_AFTER_S:.0f} s: check the disk"
            self._trouble.report(f"{self._name}: {hangs}", lost=0)

    def _send_some(self, thread: StageThread) -> None:
        """Read a few images from the server, and pass them on."""
        images = self._backlog.read(thread, timeout_s=0.0 if self._writer.unanswered else IDLE_WAIT_S)
        if not self._writer.unanswered:
            self._answered_at = self._monotonic()
        for waited, image in images:
            if image is not None:
                self._writer.put(waited.result_json, image)
            elif waited.is_kept_for_us:
                self._lose("no_image", 1, _EXPIRED)
            else:
                self._settle("no_image", 1)

    def _observe(self, kind: str, text: str) -> None:
        """Count and log one answer of the writer."""
        if kind == messages.WRITTEN:
            self._settle("written", 1)
            self._trouble.observe_written()
        elif kind == messages.READY:
            if self._works is None:
                log.info("archiving %s to %s", self._selection, self._root)
            self._works = True
        elif kind == messages.FAILED:
            self._lose("failed", 1, text)
        else:
            self._works = False
            self._lose("failed", 0, text)

    def _lose(self, result: str, count: int, reason: str, *, bug: Exception | None = None) -> None:
        self._settle(result, count)
        self._trouble.report(f"{self._name}: {reason}", lost=count, bug=bug)

    def _settle(self, result: str, count: int) -> None:
        """Count what became of some images. Once the archive is closed, they are counted already."""
        with self._lock:
            if not self._is_closed:
                self._pending -= count
                self._count(result).inc(count)


def _has_image(job: FinishedJob) -> bool:
    """Whether a worker has read the job's image."""
    return job.claimed.refusal is None and job.claimed.image_bytes > 0


def _waiting_image(job: FinishedJob) -> WaitingImage:
    assert job.result is not None, "only a job with a result is wanted"
    lease, is_kept = job.claimed.lease, job.disposition is Disposition.SUCCESS
    key = keys.kept_image(lease.job_id, lease.execution_id) if is_kept else keys.image(lease.job_id)
    return WaitingImage(job.result.model_dump_json().encode(), key, job.claimed.image_bytes, is_kept)


def open_archive(settings: Settings, *, metrics: Metrics) -> Archive | None:
    """The archive that the settings name, if they name one. Does not touch its disk, which may hang."""
    root = settings.archive_path
    if root is None:
        return None
    selection = Selection(settings.archive_share, frozenset(settings.archive_outcome_names))
    if selection.is_empty:
        log.warning("archive_dir %s: nothing is archived, as archive_share is 0 and archive_outcomes is empty", root)
    writer = Writer(root, max_bytes=settings.archive_max_bytes, retry_wait_s=RETRY_WAIT_S)
    backlog = Backlog(KeptImages(connect(settings.redis_url)))
    return Archive(root, writer, selection, backlog, metrics=metrics)
