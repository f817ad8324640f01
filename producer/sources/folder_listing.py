"""Lists a camera's folder: pictures with their versions, other files, and sub-folders. Called by the folder source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from producer.sources.file_version import FileVersion
from producer.sources.picture_files import is_picture


@dataclass(slots=True)
class Listing:
    """The contents of a folder; all names are paths below it.

    `files` are the pictures, in name order; `other_names` are the files that are not pictures by name. `complete` is
    False if a part of the folder could not be read.
    """

    files: dict[str, FileVersion] = field(default_factory=dict)
    other_names: list[str] = field(default_factory=list)
    subfolders: list[str] = field(default_factory=list)
    complete: bool = True


def list_folder(
    folder: Path, under: str = "", *, recursive: bool, is_ignored: Callable[[str], bool], trust_inode: bool
) -> Listing:
    """List the pictures in `folder`, or in its sub-folder `under`. Links to folders are not followed.

    Args:
        folder: the camera's folder; all names are below it.
        under: the sub-folder to list; empty: the whole folder.
        recursive: also list what is in sub-folders; otherwise only name the sub-folders.
        is_ignored: says whether a sub-folder is neither listed nor named.
        trust_inode: as in `FileVersion.of`.

    Raises:
        OSError: the folder, or the sub-folder `under`, can't be read.
    """
    listing = Listing()
    to_list = [under]
    while to_list:
        name = to_list.pop()
        try:
            entries = _entries(folder / name)
        except OSError:
            if name == under:
                raise
            listing.complete = False
            continue
        inner = list(_sort_in(entries, name, listing, trust_inode=trust_inode))
        inner = [path for path in inner if not is_ignored(path)]
        listing.subfolders += inner
        if recursive:
            to_list += reversed(inner)
    return listing


def version_of(path: Path, *, trust_inode: bool) -> FileVersion | None:
    """The version of a regular file; None if there is none at this path.

    Raises:
        OSError: the version can't be read now, for example because a share is briefly unreachable.
    """
    try:
        stat = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return FileVersion.of(stat, trust_inode=trust_inode) if S_ISREG(stat.st_mode) else None


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _sort_in(entries: list[os.DirEntry[str]], under: str, listing: Listing, *, trust_inode: bool) -> Iterator[str]:
    """Add the files to the listing, and yield the sub-folders."""
    for entry in entries:
        path = os.path.join(under, entry.name)
        try:
            if entry.is_dir(follow_symlinks=False):
                yield path
            elif not is_picture(path):
                if not entry.is_dir():  # a link to a folder
                    listing.other_names.append(path)
            else:
                stat = entry.stat()
                if S_ISREG(stat.st_mode):
                    listing.files[path] = FileVersion.of(stat, trust_inode=trust_inode)
        except FileNotFoundError:  # removed meanwhile, or a dangling link
            continue
        except OSError:  # a share that is briefly unreachable: the next scan sees the file
            listing.complete = False
