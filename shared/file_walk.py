"""Lists the files in a folder, the same way for all commands: follows links, skips hidden names, and never loops.

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

# Of files and folders together: more than one command can use. It bounds the memory for their names.
MAX_LISTED = 1_000_000


class TooManyFiles(OSError):
    """A folder holds more than may be listed."""


def is_hidden(name: str) -> bool:
    """Whether a name begins with a dot."""
    return name.startswith(".")


def walk(
    top: Path,
    *,
    on_error: Callable[[OSError], None],
    on_repeated: Callable[[str], None] = note,
    is_skipped: Callable[[str], bool] = is_hidden,
    on_skipped: Callable[[Path], None] = ignore,
) -> Iterator[list[Path]]:
    """Yield the files of `top` and of each folder below it, in name order, as one list per folder.

    A caller can stop after any folder. A link is not followed if it leads to a folder that was listed before, to one
    that is listed under its own name, or to one that contains the link.

    Args:
        top: a folder.
        on_error: called for each folder that can't be read, whose name is the error's `filename`, and for `top` if it
            holds more than MAX_LISTED, where the list ends. It may raise.
        on_repeated: called at the end with a sentence about the links that were not followed, if there are any.
        is_skipped: whether a file or folder of this name is left out; a folder of such a name is not read.
        on_skipped: called with each file and folder that is left out.
    """
    visits = _Visits(top, is_skipped)
    to_list = [top]
    found = 0
    while to_list:
        folder = to_list.pop()
        try:
            if not visits.is_to_list(folder):
                continue
            folders, files, skipped = _entries(folder, limit=MAX_LISTED - found, is_skipped=is_skipped)
        except OSError as error:
            on_error(error)
            continue
        found += len(folders) + len(files) + len(skipped)
        for path in skipped:
            on_skipped(path)
        yield files
        if found >= MAX_LISTED:
            why = f"it holds {MAX_LISTED:,} files and folders or more, and the rest is not listed; name its sub-folders"
            on_error(TooManyFiles(errno.EFBIG, why, os.fspath(top)))
            break
        to_list += reversed(folders)
    if visits.repeated:
        on_repeated(visits.describe())


@dataclass(slots=True)
class _Visits:
    """The folders of one walk that were listed, and the links that were not followed.

    Folders that are no links are always listed: they can't be endless, and
    some file systems give two of them one inode.
    """

    top: Path
    is_skipped: Callable[[str], bool]
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
        return any(map(self.is_skipped, target.relative_to(top).parts))  # then the walk does not come to it


def _entries(
    folder: Path, *, limit: int, is_skipped: Callable[[str], bool]
) -> tuple[list[Path], list[Path], list[Path]]:
    """The folders, the files, and what is skipped in a folder, each in name order; no more than `limit` together."""
    folders: list[Path] = []
    files: list[Path] = []
    skipped: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in itertools.islice(entries, limit):
            kept = folders if is_folder(entry) else files
            (skipped if is_skipped(entry.name) else kept).append(folder / entry.name)
    return sorted(folders, key=os.fspath), sorted(files, key=os.fspath), sorted(skipped, key=os.fspath)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; False if that can't be found out, as for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:  # whoever reads it will say why
        return False
