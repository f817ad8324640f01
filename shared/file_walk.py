"""Lists the files in a folder, the same way for all commands: follows links, skips hidden names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def walk(top: Path, *, on_error: Callable[[OSError], None]) -> Iterator[list[Path]]:
    """Yield the files of `top` and of each folder below it, in name order, as one list per folder.

    A caller can stop after any folder. A link to a folder that contains the link is not followed.

    Args:
        top: a folder.
        on_error: called for each folder that can't be read, whose name is the error's `filename`. It may raise.
    """
    for folder, folders, files in os.walk(top, onerror=on_error, followlinks=True):
        shown = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(name for name in shown if not _links_to_parent(Path(folder, name), top))
        yield [Path(folder, name) for name in sorted(files) if not name.startswith(".")]


def _links_to_parent(folder: Path, top: Path) -> bool:
    """Whether `folder` is a link to one of the folders that contain it, up to `top`: following it would never end."""
    if not os.path.islink(folder):  # `Path.is_symlink` raises in a folder that may not be searched
        return False
    target = folder.resolve()
    return any(one.resolve().is_relative_to(target) for one in folder.parents if one.is_relative_to(top))
