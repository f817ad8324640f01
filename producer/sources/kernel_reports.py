"""The kernel's reports about a folder (inotify): which files appeared, are complete, or are gone."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from inotify_simple import Event, INotify, flags

_MOVED = flags.MOVED_FROM | flags.MOVED_TO
# MODIFY tells which closes follow a change. It also keeps the kernel from merging the closes of one file into one.
_MASK = flags.CREATE | flags.MODIFY | flags.CLOSE_WRITE | _MOVED | flags.DELETE | flags.ATTRIB
_GONE = flags.MOVED_FROM | flags.DELETE
# The two reports of a rename wait together, unless one was read just before the other was written.
_RENAME_WAIT_MS = 1
# The system's limit of watches is reached, or that of inotify instances, which count as open files.
LIMITS_REACHED = (errno.ENOSPC, errno.EMFILE)


class ReportKind(Enum):
    """What happened to a file or sub-folder."""

    APPEARED = auto()  # created, or hard-linked: a writer may be about to fill it
    COMPLETE = auto()  # closed after a change of its content, or moved into the watched folder
    CLOSED = auto()  # opened for writing and closed without a change, as `touch` does
    REMOVED = auto()  # deleted, or moved out of the watched folder
    RENAMED = auto()  # had another name (`former`) in the watched folder before
    ATTRIBUTES = auto()  # another permission, owner or time
    SUBFOLDER = auto()  # a sub-folder appeared or became readable; it is watched if sub-folders are
    SUBFOLDER_REMOVED = auto()  # with all that was in it
    SCAN_NEEDED = auto()  # reports were lost because too many waited, or the folder's permissions changed


@dataclass(frozen=True, slots=True)
class Report:
    """`name` is the path below the watched folder; empty for SCAN_NEEDED."""

    kind: ReportKind
    name: str = ""
    former: str = ""


class KernelReports:
    """Watches a folder and, with `recursive`, its sub-folders. The kernel holds some 16,000 reports that wait."""

    def __init__(self, folder: Path, *, recursive: bool, is_ignored: Callable[[str], bool]) -> None:
        """`is_ignored` says whether a sub-folder, given as its path below `folder`, is not watched."""
        self._folder = folder
        self._recursive = recursive
        self._is_ignored = is_ignored
        self._notify: INotify | None = None
        self._folders: dict[int, str] = {}
        self._watched: tuple[int, int] | None = None
        self._changed: set[str] = set()  # the content of these files has changed since they were closed last

    def start(self) -> None:
        """Watch the folder that now has this name. Files that are already there are not reported.

        Raises:
            OSError: there is no folder, or the system's limit of watches is reached.
        """
        self.close()
        stat = self._folder.stat()
        self._notify = INotify()
        try:
            self._watch("")
        except OSError:
            self.close()
            raise
        self._watched = (stat.st_dev, stat.st_ino)

    def is_current(self) -> bool:
        """Whether the folder of this name is still the watched one: not created anew, mounted over or relinked."""
        try:
            stat = self._folder.stat()
        except OSError:
            return False
        return self._watched == (stat.st_dev, stat.st_ino)

    def read(self, timeout_s: float) -> list[Report]:
        """Return the reports so far. Waits up to `timeout_s` for the first, also while there is no folder to watch.

        Raises:
            OSError: a new sub-folder can't be watched, because the system's limit of watches is reached.
        """
        if self._notify is None:
            time.sleep(timeout_s)
            return []
        events = self._notify.read(timeout=round(timeout_s * 1000))
        if events and events[-1].mask & flags.MOVED_FROM:
            events += self._notify.read(timeout=_RENAME_WAIT_MS)
        renames = {event.cookie for event in events if event.mask & flags.MOVED_TO}
        formers: dict[int, str] = {}
        return [report for event in events for report in self._reports_of(event, renames, formers)]

    def close(self) -> None:
        """Stop watching."""
        if self._notify is not None:
            self._notify.close()
        self._notify = None
        self._folders = {}
        self._watched = None
        self._changed = set()

    def _reports_of(self, event: Event, renames: Container[int], formers: dict[int, str]) -> list[Report]:
        """
        Args:
            event: from the kernel.
            renames: the cookies of the moves that end in the watched folder. A move's two events have one cookie.
            formers: the former names of the files that are being renamed, by cookie.
        """
        if event.mask & flags.Q_OVERFLOW:
            return [Report(ReportKind.SCAN_NEEDED)]
        if event.mask & flags.IGNORED:  # follows the removal of a watched folder
            if self._folders.pop(event.wd, None) == "":
                self._watched = None  # even if a new folder with the same inode has taken its place
            return []
        if event.wd not in self._folders:  # from a folder whose watch has just ended
            return []
        if not event.name:  # about a watched folder itself; a sub-folder is also reported by the folder that it is in
            return [] if self._folders[event.wd] else [Report(ReportKind.SCAN_NEEDED)]
        name = os.path.join(self._folders[event.wd], event.name)
        if event.mask & flags.ISDIR:
            return self._folder_report(name, event.mask, is_rename=event.cookie in renames)
        return self._file_report(name, event, renames, formers)

    def _file_report(self, name: str, event: Event, renames: Container[int], formers: dict[int, str]) -> list[Report]:
        """The report about a file; none for a change and the first event of a rename. Arguments as in `_reports_of`."""
        if event.mask & flags.MODIFY:
            self._changed.add(name)
            return []
        has_changed = name in self._changed
        if not event.mask & flags.ATTRIB:
            self._changed.discard(name)
        if event.mask & flags.MOVED_FROM and event.cookie in renames:
            formers[event.cookie] = name
            return []
        if event.mask & flags.MOVED_TO and event.cookie in formers:
            return [Report(ReportKind.RENAMED, name, formers[event.cookie])]
        if event.mask & flags.CLOSE_WRITE:
            return [Report(ReportKind.COMPLETE if has_changed else ReportKind.CLOSED, name)]
        if event.mask & flags.MOVED_TO:
            return [Report(ReportKind.COMPLETE, name)]
        if event.mask & flags.CREATE:
            return [Report(ReportKind.APPEARED, name)]
        if event.mask & flags.ATTRIB:
            return [Report(ReportKind.ATTRIBUTES, name)]
        return [Report(ReportKind.REMOVED, name)]

    def _folder_report(self, name: str, mask: int, *, is_rename: bool) -> list[Report]:
        if self._is_ignored(name):
            return []
        if not mask & _GONE:
            if self._recursive:
                self._watch_subfolder(name)
            return [Report(ReportKind.SUBFOLDER, name)]
        # The folder was removed, or moved together with its watches, which would go on reporting under its old name.
        for descriptor, folder in list(self._folders.items()):
            if folder == name or folder.startswith(f"{name}/"):
                del self._folders[descriptor]
                with suppress(OSError):  # the kernel has already ended the watch
                    self._notify.rm_watch(descriptor)  # type: ignore[union-attr]  # there are reports only while it is open
        return [] if is_rename else [Report(ReportKind.SUBFOLDER_REMOVED, name)]

    def _watch(self, name: str) -> None:
        """Watch a folder, then the folders in it. In this order, a folder that is created meanwhile is not missed."""
        assert self._notify is not None
        path = self._folder / name
        self._folders[self._notify.add_watch(path, _MASK | flags.ONLYDIR)] = name
        if not self._recursive:
            return
        with os.scandir(path) as entries:
            inner = [os.path.join(name, entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
        for below in inner:
            if not self._is_ignored(below):
                self._watch_subfolder(below)

    def _watch_subfolder(self, name: str) -> None:
        try:
            self._watch(name)
        except OSError as error:  # removed meanwhile, or not readable for this user
            if error.errno in LIMITS_REACHED:
                raise
