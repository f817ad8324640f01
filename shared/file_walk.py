"""Lists the files in a folder, as all commands do: follows links, skips hidden names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk(top: Path) -> Iterator[list[Path]]:
    """The files of `top` and of each folder below it, in order; links that lead back are not followed.

    One list per folder, so that a caller can stop early.
    """
    for folder, folders, files in os.walk(top, followlinks=True):
        shown = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(name for name in shown if not _leads_back(Path(folder, name), top))
        yield [Path(folder, name) for name in sorted(files) if not name.startswith(".")]


def _leads_back(folder: Path, top: Path) -> bool:
    """Whether it is a link to a folder that contains it, on the path from `top`: following it would never end."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    return any(one.resolve().is_relative_to(target) for one in folder.parents if one.is_relative_to(top))
