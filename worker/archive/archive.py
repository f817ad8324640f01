"""The archive: a stage of the pipeline that keeps images with their results in a folder. No other stage waits for it.

In: as a `JobObserver`, the jobs before and after their results are written. Out: files (`worker.archive.files` has
their names), which a process of its own writes (`worker.archive.writer_program`).

The archive decides once a result is known. If it wants the image, the finish script leaves it on the server instead of
deleting it. The archive's thread reads it from there, a few images at a time, and only when the writer has taken those
before. If the disk is slow, full or gone, images are dropped and counted, and the log says so once.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import redis

from shared import keys
from shared.schemas import SortResult
from shared.server.connection import connect
from shared.settings import Settings
from worker.archive import writer_messages as messages
from worker.archive.selection import Selection
from worker.archive.trouble import Trouble
from worker.archive.writer import Writer, WriterEnded
from worker.observe.metrics import Metrics
from worker.observe.supervisor import StageThread
from worker.rq.kept_images import KeptImages
from worker.state.byte_budget import ByteBudget
from worker.state.jobs import Disposition, FinishedJob
from worker.steps.flow import IDLE_WAIT_S

log = logging.getLogger("sortline.archive")

# How many bytes of images may wait on the server. While as many wait, further images are not archived: a slow disk must
# not fill the server's memory. The images of one batch may exceed it: they have been on the server until now anyway.
MAX_WAITING_BYTES = 64_000_000
# How many bytes of images the worker reads at a time; one image if that is larger.
READ_BYTES = 1_000_000
# What each image counts beside its own bytes: its result waits in the worker's memory, where it takes about 3 KB.
RECORD_BYTES = 16_384
# How long the writer waits after a failure before it tries the disk again.
RETRY_WAIT_S = 0.5
# A round takes at least this long: otherwise the thread would wake for each image, and hold up the other threads.
ROUND_S = 0.01
# The log says so if the writer has not answered for this long.
HANGS_AFTER_S = 10.0


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A job whose image is to be archived."""

    result: SortResult
    image_key: str
    image_bytes: int
    is_kept_for_us: bool  # False for a failed job: its image stays on the server so that `rq requeue` has one


class Archive:
    """Archives a worker's images. Its step is for one thread; `close` is for any; the rest is for the finish thread."""

    def __init__(
        self,
        root: Path,
        writer: Writer,
        selection: Selection,
        images: KeptImages,
        *,
        metrics: Metrics,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts no process yet."""
        self._root, self._writer, self._selection, self._images = root, writer, selection, images
        self._count = metrics.archive.labels
        self._server_bytes = ByteBudget(max_waiting_bytes)
        self._trouble = Trouble(f"archive_dir {root}", clock=monotonic)
        self._too_slow = (
            f"archive_dir {root}: {max_waiting_bytes / 1e6:.0f} MB of images wait to be written, and no more may: "
            "lower archive_share, shorten archive_outcomes, or use a faster disk"
        )
        self._is_full = False  # at the last `before_finish`
        self._waiting: queue.SimpleQueue[_Wanted] = queue.SimpleQueue()
        self._reading: list[_Wanted] = []  # kept while Redis is unavailable
        self._lock = threading.Lock()  # guards the next two
        self._pending = 0  # images that wait or are being written
        self._is_closed = False
        self._works: bool | None = None  # None until the writer has tried the disk
        self._answered_at = time.monotonic()

    # What the finish step calls.

    def before_finish(self, jobs: list[FinishedJob]) -> list[FinishedJob]:
        """Have the server keep the images that are wanted, unless too many wait already."""
        self._is_full = self._server_bytes.wait_for_capacity(0.0) == 0
        if self._is_full:
            return jobs
        return [replace(job, keeps_image=True) if _has_image(job) and self._wants(job) else job for job in jobs]

    def after_finish(self, finished: Sequence[FinishedJob]) -> None:
        """Queue the images that are wanted; count those that are not archived."""
        for job in finished:
            if job.keeps_image and job.result is not None:
                self._add(job, job.result)
            elif not _has_image(job):
                self._count("no_image").inc(self._wants(job))
            elif self._is_full and self._wants(job):
                self._count("dropped").inc()
                self._trouble.report(self._too_slow, lost=1)

    def _wants(self, job: FinishedJob) -> bool:
        return job.result is not None and self._selection.wants(job.result)

    def _add(self, job: FinishedJob, result: SortResult) -> None:
        size_bytes, lease = job.claimed.image_bytes, job.claimed.lease
        is_kept = job.disposition is Disposition.SUCCESS
        key = keys.kept_image(lease.job_id, lease.execution_id) if is_kept else keys.image(lease.job_id)
        self._server_bytes.take(size_bytes + RECORD_BYTES)
        with self._lock:
            self._pending += 1
        self._waiting.put(_Wanted(result, key, size_bytes, is_kept))

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
            self._settle("failed", error.lost)
            self._trouble.report(f"archive_dir {self._root}: {error}", lost=error.lost)
        except Exception as error:  # whatever it is, sorting goes on
            self._works, lost = False, self._writer.close()
            self._settle("failed", lost)
            self._trouble.report(f"archive_dir {self._root}: {error!r}", lost=lost, bug=error)
            time.sleep(RETRY_WAIT_S)

    @property
    def is_done(self) -> bool:
        """Whether no image waits, or none can be written."""
        return self._works is False or self._is_closed or not self._pending

    def end(self) -> None:
        """Let the writer end once it has written what it was given."""
        self._writer.close()

    def close(self) -> None:
        """Drop the images that still wait: the worker ends. A writer that hangs is left behind."""
        with self._lock:
            dropped, self._is_closed = self._pending, True
        if dropped:
            self._count("dropped").inc(dropped)
            log.warning(
                "archive_dir %s: %d images were not written before the worker ended%s",
                self._root,
                dropped,
                f"; process {self._writer.pid} writes to it, and ends when the disk answers" if self._works else "",
            )

    def _work(self, thread: StageThread) -> None:
        if self._works and not self._writer.is_sending:
            self._reading = self._reading or self._next_images()
            if self._reading:
                self._read_images(thread)
        owes_answers = self._writer.unanswered > 0 or not self._works
        if not owes_answers or self._writer.pid is None:
            self._answered_at = time.monotonic()
        answers = self._writer.exchange(IDLE_WAIT_S if owes_answers else 0.0)
        for kind, text in answers:
            self._observe(kind, text)
        if answers:
            self._answered_at = time.monotonic()
            time.sleep(ROUND_S)
        elif time.monotonic() - self._answered_at > HANGS_AFTER_S and not self._is_closed:
            hangs = f"process {self._writer.pid} has waited for its disk for {HANGS_AFTER_S:.0f} s: check the disk"
            self._trouble.report(f"archive_dir {self._root}: {hangs}", lost=0)

    def _next_images(self) -> list[_Wanted]:
        """The next few images; none if none come within IDLE_WAIT_S."""
        images: list[_Wanted] = []
        with contextlib.suppress(queue.Empty):
            images.append(self._waiting.get(timeout=0.0 if self._writer.unanswered else IDLE_WAIT_S))
            while sum(image.image_bytes for image in images) < READ_BYTES:
                images.append(self._waiting.get_nowait())
        return images

    def _read_images(self, thread: StageThread) -> None:
        """Read the images from the server, and pass them on."""
        kept = [wanted.image_key for wanted in self._reading if wanted.is_kept_for_us]
        with thread.calling_redis():
            images = self._images.read([wanted.image_key for wanted in self._reading], delete=kept)
        thread.wait_for_work()
        read, self._reading = self._reading, []
        for wanted, image in zip(read, images, strict=True):
            self._server_bytes.give_back(wanted.image_bytes + RECORD_BYTES)
            if image is None:
                self._settle("no_image", 1)
            else:
                self._writer.put(wanted.result.model_dump_json().encode(), image)

    def _observe(self, kind: str, text: str) -> None:
        """Count and log one answer of the writer."""
        if kind == messages.WRITTEN:
            self._settle("written", 1)
            self._trouble.observe_written()
        elif kind == messages.READY:
            if self._works is None:
                log.info("archiving %s to %s", self._selection, self._root)
            self._works = True
        else:
            self._works = False
            lost = int(kind == messages.FAILED)
            self._settle("failed", lost)
            self._trouble.report(text, lost=lost)

    def _settle(self, result: str, count: int) -> None:
        """Count what became of some images. Once the archive is closed, they are counted already."""
        with self._lock:
            if not self._is_closed:
                self._pending -= count
                self._count(result).inc(count)


def _has_image(job: FinishedJob) -> bool:
    """Whether a worker has read the job's image."""
    return job.claimed.refusal is None and job.claimed.image_bytes > 0


def open_archive(settings: Settings, *, metrics: Metrics) -> Archive | None:
    """The archive that the settings name, if they name one. Does not touch its disk, which may hang."""
    root = settings.archive_path
    if root is None:
        return None
    selection = Selection(settings.archive_share, frozenset(settings.archive_outcome_names))
    if selection.is_empty:
        log.warning("archive_dir %s: nothing is archived, as archive_share is 0 and archive_outcomes is empty", root)
    writer = Writer(root, max_bytes=settings.archive_max_bytes, retry_wait_s=RETRY_WAIT_S)
    return Archive(root, writer, selection, KeptImages(connect(settings.redis_url)), metrics=metrics)
