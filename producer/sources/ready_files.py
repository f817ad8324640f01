"""The files that are complete and wait to be read. Called by the folder source."""

from __future__ import annotations


class ReadyFiles:
    """Names of complete files, each with the seconds for which it is unchanged. New files go before old ones.

    Old files were in the folder when the camera started. If a line has a backlog, its new pictures don't wait for it.
    """

    def __init__(self) -> None:
        self._new: dict[str, float] = {}
        self._old: dict[str, float] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._new or name in self._old

    def __bool__(self) -> bool:
        return bool(self._new or self._old)

    @property
    def has_new(self) -> bool:
        """Whether a new file waits."""
        return bool(self._new)

    def add(self, name: str, *, unchanged_s: float, is_old: bool = False) -> None:
        """Add a file, or replace its seconds. One that waits keeps its place, unless it is no longer an old one."""
        if not is_old:
            self._old.pop(name, None)
            self._new[name] = unchanged_s
        elif name not in self._new:
            self._old[name] = unchanged_s

    def drop(self, name: str) -> None:
        """Remove a file, if it waits."""
        self._new.pop(name, None)
        self._old.pop(name, None)

    def pop(self) -> tuple[str, float]:
        """Remove and return the first file."""
        files = self._new or self._old
        name = next(iter(files))
        return name, files.pop(name)

    def below(self, subfolder: str) -> list[str]:
        """The files that wait in this sub-folder and in those below it."""
        return [name for name in (*self._new, *self._old) if name.startswith(f"{subfolder}/")]
