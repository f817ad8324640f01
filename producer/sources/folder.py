"""Uses a folder as a camera: returns its image files, each once, and only when it is completely written.

If a local process writes the files, the kernel reports when a file is closed. If they arrive through a network share,
only repeated checks show that a file has stopped growing.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from producer.sources.base import SourceFrame

log = logging.getLogger(__name__)

_SCAN_S = 0.5
# A file that is not reported as closed counts as complete when its size and time have not changed for this long.
_SETTLE_S = 1.0
# An empty file is assumed to be about to be written for this long.
_SETTLE_EMPTY_S = 10.0
# The same for a file that was reported as modified but not as closed: its writer may be pausing.
_SETTLE_WRITING_S = 30.0
# Suffixes that browsers, rsync, editors and FTP servers give to unfinished files.
_TEMPORARY_SUFFIXES = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".swp", "~")


@dataclass(frozen=True, slots=True)
class _FileState:
    """Size and time of a file at the last scan, and since when they have been the same."""

    size_bytes: int
    modified_ns: int
    since: float


class FolderSource:
    """The image files of one folder, without its subfolders: existing files in name order, then new ones when complete.

    Each file is returned once; if a name was removed and comes back, it is a new file. Hidden and temporary names are
    skipped. A file that is not an image is returned too, so that the camera can report it.
    """

    def __init__(
        self, folder: Path, *, max_image_bytes: int, clock: Callable[[], float] = time.monotonic, watch: bool = True
    ) -> None:
        """
        Args:
            folder: must exist.
            max_image_bytes: of a larger file, only this many bytes plus one are read, so that it is refused.
            clock: seconds that only grow.
            watch: use the kernel's reports too, if there are any (Linux); otherwise only scan.
        """
        self._folder = folder
        self._max_image_bytes = max_image_bytes
        self._clock = clock
        self._reports: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._states: dict[str, _FileState] = {}
        self._writing: set[str] = set()  # modified, and not closed since then
        self._taken: set[str] = set()
        self._ready: deque[str] = deque()
        self._scan_at = clock()
        self._unreachable = False
        self._observer = self._watch() if watch and sys.platform == "linux" else None

    def take(self, limit: int, timeout_s: float) -> list[SourceFrame]:
        give_up_at = self._clock() + timeout_s
        while True:
            now = self._clock()
            if now >= self._scan_at:
                self._scan(now)
                self._scan_at = now + _SCAN_S
            if self._ready:
                names = [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]
                return [self._read(name) for name in names]
            if now >= give_up_at:
                return []
            self._listen(min(give_up_at, self._scan_at) - now)

    def close(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None

    def _watch(self) -> BaseObserver | None:
        observer = Observer()
        try:
            observer.schedule(_Reporter(self._reports), str(self._folder))
            observer.start()
        except OSError as error:  # the system's limit of inotify watches
            log.warning("can't watch %s (%s): new files are found by a scan every %g s", self._folder, error, _SCAN_S)
            return None
        return observer

    def _listen(self, timeout_s: float) -> None:
        """Handle the kernel's reports; waits up to `timeout_s` for the first."""
        try:
            kind, name = self._reports.get(timeout=max(timeout_s, 0.001))
            while True:
                self._handle_report(kind, name)
                kind, name = self._reports.get_nowait()
        except queue.Empty:
            return

    def _handle_report(self, kind: str, name: str) -> None:
        match kind:
            case "modified":
                self._writing.add(name)
            case "gone":
                self._writing.discard(name)
                self._taken.discard(name)
            case "complete":
                self._writing.discard(name)
                if self._size_bytes(name):  # an empty file may be written later: the scan decides
                    self._offer(name)

    def _scan(self, now: float) -> None:
        """Check every file, and offer the complete ones. If the kernel reports nothing, only this finds files."""
        paths = self._list()
        if paths is None:  # keep the state: files that were taken must not be sent again when the folder is back
            return
        states: dict[str, _FileState] = {}
        unseen: set[str] = set()
        for path in paths:
            try:
                stat = path.stat()
            except FileNotFoundError:  # removed meanwhile
                continue
            except OSError:  # a share that is briefly unreachable: the next scan sees the file
                unseen.add(path.name)
                continue
            if not S_ISREG(stat.st_mode):
                continue
            before = self._states.get(path.name)
            same = before and (before.size_bytes, before.modified_ns) == (stat.st_size, stat.st_mtime_ns)
            state = before if before and same else _FileState(stat.st_size, stat.st_mtime_ns, now)
            states[path.name] = state
            if now - state.since >= self._settle_s(path.name, state):
                self._offer(path.name)
        self._states = states
        self._taken &= states.keys() | unseen

    def _list(self) -> list[Path] | None:
        """The folder's entries in name order; None, with a warning, while the folder is unreachable."""
        try:
            paths = sorted(self._folder.iterdir())
        except OSError as error:
            if not self._unreachable:
                log.warning("folder %s can't be read: %s. Trying again until it can.", self._folder, error.strerror)
            self._unreachable = True
            return None
        self._unreachable = False
        return paths

    def _settle_s(self, name: str, state: _FileState) -> float:
        if name in self._writing:
            return _SETTLE_WRITING_S
        return _SETTLE_S if state.size_bytes else _SETTLE_EMPTY_S

    def _offer(self, name: str) -> None:
        if name not in self._taken and not name.startswith(".") and not name.lower().endswith(_TEMPORARY_SUFFIXES):
            self._taken.add(name)
            self._ready.append(name)

    def _size_bytes(self, name: str) -> int:
        try:
            return (self._folder / name).stat().st_size
        except OSError:
            return 0

    def _read(self, name: str) -> SourceFrame:
        # Linux file names may be any bytes, but a frame_id must be UTF-8. A name has at most 255 bytes: never too long.
        printable = os.fsencode(name).decode("utf-8", "replace")
        try:
            with (self._folder / name).open("rb") as file:
                return SourceFrame(printable, printable, file.read(self._max_image_bytes + 1))
        except OSError as error:
            return SourceFrame(printable, printable, problem=f"can't be read: {error.strerror}")


class _Reporter(FileSystemEventHandler):
    """Turns watchdog's events into (kind, file name); runs in watchdog's thread."""

    def __init__(self, reports: queue.SimpleQueue[tuple[str, str]]) -> None:
        super().__init__()
        self._reports = reports

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.is_directory:
            return
        name = Path(str(event.src_path)).name
        match event.event_type:
            case "modified":
                self._reports.put(("modified", name))
            case "closed":  # after writing; closing after reading is another event
                self._reports.put(("complete", name))
            case "deleted":
                self._reports.put(("gone", name))
            case "moved":
                self._reports.put(("gone", name))
                self._reports.put(("complete", Path(str(event.dest_path)).name))
