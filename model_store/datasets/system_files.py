"""Names of files and folders that operating systems, storage servers and tools put among people's files.

Such a folder is not a class, and the previews in it are not images to learn from. They are left out by name, in folders
and zips alike, and counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath

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
