"""A folder as a camera: hands out each version of each picture once, and only when it is completely written.

On a local disk, the kernel reports the files that a writer closes, or renames into the folder. On a network share, only
repeated scans show which files are new, and whether they have stopped growing. The parts are `kernel_reports`,
`folder_listing` (scans), `settling` and `picture_reader`; this module decides what is handed out.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from producer.sources.base import SourceFrame
from producer.sources.capture_time import CaptureTimes
from producer.sources.disposal import Disposal
from producer.sources.file_version import FileVersion, SentFile, is_local
from producer.sources.folder_listing import list_folder, version_of
from producer.sources.folder_notices import FolderNotices
from producer.sources.journal import SentJournal, oldest_absent
from producer.sources.kernel_reports import LIMITS_REACHED, KernelReports, Report, ReportKind
from producer.sources.picture_files import is_picture, is_system_folder
from producer.sources.picture_reader import PictureReader
from producer.sources.settling import SettlingFiles

log = logging.getLogger(__name__)

# Seconds between checks of the folder itself and of files that may still be being written. Without the kernel's
# reports, also between scans of all files.
_CHECK_S = 0.5
# While the kernel reports, a scan finds only what it can't report, such as files written through a memory map.
_SCAN_REPORTED_S = 300.0
# Scans of a share take at most this share of the time, however many files there are.
_SCAN_SHARE = 0.1
_GONE = (ReportKind.REMOVED, ReportKind.RENAMED_AWAY)
# A file that is not reported as closed counts as complete once it has not changed for this long.
_SETTLE_S = 1.0
# A closed file that is not a whole picture may have a writer that opens it again: it is given this long.
_SETTLE_TRUNCATED_S = 2.0
# A file that was reported as created, but not as closed, may have a writer that pauses: it is given this long.
_SETTLE_WRITING_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOptions:
    """How a folder is read.

    Args:
        recursive: also read its sub-folders.
        only_new: pass over the files that are there at the start.
        ignored: a sub-folder that is not read, such as the one that files are moved to; its path below the folder.
        max_age_s: a picture taken longer ago is not read, but handed out as too old; None: no picture is too old.
        capture_times: tells when a picture was taken.
    """

    recursive: bool = False
    only_new: bool = False
    ignored: str | None = None
    max_age_s: float | None = None
    capture_times: CaptureTimes = field(default_factory=CaptureTimes)


class FolderSource:
    """The pictures of one folder: first the files already there, in name order, then new ones.

    A file is handed out again if its size, time or inode changes. Files that are not pictures by name are passed over.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_image_bytes: int,
        options: FolderOptions | None = None,
        journal: SentJournal | None = None,
        disposal: Disposal | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        watch: bool | None = None,
    ) -> None:
        """
        Args:
            folder: must exist.
            max_image_bytes: of a larger file, only this many bytes plus one are read, so that the camera refuses it.
            options: how the folder is read.
            journal: the files that were sent before; closed with the source. None: nothing is remembered.
            disposal: moves or deletes accepted files; None: they stay.
            clock: monotonic, seconds.
            wall_clock: UTC epoch seconds.
            watch: whether to use the kernel's reports; None: if the folder is on a local disk, where they are complete.
        """
        self._folder = folder
        self._options = options or FolderOptions()
        self._journal = journal or SentJournal()
        self._disposal = disposal
        self._clock = clock
        self._wall_clock = wall_clock
        self._is_local = is_local(folder)
        self._reader = PictureReader(
            folder,
            max_image_bytes=max_image_bytes,
            capture_times=self._options.capture_times,
            max_age_s=self._options.max_age_s,
            trust_inode=self._is_local,
            wall_clock=wall_clock,
        )
        self._notices = FolderNotices(folder, recursive=self._options.recursive, disposes=disposal is not None)
        self._settling = SettlingFiles()
        self._ready: OrderedDict[str, float] = (
            OrderedDict()
        )  # complete files, and the seconds for which each is unchanged
        self._handed_out: dict[str, FileVersion] = {}
        self._vanished: set[str] = set()  # gone before they were read; the kernel will report why
        self._missed = 0
        self._passes_over = self._options.only_new
        self._scan_at = self._check_at = clock()
        self._reports: KernelReports | None = None
        if self._is_local if watch is None else watch:
            self._reports = KernelReports(folder, recursive=self._options.recursive, is_ignored=self._is_ignored)
            self._start_reports()

    def describe(self) -> str:
        below = " and its sub-folders" if self._options.recursive else ""
        found = f"found by a scan every {_CHECK_S:g} s" if self._reports is None else "reported by the kernel"
        sent = f"recorded in {self._journal.path}" if self._journal.path else "forgotten when the camera ends"
        times = self._options.capture_times.describe()
        return f"pictures in {self._folder}{below}, {found}; {times}; sent files are {sent}"

    def take(self, limit: int, timeout_s: float) -> list[SourceFrame]:
        give_up_at = self._clock() + timeout_s
        self._listen(0.0)
        while True:
            now = self._clock()
            if now >= self._check_at:
                self._check(now)
            frames = self._read_ready(limit)
            if frames or now >= give_up_at:
                return frames
            self._listen(max(0.001, min(give_up_at, self._check_at) - now))

    def accepted(self, frames: Sequence[SourceFrame]) -> None:
        """Record their files as sent, and move or delete them."""
        files = [frame.file for frame in frames if frame.file is not None]
        self._journal.add(files)
        for file in files:
            self._handed_out.pop(file.name, None)  # the journal knows it from now on
        self._dispose(files)

    def count_missed(self, skipped: int) -> int:
        """Count pictures that were overwritten or removed before they were read. Skipped ones are still there."""
        missed, self._missed = self._missed, 0
        return missed

    def close(self) -> None:
        self._journal.close()
        if self._reports is not None:
            self._reports.close()

    def _is_ignored(self, subfolder: str) -> bool:
        return is_system_folder(subfolder) or subfolder == self._options.ignored

    def _start_reports(self) -> None:
        """Watch the folder, which may be a new one of the same name. If there is none, the next check tries again."""
        assert self._reports is not None
        try:
            self._reports.start()
        except OSError as error:
            if error.errno in LIMITS_REACHED:
                self._scan_only(error)

    def _scan_only(self, error: OSError) -> None:
        """Go on without the kernel's reports, because the system's limit is reached."""
        log.warning(
            "can't watch %s (%s): new files are found by a scan every %g s. Raise fs.inotify.max_user_watches and "
            "fs.inotify.max_user_instances.",
            self._folder,
            error.strerror,
            _CHECK_S,
        )
        assert self._reports is not None
        self._reports.close()
        self._reports = None
        self._scan_at = self._check_at = self._clock()

    def _listen(self, timeout_s: float) -> None:
        """Handle the kernel's reports. Waits up to `timeout_s` for the first."""
        if self._reports is None:
            time.sleep(timeout_s)
            return
        try:
            reports = self._reports.read(timeout_s)
        except OSError as error:
            self._scan_only(error)
            return
        for report in reports:
            self._handle(report)
        # In one transaction: a clean-up may remove thousands of files.
        self._journal.forget(report.name for report in reports if report.kind in _GONE)

    def _handle(self, report: Report) -> None:
        name = report.name
        match report.kind:
            case ReportKind.LOST:
                self._scan_at = self._check_at = self._clock()
            case ReportKind.SUBFOLDER if self._options.recursive:
                self._scan(self._clock(), under=name)
            case ReportKind.SUBFOLDER:
                self._notices.subfolder(name)
            case _ if not is_picture(name):
                self._notices.passed_over([name])
            case ReportKind.APPEARED:
                self._settling.wait_for(name, None, since=self._clock(), settle_s=_SETTLE_WRITING_S)
            case ReportKind.COMPLETE:
                self._settling.drop(name)
                self._missed += name in self._ready
                self._ready.setdefault(name, 0.0)
            case ReportKind.REMOVED | ReportKind.RENAMED_AWAY:
                self._missed += report.kind is ReportKind.REMOVED and (name in self._ready or name in self._vanished)
                self._settling.drop(name)
                self._ready.pop(name, None)
                self._vanished.discard(name)
                self._handed_out.pop(name, None)  # the next file of this name is new

    def _check(self, now: float) -> None:
        self._check_at = now + _CHECK_S
        if self._reports is not None and not self._reports.is_current():
            self._start_reports()
            self._scan_at = now
        if now >= self._scan_at:
            self._scan(now)
            self._scan_at = now + max(_CHECK_S, (self._clock() - now) / _SCAN_SHARE)
            if self._reports is not None and self._reports.is_current():
                self._scan_at = now + _SCAN_REPORTED_S
        for name, unchanged_s in self._settling.pop_settled(now, self._version):
            self._ready.setdefault(name, unchanged_s)

    def _scan(self, now: float, under: str = "") -> None:
        """List all files, to find those that the kernel does not report."""
        try:
            listing = list_folder(
                self._folder,
                under,
                recursive=self._options.recursive,
                is_ignored=self._is_ignored,
                trust_inode=self._is_local,
            )
        except OSError as error:  # forget nothing: when the folder is back, its files must not be sent again
            if not under:
                self._notices.unreachable(error)
            return
        self._notices.listed(listing)
        if self._passes_over and not under:
            # Files that the kernel has reported meanwhile are new.
            old = {name: version for name, version in listing.files.items() if not self._is_on_its_way(name)}
            self._handed_out |= old
            self._notices.only_new(len(old))
            self._passes_over = False
        files = [SentFile(name, version) for name, version in listing.files.items()]
        for file in files:
            self._see(file, now)
        if self._disposal is not None:  # an earlier process may have ended before it moved or deleted them
            self._dispose([file for file in files if self._journal.has(file)])
        if listing.complete and not under:
            self._forget_oldest(listing.files.keys())

    def _see(self, file: SentFile, now: float) -> None:
        """Wait until a file that a scan has found settles, unless it was handed out or is on its way."""
        if not self._recognizes(file) and not self._is_on_its_way(file.name):
            # A share has another machine's times, which don't say how long ago by this clock a file was changed.
            unchanged_s = self._wall_clock() - file.version.modified_ns / 1e9 if self._is_local else 0.0
            since = now - max(0.0, unchanged_s)
            self._settling.wait_for(file.name, file.version, since=since, settle_s=_SETTLE_S)

    def _read_ready(self, limit: int) -> list[SourceFrame]:
        frames: list[SourceFrame] = []
        while self._ready and len(frames) < limit:
            name, unchanged_s = self._ready.popitem(last=False)
            frame = self._read(name, unchanged_s=unchanged_s)
            if frame is not None:
                frames.append(frame)
        return frames

    def _read(self, name: str, *, unchanged_s: float) -> SourceFrame | None:
        """Return the frame of a complete file; None if the file is gone, is known, or must be waited for."""
        now = self._clock()
        try:
            version = self._version(name)
        except OSError:  # a share that is briefly unreachable
            self._settling.wait_for(name, None, since=now, settle_s=_SETTLE_S)
            return None
        if version is None:
            self._vanish(name)
            return None
        file = SentFile(name, version)
        if self._recognizes(file):
            return None
        try:
            frame = self._reader.read(file, as_it_is=unchanged_s >= _SETTLE_TRUNCATED_S)
        except FileNotFoundError:
            self._vanish(name)
            return None
        if frame is None:
            self._settling.wait_for(name, version, since=now - unchanged_s, settle_s=_SETTLE_TRUNCATED_S)
        else:
            self._handed_out[name] = version
        return frame

    def _vanish(self, name: str) -> None:
        """Note that a complete file was gone before it was read. It is missed, unless it was only renamed."""
        if self._reports is None:
            self._missed += 1
        else:
            self._vanished.add(name)

    def _version(self, name: str) -> FileVersion | None:
        return version_of(self._folder / name, trust_inode=self._is_local)

    def _is_on_its_way(self, name: str) -> bool:
        return name in self._ready or name in self._settling

    def _recognizes(self, file: SentFile) -> bool:
        """Whether this version was handed out or sent. If only its time was set back, records the version anew."""
        handed_out = self._handed_out.get(file.name)
        known = handed_out or self._journal.version(file.name)
        if known is None or known == file.version:
            return known is not None
        if not file.version.is_restored(known):
            return False
        if handed_out is None:
            self._journal.add([file])
        else:
            self._handed_out[file.name] = file.version
        return True

    def _dispose(self, files: Sequence[SentFile]) -> None:
        if self._disposal is not None:
            self._journal.forget([file.name for file in files if self._disposal.dispose(file)])

    def _forget_oldest(self, present: Collection[str]) -> None:
        """Limit how many files are remembered that are no longer there."""
        self._journal.forget_oldest(present)
        for name in oldest_absent(self._handed_out, present):
            del self._handed_out[name]
