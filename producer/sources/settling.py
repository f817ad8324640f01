"""Waits for files that may still be being written, until each has not changed for long enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from producer.sources.file_version import FileVersion

# A file that was just changed counts as complete once it has not changed for this long.
SETTLE_S = 1.0
# An empty file is assumed to be about to be written, and is waited for this long.
SETTLE_EMPTY_S = 10.0
# A closed file that is not a whole picture may have a writer that opens it again: it is given this long.
SETTLE_TRUNCATED_S = 2.0
# If the kernel will report when its writer closes it, it is given this long.
SETTLE_WRITING_S = 30.0


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """One file: its version (None if unknown), since when it is unchanged, and for how long it must be."""

    version: FileVersion | None
    since: float
    settle_s: float


class SettlingFiles:
    """The files of one folder that are waited for, by name. Times are in seconds of the source's clock."""

    def __init__(self) -> None:
        self._unsettled: dict[str, _Unsettled] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._unsettled

    def wait_for(self, name: str, version: FileVersion | None, *, since: float, settle_s: float = SETTLE_S) -> None:
        """Wait for this file, which is unchanged since the time `since`, until it has been so for `settle_s`."""
        self._unsettled[name] = _Unsettled(version, since, settle_s)

    def drop(self, name: str) -> None:
        """Stop waiting for this file."""
        self._unsettled.pop(name, None)

    def pop_settled(self, now: float, version_of: Callable[[str], FileVersion | None]) -> list[tuple[str, float]]:
        """Return the files that have settled, each with the seconds since it changed. Drops files that are gone.

        Args:
            now: the time.
            version_of: returns a file's version; None if the file is gone. If it raises OSError, the file is checked
                again at the next call.
        """
        settled = []
        for name, waiting in list(self._unsettled.items()):
            try:
                version = version_of(name)
            except OSError:
                continue
            if version is None:
                del self._unsettled[name]
            elif version != waiting.version:
                self._unsettled[name] = _Unsettled(version, now, SETTLE_S)
            elif now - waiting.since >= max(waiting.settle_s, 0.0 if version.size_bytes else SETTLE_EMPTY_S):
                del self._unsettled[name]
                settled.append((name, now - waiting.since))
        return settled
