"""Lists the files in a folder, the same way for all commands: follows links, leaves out hidden and system names, and
never loops.

Links can make a small folder endless: 22 folders, each of which holds two links to the next one, have four million
paths. So no link is followed to a folder that was listed before, and a list has a limit.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shared.messages import note
from shared.printable import printable
from shared.progress import ignore
from shared.system_files import is_left_out

# Of files and folders together: more than one command can use. It bounds the memory for their names.
MAX_LISTED = 1_000_000


class TooManyFiles(OSError):
    """A folder holds more than may be listed."""


def walk(
    top: Path,
    *,
    on_error: Callable[[OSError], None],
    on_repeated: Callable[[str], None] = note,
    on_left_out: Callable[[str], None] = ignore,
) -> Iterator[list[Path]]:
    """Yield the files of `top` and of each folder below it, in name order, as one list per folder.

    A caller can stop after any folder. A link is not followed if it leads to a folder that was listed before, to one
    that is listed under its own name, or to one that contains the link.

    Args:
        on_error: called for each folder that can't be read, whose name is the error's `filename`, and for `top` if it
            holds more than MAX_LISTED, where the list ends. It may raise.
        on_repeated: called at the end with a sentence about the links that were not followed, if there are any.
        on_left_out: called with each name that `system_files` leaves out; a folder counts once, as it is not read.
    """
    visits = _Visits(top)
    to_list = [top]
    found = 0
    while to_list:
        folder = to_list.pop()
        try:
            if not visits.is_to_list(folder):
                continue
            folders, files, left_out = _entries(folder, limit=MAX_LISTED - found)
        except OSError as error:
            on_error(error)
            continue
        found += len(folders) + len(files) + len(left_out)
        for name in left_out:
            on_left_out(name)
        yield files
        if found >= MAX_LISTED:
            on_error(_too_many(top))
            break
        to_list += reversed(folders)
    if visits.repeated:
        on_repeated(visits.describe())


def _too_many(top: Path) -> TooManyFiles:
    why = f"it holds {MAX_LISTED:,} files and folders or more, and the rest is not listed; name its sub-folders"
    return TooManyFiles(errno.EFBIG, why, os.fspath(top))


@dataclass(slots=True)
class _Visits:
    """The folders of one walk that were listed, and the links that were not followed.

    Folders that are no links are always listed: they can't be endless, and
    some file systems give two of them one inode.
    """

    top: Path
    repeated: int = 0
    _example: Path | None = None
    _seen: set[tuple[int, int]] = field(default_factory=set)

    def is_to_list(self, folder: Path) -> bool:
        """Whether to list the folder under this name.

        Raises:
            OSError: it is gone, or a folder above it may not be searched.
        """
        status = folder.stat()
        key = (status.st_dev, status.st_ino)
        is_link = folder != self.top and os.path.islink(folder)  # `Path.is_symlink` raises where it may not search
        if is_link and (key in self._seen or not self._leads_elsewhere(folder)):
            self.repeated += 1
            self._example = self._example or folder
            return False
        self._seen.add(key)
        return True

    def describe(self) -> str:
        """A sentence about the links that were not followed."""
        example = printable(self._example or self.top)
        return (
            f"{printable(self.top)}: links to folders that are listed already, or that contain the link, are not "
            f"followed: {self.repeated:,}, e.g. {example}"
        )

    def _leads_elsewhere(self, link: Path) -> bool:
        """False for a link to a folder that contains the link, or that the walk comes to without this link."""
        target, top = Path(os.path.realpath(link)), Path(os.path.realpath(self.top))
        if Path(os.path.realpath(link.parent)).is_relative_to(target):
            return False
        if not target.is_relative_to(top):
            return True
        return any(map(is_left_out, target.relative_to(top).parts))  # then the walk does not come to it


def _entries(folder: Path, *, limit: int) -> tuple[list[Path], list[Path], list[str]]:
    """The folders, the files, and the names that are left out, each in name order; no more than `limit` together."""
    folders: list[Path] = []
    files: list[Path] = []
    left_out: list[str] = []
    with os.scandir(folder) as entries:
        for entry in itertools.islice(entries, limit):
            if is_left_out(entry.name):
                left_out.append(entry.name)
            else:
                (folders if is_folder(entry) else files).append(folder / entry.name)
    return sorted(folders, key=os.fspath), sorted(files, key=os.fspath), sorted(left_out)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; False if that can't be found out, as for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:  # whoever reads it will say why
        return False
