"""A folder as a camera: hands out each version of each picture once, and only when it is completely written.

On a local disk, the kernel reports the files that a writer closes, or renames into the folder. On a network share, only
repeated scans show which files are new, and whether they have stopped growing. The parts are `kernel_reports`,
`folder_listing` (scans), `settling`, `ready_files`, `picture_reader` and `file_memory`; this module decides what is
handed out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from producer.sources.base import SourceFrame
from producer.sources.disposal import Disposal
from producer.sources.file_memory import FileMemory
from producer.sources.file_version import FileVersion, SentFile, is_local
from producer.sources.folder_listing import is_linked, list_folder, version_of
from producer.sources.folder_notices import FolderNotices
from producer.sources.folder_options import FolderOptions
from producer.sources.journal import SentJournal
from producer.sources.kernel_reports import LIMITS_REACHED, KernelReports, Report, ReportKind
from producer.sources.picture_files import is_picture, is_system_folder
from producer.sources.picture_reader import PictureReader, digest_of
from producer.sources.ready_files import ReadyFiles
from producer.sources.settling import SETTLE_TRUNCATED_S, SETTLE_WRITING_S, SettlingFiles

# Seconds between checks of the folder itself and of files that may still be being written. Without the kernel's
# reports, also between scans of all files.
_CHECK_S = 0.5
# While the kernel reports, a scan finds only what it can't report, such as files written through a memory map.
_SCAN_REPORTED_S = 300.0
# Scans of a share take at most this share of the time, however many files there are.
_SCAN_SHARE = 0.1
# Seconds in which files that were sent earlier are moved or deleted, before it is seen whether a new picture has come.
_DISPOSE_S = 0.05


class FolderSource:
    """The pictures of one folder: new ones as they come, and meanwhile the files already there, in name order.

    A file is handed out again if its size, time or inode changes, unless it only got an earlier time. Files that are
    not pictures by name are passed over.
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
            salt=self._journal.salt,
            wall_clock=wall_clock,
        )
        self._memory = FileMemory(self._journal, version_of=self._version, digest_of=self._reader.digest)
        self._notices = FolderNotices(folder, recursive=self._options.recursive, disposes=disposal is not None)
        self._settling = SettlingFiles()
        self._writing: set[str] = set()  # the kernel will report when their writers close them
        self._old: set[str] = set()  # were there at the first scan, and are not read yet
        self._ready = ReadyFiles()
        self._vanished: set[str] = set()  # gone before they were read; the kernel will report why
        self._renamed: set[str] = set()  # were handed out under another name, and are not recognized yet
        self._leftovers: dict[str, SentFile] = {}  # were sent by an earlier process, and are still to be disposed of
        self._missed = 0
        self._passes_over = self._options.only_new
        self._has_links = False
        self._has_scanned = False
        self._scan_at = self._check_at = clock()
        self._reports: KernelReports | None = None
        if self._is_local if watch is None else watch:
            self._reports = KernelReports(folder, recursive=self._options.recursive, is_ignored=self._is_ignored)
            self._start_reports()

    def describe(self) -> str:
        below = " and its sub-folders" if self._options.recursive else ""
        found = f"found by a scan every {_CHECK_S:g} s" if self._reports is None else "reported by the kernel"
        sent = f"recorded in {self._journal.path}" if self._journal.path else "forgotten when the camera ends"
        then = f", and then {self._disposal.describe()}" if self._disposal is not None else ""
        times = self._options.capture_times.describe()
        return f"pictures in {self._folder}{below}, {found}; {times}; sent files are {sent}{then}"

    def take(self, limit: int, timeout_s: float) -> list[SourceFrame]:
        give_up_at = self._clock() + timeout_s
        self._listen(0.0)
        while True:
            now = self._clock()
            if now >= self._check_at:
                self._check(now)
            frames = self._read_ready(limit)
            if frames:
                return frames
            self._dispose_leftovers()
            if now >= give_up_at:
                return []
            self._listen(0.0 if self._leftovers else max(0.001, min(give_up_at, self._check_at) - now))

    def accepted(self, frames: Sequence[SourceFrame]) -> None:
        """Record their files as sent, and move or delete them."""
        self._dispose(self._memory.accept(frame.file for frame in frames if frame.file is not None))

    def count_missed(self, skipped: int) -> int:
        """Count pictures that were overwritten or removed before they were read. Skipped ones are still there."""
        self._listen(0.0)  # during an outage nothing else reads the reports, of which the kernel keeps a limited number
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
            return
        # What became of the files of the folder that had this name before is not reported any more.
        self._missed += len(self._vanished)
        self._vanished, self._writing = set(), set()
        if self._is_local and not is_local(self._folder):
            self._is_local = False
            self._scan_only()

    def _scan_only(self, error: OSError | None = None) -> None:
        """Go on without the kernel's reports, because of `error`, or because the folder is on a share now."""
        self._notices.scanned_only(error, interval_s=_CHECK_S)
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
        gone: list[str] = []
        for report in reports:
            if report.kind is ReportKind.REMOVED:
                gone.append(report.name)
            elif report.kind is ReportKind.SUBFOLDER:  # may be a new one of the same name, with the same files
                self._memory.forget(gone)
                gone = []
            self._handle(report)
        self._memory.forget(gone)

    def _handle(self, report: Report) -> None:
        name = report.name
        match report.kind:
            case ReportKind.SCAN_NEEDED:
                self._scan_at = self._check_at = self._clock()
            case ReportKind.SUBFOLDER if self._options.recursive:
                self._scan(self._clock(), under=name)
            case ReportKind.SUBFOLDER:
                self._notices.subfolder(name)
            case ReportKind.SUBFOLDER_REMOVED:
                for below in self._ready.below(name):
                    self._lose(below)
            case ReportKind.RENAMED if is_picture(report.former):
                self._handle_rename(name, report.former)
            case _ if is_picture(name):
                self._handle_picture(report.kind, name)
            case _:
                self._notices.no_picture(name, appeared=report.kind is ReportKind.APPEARED)

    def _handle_picture(self, kind: ReportKind, name: str) -> None:
        match kind:
            case ReportKind.APPEARED if not is_linked(self._folder / name):
                self._writing.add(name)
                self._settling.wait_for(name, None, since=self._clock())
            case ReportKind.APPEARED | ReportKind.COMPLETE | ReportKind.RENAMED:  # a linked file was written before
                # If it was still being written when a scan found it, this is the same picture.
                self._missed += name in self._ready and name not in self._writing and name not in self._renamed
                if kind is ReportKind.APPEARED and (self._folder / name).is_symlink():
                    self._scan_at = self._clock()  # finds that there are links, whose targets are not watched
                self._settling.drop(name)
                self._writing.discard(name)
                self._renamed.discard(name)
                self._ready.add(name, unchanged_s=0.0)
            case ReportKind.CLOSED if name not in self._ready:  # e.g. an empty file, which may be written later
                self._settling.drop(name)
                self._writing.add(name)
                self._ready.add(name, unchanged_s=0.0)
            case ReportKind.ATTRIBUTES if self._memory.is_unreadable(name):
                self._ready.add(name, unchanged_s=0.0)
            case ReportKind.ATTRIBUTES:
                self._note_restored(name)
            case ReportKind.REMOVED:
                self._lose(name)

    def _note_restored(self, name: str) -> None:
        """If a file got the time of its original back, record this, so that it is recognized after a restart too."""
        with suppress(OSError):  # a later scan sees it
            if (version := self._version(name)) is not None:
                self._memory.recognizes(SentFile(name, version))

    def _handle_rename(self, name: str, former: str) -> None:
        was_read = former not in self._vanished and not self._is_on_its_way(former)
        self._drop(former)
        if is_picture(name):
            self._handle_picture(ReportKind.RENAMED, name)
            if was_read:
                self._renamed.add(name)

    def _lose(self, name: str) -> None:
        """Drop a file that is gone. It is missed if its writer had closed it, and it was not handed out."""
        if name not in self._renamed:
            was_closed = name not in self._writing
            self._missed += (was_closed and self._is_on_its_way(name)) or name in self._vanished
        self._drop(name)

    def _drop(self, name: str) -> None:
        self._settling.drop(name)
        self._ready.drop(name)
        for names in (self._writing, self._old, self._vanished, self._renamed):
            names.discard(name)

    def _check(self, now: float) -> None:
        self._check_at = now + _CHECK_S
        if self._reports is not None and not self._reports.is_current():
            self._start_reports()
            self._scan_at = now
        if now >= self._scan_at:
            self._scan(now)
            self._scan_at = now + max(_CHECK_S, (self._clock() - now) / _SCAN_SHARE)
            if self._reports is not None and self._reports.is_current() and not self._has_links:
                self._scan_at = now + _SCAN_REPORTED_S
        for name, unchanged_s in self._settling.pop_settled(now, self._version):
            self._ready.add(name, unchanged_s=unchanged_s, is_old=name in self._old)
            self._old.discard(name)

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
            elif not isinstance(error, FileNotFoundError):  # it may be gone already
                self._notices.unreadable(under, error)
            return
        self._notices.listed(listing)
        self._has_links = listing.has_links or (bool(under) and self._has_links)
        if self._passes_over and not under:
            self._listen(0.0)  # files that came during the listing are new
            old = {name: version for name, version in listing.files.items() if not self._is_on_its_way(name)}
            for name, version in old.items():
                self._memory.hand_out(SentFile(name, version), is_broken=False)
            self._notices.only_new(len(old))
            self._passes_over = False
        files = [SentFile(name, version) for name, version in listing.files.items()]
        for file in files:
            self._see(file, now, is_reported=bool(under))
        if self._disposal is not None:  # an earlier process may have ended before it moved or deleted them
            self._leftovers.update((file.name, file) for file in files if self._memory.was_sent(file))
        if not under:
            self._has_scanned = True
            if not listing.problems:
                self._memory.forget_oldest(listing.files.keys())

    def _see(self, file: SentFile, now: float, *, is_reported: bool) -> None:
        """Wait until a file that a scan has found settles, unless it was handed out or is on its way.

        If it is in a new sub-folder (`is_reported`), it is read at once. If it has no end yet, the kernel will report
        when its writer closes it.
        """
        if self._memory.recognizes(file) or self._is_on_its_way(file.name):
            return
        if is_reported:
            self._writing.add(file.name)
            self._ready.add(file.name, unchanged_s=0.0)
            return
        if not self._has_scanned:
            self._old.add(file.name)
        # A share has another machine's times, which don't say how long ago by this clock a file was changed.
        unchanged_s = self._wall_clock() - file.version.modified_ns / 1e9 if self._is_local else 0.0
        self._settling.wait_for(file.name, file.version, since=now - max(0.0, unchanged_s))

    def _read_ready(self, limit: int) -> list[SourceFrame]:
        """Read complete files. Once a new one is read, the old ones wait, so that it can be sent at once."""
        frames: list[SourceFrame] = []
        has_new = False
        while self._ready and len(frames) < limit and (self._ready.has_new or not has_new):
            is_new = self._ready.has_new
            name, unchanged_s = self._ready.pop()
            frame = self._read(name, unchanged_s=unchanged_s)
            if frame is not None:
                frames.append(frame)
                has_new |= is_new
        return frames

    def _read(self, name: str, *, unchanged_s: float) -> SourceFrame | None:
        """Return the frame of a complete file; None if the file is gone, is known, or must be waited for."""
        try:
            version = self._version(name)
        except OSError as error:  # e.g. a share that is briefly unreachable
            self._notices.unreadable(name, error)
            self._settling.wait_for(name, None, since=self._clock())
            return None
        if version is None:
            self._vanish(name)
            return None
        file = SentFile(name, version)
        if self._memory.recognizes(file):
            self._renamed.discard(name)
            if self._memory.was_sent(file):
                self._dispose([file])  # it was renamed before it could be moved or deleted
            return None
        patience_s = SETTLE_WRITING_S if name in self._writing else SETTLE_TRUNCATED_S
        as_it_is = unchanged_s >= patience_s
        try:
            frame = self._reader.read(file, as_it_is=as_it_is)
        except FileNotFoundError:
            self._vanish(name)
            return None
        except OSError as error:
            if as_it_is:
                return self._reader.unreadable(file, error) if self._memory.note_unreadable(file) else None
            frame = None
        if frame is None:
            self._settling.wait_for(name, version, since=self._clock() - unchanged_s, settle_s=patience_s)
            return None
        self._writing.discard(name)
        is_broken = bool(frame.data) and not self._reader.is_whole(frame.data)
        self._memory.hand_out(file, is_broken=is_broken, digest=digest_of(frame.data) if frame.data else None)
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

    def _dispose(self, files: Sequence[SentFile]) -> None:
        if self._disposal is not None:
            self._memory.forget([file.name for file in files if self._disposal.dispose(file)])

    def _dispose_leftovers(self) -> None:
        """Move or delete some of the files that earlier processes have sent: there may be thousands of them."""
        until = self._clock() + _DISPOSE_S
        while self._leftovers:
            self._dispose([self._leftovers.pop(next(iter(self._leftovers)))])
            if self._clock() >= until:
                return
