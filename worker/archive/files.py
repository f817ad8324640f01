"""The files of an archive: their names, and how they are found and removed. Other files in the folder are left alone.

    <archive_dir>/2026-11-27/line-1/093005.123_<job id>_<host>.jpg     the image, as it was received
    <archive_dir>/2026-11-27/line-1/093005.123_<job id>_<host>.json    its SortResult
    <archive_dir>/.incoming/                                           files that are being written

Day and time are UTC, of the result: sorted by name, the files are in the order in which they were made.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from shared.errors import BadImage
from shared.images.formats import sniff

INCOMING = ".incoming"
RESULT_SUFFIX = ".json"
# Training finds images by these suffixes. A file of any other format was rejected, and gets `_UNKNOWN_SUFFIX`.
_IMAGE_SUFFIXES = {
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/webp": ".webp",
    "image/bmp": ".bmp",
    "image/tiff": ".tif",
}
_UNKNOWN_SUFFIX = ".bin"
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NAME = re.compile(r"(\d{6}\.\d{3}_[\w-]{1,64}_[\w.-]{1,64})\.(?:jpg|png|webp|bmp|tif|bin|json)", re.ASCII)
# Most disks give out space in blocks of this size.
_BLOCK_BYTES = 4096


class ArchivedFile(NamedTuple):
    """A file of an archive. Files sort by age; a result before its image, so that no result lacks its image."""

    day: str
    stem: str
    is_image: bool
    path: str  # there may be a million of them: Path would double the time it takes to list them
    size_bytes: int  # on the disk


def on_disk(size_bytes: int) -> int:
    """How many bytes a file of this length takes on a disk."""
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def stem_of(result: Mapping[str, Any], *, host: str) -> str:
    """The path of an image and its result, relative to the archive and without the suffix. `result`: the SortResult."""
    seconds, ms = divmod(round(result["finished_at"] * 1000), 1000)
    day, time_of_day = time.strftime("%Y-%m-%d %H%M%S", time.gmtime(seconds)).split()
    return f"{day}/{result['line']}/{time_of_day}.{ms:03}_{result['job_id']}_{host}"


def image_suffix(image: bytes) -> str:
    """The suffix by the image's first bytes."""
    try:
        return _IMAGE_SUFFIXES[sniff(image)]
    except BadImage:
        return _UNKNOWN_SUFFIX


def as_host(name: str) -> str:
    """A machine's name, made fit for the name of a file."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", name)[:64] or "unknown"


def files_in(root: Path) -> Iterator[ArchivedFile]:
    """The files of an archive, day by day from the oldest, in any order within a day. Links are not followed.

    Raises:
        OSError: `root` can't be listed. Files that another worker removes meanwhile are no error.
    """
    for day in sorted(name for name in _folders_in(root) if _DAY.fullmatch(name)):
        with contextlib.suppress(FileNotFoundError):
            for line in _folders_in(root / day):
                yield from _files_of(root / day / line, day=day)


def incoming_bytes(root: Path) -> int:
    """What the files that are being written, or were left by killed workers, take on the disk."""
    total_bytes = 0
    with contextlib.suppress(FileNotFoundError), os.scandir(root / INCOMING) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total_bytes += on_disk(entry.stat(follow_symlinks=False).st_size)
    return total_bytes


def _folders_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def _files_of(folder: Path, *, day: str) -> Iterator[ArchivedFile]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            named = _NAME.fullmatch(entry.name)
            if named is not None and entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    size_bytes = on_disk(entry.stat(follow_symlinks=False).st_size)
                    is_image = not entry.name.endswith(RESULT_SUFFIX)
                    yield ArchivedFile(day, named[1], is_image, entry.path, size_bytes)


def remove(file: ArchivedFile) -> None:
    """Remove a file, and its folders if nothing is left in them. Another worker may already have done so.

    Raises:
        OSError: it can't be removed.
    """
    path = Path(file.path)
    path.unlink(missing_ok=True)
    if file.is_image:
        with contextlib.suppress(OSError):  # not empty, most often
            path.parent.rmdir()
            path.parent.parent.rmdir()
