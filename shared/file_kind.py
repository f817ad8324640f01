"""Tells folders, files and missing paths apart, or says why that is not possible.

In: a path that a user gave. Out: its kind, or OSError. `Path.is_dir` and `Path.is_file` answer False for some reasons
and raise for others, and not for the same ones in every version of Python.
"""

from __future__ import annotations

import stat
from enum import Enum, auto
from pathlib import Path


class FileKind(Enum):
    """What a path names, links followed."""

    FOLDER = auto()
    FILE = auto()
    OTHER = auto()  # e.g. a pipe or a device
    MISSING = auto()


def kind_of(path: Path) -> FileKind:
    """What is at `path`.

    Raises:
        OSError: it can't be told, e.g. because a folder above may not be searched, or because the name is too long.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return FileKind.MISSING
    if stat.S_ISDIR(mode):
        return FileKind.FOLDER
    return FileKind.FILE if stat.S_ISREG(mode) else FileKind.OTHER
