"""Lists a camera's folder: pictures with their versions, other files, and sub-folders. Called by the folder source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from errno import ELOOP
from pathlib import Path
from stat import S_ISLNK, S_ISREG

from producer.sources.file_version import FileVersion
from producer.sources.picture_files import is_picture

# What has the name of a picture, and is none.
IRREGULAR = "a pipe, socket or device"
DANGLING = "a link that leads to no file"


@dataclass(slots=True)
class Listing:
    """The contents of a folder; all names are paths below it.

    `files` are the pictures, in name order; `other_names` are the files that are not pictures by name. `problems` are
    the files and sub-folders that could not be read. `unusable` are names of pictures that something else has, with
    what it is. `has_links` tells whether a picture is a link.
    """

    files: dict[str, FileVersion] = field(default_factory=dict)
    other_names: list[str] = field(default_factory=list)
    subfolders: list[str] = field(default_factory=list)
    linked_folders: list[str] = field(default_factory=list)
    problems: list[tuple[str, OSError]] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)
    has_links: bool = False


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
        except OSError as error:
            if name == under:
                raise
            if isinstance(error, FileNotFoundError):  # removed meanwhile
                continue
            listing.problems.append((name, error))
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
    except OSError as error:
        if error.errno == ELOOP:
            return None
        raise
    return FileVersion.of(stat, trust_inode=trust_inode) if S_ISREG(stat.st_mode) else None


def is_linked(path: Path) -> bool:
    """Whether this is a link, or a file that has several names (hard links); False if it is gone."""
    try:
        stat = path.lstat()
    except OSError:
        return False
    return S_ISLNK(stat.st_mode) or stat.st_nlink > 1


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
            elif entry.is_dir():
                listing.linked_folders.append(path)
            elif not is_picture(path):
                listing.other_names.append(path)
            else:
                stat = entry.stat()
                listing.has_links |= entry.is_symlink()
                if S_ISREG(stat.st_mode):
                    listing.files[path] = FileVersion.of(stat, trust_inode=trust_inode)
                else:
                    listing.unusable[path] = IRREGULAR
        except OSError as error:  # e.g. a share that is briefly unreachable: the next scan sees the file
            _add_problem(entry, path, error, listing)


def _add_problem(entry: os.DirEntry[str], path: str, error: OSError, listing: Listing) -> None:
    if isinstance(error, FileNotFoundError) or error.errno == ELOOP:
        if entry.is_symlink() and is_picture(path):  # otherwise it was removed meanwhile
            listing.unusable[path] = DANGLING
    else:
        listing.problems.append((path, error))
