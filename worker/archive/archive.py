"""The archive: a stage of the pipeline that writes images with their results to a folder. No other stage waits for it.

In: as a `JobObserver`, each image before it is decoded, and each job whose result is written. Out: files
(`worker.archive.files` has their names).

An image that may be wanted is held in memory from its decoding until its result is written. Then the archive's own
thread writes it, however long that takes. If the disk is slow, full or gone, images are dropped and counted, and the
log says so once.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from shared.schemas import SortResult
from shared.settings import Settings
from worker.archive.folder import ArchiveFolder
from worker.archive.held_image import MAX_HELD_BYTES, HeldImage, hold
from worker.archive.selection import Selection
from worker.archive.trouble import Trouble
from worker.observe.metrics import Metrics
from worker.observe.supervisor import StageThread
from worker.state.byte_budget import ByteBudget
from worker.state.jobs import ClaimedJob, FinishedJob
from worker.steps.flow import IDLE_WAIT_S

log = logging.getLogger("sortline.archive")

# How long the stage waits after a failure before it tries the disk again.
RETRY_WAIT_S = 0.5

# The note of a job whose image is not held because there was no room for it.
_NO_ROOM = object()


class Archive:
    """Archives a worker's images. Its step is for one thread, the rest for any."""

    def __init__(
        self,
        folder: ArchiveFolder,
        selection: Selection,
        *,
        metrics: Metrics,
        max_held_bytes: int = MAX_HELD_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._root = folder, folder.root
        self._selection = selection
        self._count = metrics.archive.labels
        self._budget = ByteBudget(max_held_bytes)
        self._trouble = Trouble(f"archive_dir {folder.root}", clock=monotonic)
        self._too_slow = (
            f"archive_dir {folder.root}: {max_held_bytes / 1e6:.0f} MB of images wait to be written, and no more may: "
            "lower archive_share, shorten archive_outcomes, or use a faster disk"
        )
        self._waiting: queue.SimpleQueue[tuple[HeldImage, SortResult]] = queue.SimpleQueue()
        self._works: bool | None = None  # None until it is first tried

    # What other stages call.

    def before_decode(self, claimed: ClaimedJob, image: bytes | None) -> ClaimedJob:
        """Hold the image in memory if it may be wanted."""
        if image is None or not self._selection.may_want(claimed.lease.job_id):
            return claimed
        return replace(claimed, note=hold(image, self._budget) or _NO_ROOM)

    def after_finish(self, finished: Sequence[FinishedJob]) -> None:
        """Queue the images that are wanted."""
        for job in finished:
            if job.result is None or not self._selection.wants(job.result):
                continue
            image = job.claimed.note
            if isinstance(image, HeldImage):
                self._waiting.put((image, job.result))
            elif image is _NO_ROOM:
                self._count("dropped").inc()
                self._trouble.report(self._too_slow, lost=1)
            else:
                self._count("no_image").inc()

    # The stage.

    def __call__(self, thread: StageThread) -> None:
        """Write one image."""
        thread.wait_for_work()  # until the next round: a disk may hang, and no job waits for it
        if not self._works:
            self._prepare()
        if self._works:
            self._write_next()

    @property
    def is_done(self) -> bool:
        """Whether no image waits, or none can be written."""
        return self._works is False or self._waiting.empty()

    def close(self) -> None:
        """Drop the images that still wait: the worker ends."""
        dropped = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
                dropped += 1
        if dropped:
            self._count("dropped").inc(dropped)
            log.warning("archive_dir %s: %d images were not written before the worker ended", self._root, dropped)

    def _prepare(self) -> None:
        try:
            self._folder.prepare()
        except OSError as error:
            self._fail(error, lost=0)
            return
        if self._works is None:
            log.info("archiving %s to %s", self._selection, self._root)
        self._works = True

    def _write_next(self) -> None:
        try:
            image, result = self._waiting.get(timeout=IDLE_WAIT_S)
        except queue.Empty:
            return
        try:
            self._folder.write(image.data, result)
        except Exception as error:  # whatever it is, the next image may be written, and sorting goes on
            self._count("failed").inc()
            self._fail(error, lost=1)
        else:
            self._count("written").inc()
            self._trouble.observe_written()

    def _fail(self, error: Exception, *, lost: int) -> None:
        self._works = False
        bug = None if isinstance(error, OSError) else error
        self._trouble.report(self._folder.explain(error), lost=lost, bug=bug)
        time.sleep(RETRY_WAIT_S)


def open_archive(settings: Settings, *, metrics: Metrics) -> Archive | None:
    """The archive that the settings name, if they name one. Does not touch its disk, which may hang."""
    root = settings.archive_path
    if root is None:
        return None
    selection = Selection(settings.archive_share, frozenset(settings.archive_outcome_names))
    if selection.is_empty:
        log.warning("archive_dir %s: nothing is archived, as archive_share is 0 and archive_outcomes is empty", root)
    return Archive(ArchiveFolder(root, max_bytes=settings.archive_max_bytes), selection, metrics=metrics)
