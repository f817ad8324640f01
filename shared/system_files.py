"""Names of files and folders that operating systems, storage servers and tools put among people's files.

Such a folder is not a class, and the previews in it are nobody's photographs. Every command leaves them out by name, in
folders and zips alike, counts them, and tells how many they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from shared.messages import note
from shared.printable import printable

_SHOWN = 10  # kinds in one sentence

# Compared without regard to case.
_FOLDERS = frozenset(
    {
        "__macosx",
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "@tmp",
        "#recycle",
        "#snapshot",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "found.000",
        "lost+found",
        "__pycache__",
    }
)
_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"})


def is_left_out(part: str) -> bool:
    """Whether a file or folder of this name is hidden, or the system's."""
    return part.startswith(".") or part.casefold() in _FOLDERS or part.casefold() in _FILES


def left_out_part(name: str) -> str | None:
    """The first part of a path that is left out, None if none is."""
    return next((part for part in PurePosixPath(name).parts if is_left_out(part)), None)


class LeftOut:
    """Counts what was left out, by kind: hidden names together, system names each on its own."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, part: str) -> None:
        """Count a file or folder whose name is left out."""
        self._counts["hidden (a name that begins with a dot)" if part.startswith(".") else part] += 1

    def counts(self) -> dict[str, int]:
        """How many, by kind, sorted."""
        return dict(sorted(self._counts.items()))

    def tell(self, path: Path) -> None:
        """Print on standard error what was left out of the folder or archive at `path`, if anything."""
        if self._counts:
            note(f"{printable(path)}: {describe_left_out(self.counts())}")


def describe_left_out(counts: Mapping[str, int]) -> str:
    """A sentence about what was left out, from `LeftOut.counts`."""
    shown = ", ".join(f"{printable(name)} {count:,}" for name, count in list(counts.items())[:_SHOWN])
    more = len(counts) - _SHOWN
    rest = f" and {more:,} other kinds" if more > 0 else ""
    return f"hidden files, and those of the system, left out: {shown}{rest}"
