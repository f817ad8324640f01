"""Files that may still be written: each is handed on once it has not changed for long enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from producer.sources.file_version import FileVersion

# For this long an empty file is assumed to be about to be written.
SETTLE_EMPTY_S = 10.0


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """One file: its version, None if unknown; since when it has not changed, and how long that must last."""

    version: FileVersion | None
    since: float
    settle_s: float


class SettlingFiles:
    """The files of one folder that are waited for, by name. Times are those of the source's clock, seconds."""

    def __init__(self) -> None:
        self._unsettled: dict[str, _Unsettled] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._unsettled

    def wait_for(self, name: str, version: FileVersion | None, *, since: float, settle_s: float) -> None:
        """Wait for this file from now on; it has not changed since then."""
        self._unsettled[name] = _Unsettled(version, since, settle_s)

    def drop(self, name: str) -> None:
        """Wait for it no more."""
        self._unsettled.pop(name, None)

    def pop_settled(self, now: float, version_of: Callable[[str], FileVersion | None]) -> list[tuple[str, float]]:
        """The files that have settled, with how long each has been unchanged, seconds. Files that are gone are dropped.

        Args:
            now: the time.
            version_of: gives a file's version; None if it is gone. It may raise OSError: the file is looked at later.
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
                self._unsettled[name] = _Unsettled(version, now, waiting.settle_s)
            elif now - waiting.since >= max(waiting.settle_s, 0.0 if version.size_bytes else SETTLE_EMPTY_S):
                del self._unsettled[name]
                settled.append((name, now - waiting.since))
        return settled
